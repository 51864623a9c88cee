import json
import math
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from trm_agent.cli import main
from trm_agent.trust_region import analysis
from trm_agent.trust_region.dump import DIVERGENCES, read_dump, write_dump
from trm_agent.trust_region.settings import DumpConfig, TrmConfig


def row(log_ratios: list[float], *, reward: float = 0.0, kl: list[float] | None = None, step: int = 1) -> dict:
    """A sequence with one observation token after its first token."""
    mask = [True, False, *[True] * (len(log_ratios) - 1)]
    spread = [log_ratios[0], math.nan, *log_ratios[1:]]
    entry = {
        "step": step,
        "update": 0,
        "reward": reward,
        "accepted": True,
        "prompt_ids": [1, 2],
        "response_ids": list(range(len(mask))),
        "response_mask": mask,
        "rollout_log_probs": [-2.0 if sampled else math.nan for sampled in mask],
        "log_probs": [-2.0 + value for value in spread],
        "advantages": [1.0 if sampled else math.nan for sampled in mask],
    }
    if kl is not None:
        values = [kl[0], math.nan, *kl[1:]]
        entry |= dict.fromkeys(DIVERGENCES, values)
    return entry


def write(tmp_path: Path, rows: list[dict], settings: TrmConfig | None = None, name: str = "step_000001") -> Path:
    config = DumpConfig(directory=str(tmp_path / "rollouts"))
    write_dump(config, rows, vars(settings or TrmConfig()), name)
    return tmp_path / "rollouts"


# k2 of 0.1, 0.2, 0.3, 0.4: 0.005, 0.02, 0.045, 0.08
FOUR = [row([value, 0.0, 0.0], reward=value) for value in (0.1, 0.2, 0.3, 0.4)]


def test_a_dump_is_read_as_it_was_written(tmp_path):
    folder = write(tmp_path, [row([0.1, -0.2], reward=1.0), row([0.3])], TrmConfig(max_token_kl=0.1))
    dump = read_dump(folder)
    assert dump.response_mask.tolist() == [[True, False, True], [True, False, False]]
    assert dump.log_probs[0, [0, 2]].tolist() == pytest.approx([-1.9, -2.2])
    assert np.isnan(dump.log_probs[1, 2])
    assert dump.reward.tolist() == [1.0, 0.0]
    assert dump.settings["max_token_kl"] == 0.1
    assert dump.divergences == {}


def test_files_of_the_version_before_are_read_beside_new_ones(tmp_path):
    folder = write(tmp_path, [row([0.1]) | {"task": "t", "rejected_by": ["max"]}])
    (new,) = folder.iterdir()
    table = pyarrow.parquet.read_table(new).drop_columns(["task", "rejected_by"])
    header = json.loads(table.schema.metadata[b"trm"]) | {"version": 2}
    old = table.replace_schema_metadata({"trm": json.dumps(header)})
    pyarrow.parquet.write_table(old, folder / "step_000000.parquet")
    dump = read_dump(folder)
    assert dump.table["task"].to_pylist() == [None, "t"]
    assert dump.table["rejected_by"].to_pylist() == [None, ["max"]]


def test_the_oldest_files_make_room(tmp_path):
    config = DumpConfig(directory=str(tmp_path), max_files=2)
    for step in range(5):
        write_dump(config, [row([0.0])], {}, f"step_{step:06d}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000003.parquet", "step_000004.parquet"]


def test_acceptance_and_the_recommendation_follow_from_the_statistic(tmp_path):
    dump = read_dump(write(tmp_path, FOUR))
    batch = analysis.load(dump, TrmConfig())
    values = analysis.statistic(batch, "max", TrmConfig())
    assert values.tolist() == pytest.approx([0.005, 0.02, 0.045, 0.08], rel=1e-5)
    (point,) = analysis.curve(batch, values, [0.03])
    assert (point.acceptance, point.reward_kept, point.reward_rejected) == pytest.approx((0.5, 0.15, 0.35))
    assert analysis.recommend(values, 0.75) == pytest.approx(0.045, rel=1e-5)
    averages = analysis.statistic(batch, "avg", TrmConfig())
    assert averages.tolist() == pytest.approx([(math.expm1(v) - v) / 3 for v in (0.1, 0.2, 0.3, 0.4)], rel=1e-3)


def test_the_dump_tells_where_sampled_and_measured_divergences_disagree(tmp_path):
    rows = [row([0.0], kl=[0.001]), row([0.0], kl=[0.06]), row([0.5], kl=[0.001]), row([0.5], kl=[0.06])]
    counts = analysis.disagreement(read_dump(write(tmp_path, rows, TrmConfig(estimator="exact"))), TrmConfig())
    assert counts == {"both_keep": 1, "both_reject": 1, "only_sampled_keeps": 1, "only_sampled_rejects": 1}


def test_the_disagreement_is_with_k2_whatever_the_max_criterion_compares(tmp_path):
    # k2 of 0.1 is 0.005, within 0.05; |log rho| is not
    trm = TrmConfig(estimator="exact", max_estimator="abs_log_ratio")
    found = analysis.disagreement(read_dump(write(tmp_path, [row([0.1], kl=[0.01])], trm)), trm)
    assert found["both_keep"] == 1


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    folder = write(tmp_path, FOUR)
    assert main(["analyze", str(folder), "--threshold", "0.03", "--target", "0.75"]) == 0
    text = capsys.readouterr().out
    assert "50.0 %" in text
    assert "For an acceptance of 75 %: threshold 0.045\n" in text
    assert main(["analyze", str(folder), "--criterion", "ser", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sequences"], result["tokens"], result["criterion"]) == (4, 12, "ser")
    assert result["threshold_used"] in [point["threshold"] for point in result["curve"]]
    assert result["bounds_recommended"]["bound_unified"] <= result["mask"]["bound_unified"]


@pytest.mark.parametrize(("criterion", "is_told"), [("max", True), ("avg", True), ("ser", False)])
def test_a_threshold_beyond_what_the_paper_found_stable_is_said_to_be_no_trust_region(
    tmp_path, capsys, criterion, is_told
):
    folder = write(tmp_path, [row([0.0, -9.0])] * 4)
    assert main(["analyze", str(folder), "--criterion", criterion]) == 0
    assert ("no trust region any more" in capsys.readouterr().out) == is_told


def test_any_settings_can_be_tried_on_a_dump(tmp_path, capsys):
    folder = write(tmp_path, FOUR)

    def mask(*assignments: str) -> dict:
        assert main(["analyze", str(folder), "--json", "--set", *assignments]) == 0
        return json.loads(capsys.readouterr().out)["mask"]

    # k2: 0.005, 0.02, 0.045, 0.08; mean k3: 0.0017, 0.0071, 0.017, 0.031
    assert mask("criterion=max", "max_token_kl=0.05")["acceptance"] == 0.75
    both = mask("criterion=both", "max_token_kl=0.05", "avg_token_kl=0.01")
    assert (both["acceptance"], both["rejected_by_max"], both["rejected_by_avg"]) == (0.5, 0.25, 0.5)
    # one token of three outside in two of the sequences
    assert mask("criterion=token", "max_token_kl=0.03")["kept_tokens"] == pytest.approx(10 / 12)
    assert main(["analyze", str(folder), "--set", "criterion"]) == 2
    assert "--set: got 'criterion'; allowed: FIELD=VALUE" in capsys.readouterr().err
    assert main(["analyze", str(folder), "--set", "max_tokn_kl=1"]) == 2
    assert "did you mean 'max_token_kl'" in capsys.readouterr().err


def replace_header(file: Path, header: dict) -> None:
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"trm": json.dumps(header)}), file)


def test_what_is_no_dump_is_refused_with_the_file_and_the_field(tmp_path, capsys):
    def message(*arguments: str) -> str:
        assert main(["analyze", *arguments]) == 2
        return capsys.readouterr().err

    assert "no dump there" in message(str(tmp_path / "nothing"))
    folder = write(tmp_path, FOUR)
    file = folder / "step_000001.parquet"
    assert "criterion: got 'maximum'" in message(str(folder), "--criterion", "maximum")
    assert "estimator: got 'exact'" in message(str(folder), "--estimator", "exact")
    assert "target acceptance: got 2.0" in message(str(folder), "--target", "2")
    replace_header(file, {"format": "trm-agent rollouts", "version": 99, "settings": {}})
    assert "version 99; allowed: 'trm-agent rollouts', version 2" in message(str(folder))
    file.write_bytes(file.read_bytes()[:100])
    assert "cannot be read as parquet" in message(str(folder))


@pytest.mark.parametrize("own", ["topk", "exact", "replayed"])
def test_divergences_of_one_estimator_are_not_taken_for_those_of_another(own, tmp_path, capsys):
    # bounds of 0.01 to 0.09 around a threshold of 0.05: called exact, they would decide what they leave open
    entry = row([0.1], kl=[0.09]) | {"kl_lower": [0.01, math.nan]}
    folder = str(write(tmp_path, [entry], TrmConfig(estimator=own)))
    for asked in ("sampled", "topk", "exact", "replayed"):
        if asked in ("sampled", own):
            assert main(["analyze", folder, "--estimator", asked, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["estimator"] == asked
            continue
        assert main(["analyze", folder, "--estimator", asked]) == 2
        told = capsys.readouterr().err
        assert f"got '{asked}', but the dump's divergences are those of {own}; allowed: sampled, {own}" in told


@pytest.mark.parametrize(("own", "expected"), [("replayed", [0.0, math.inf]), ("topk", [0.0, 0.0])])
def test_of_a_token_whose_kept_set_may_be_cut_a_dump_tells_no_ratio_either(tmp_path, own, expected):
    cut = row([0.0], kl=[math.inf]) | {"kl_lower": [0.0, math.nan], "tv_lower": [0.0, math.nan]}
    dump = read_dump(write(tmp_path, [row([0.0], kl=[0.0]), cut], TrmConfig(estimator=own)))
    trm = TrmConfig(estimator=own)
    assert analysis.statistic(analysis.load(dump, trm), "ser", trm).tolist() == expected


@pytest.mark.parametrize(("value", "words"), [(0.5, "holds 0.5; allowed: at most 0"), (math.nan, "is NaN everywhere")])
def test_log_probs_that_cannot_be_are_refused(tmp_path, value, words):
    entry = row([0.0])
    entry["log_probs"] = [value, math.nan]
    with pytest.raises(ValueError, match=rf"step_000001\.parquet: log_probs of row 0 {words}"):
        read_dump(write(tmp_path, [entry]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"every": -1}, "every: got -1"), ({"max_sequences": 0}, "max_sequences"), ({"evry": 1}, "'every'")],
)
def test_settings_of_a_dump_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DumpConfig.from_mapping(settings)


def test_a_run_folder_will_do_and_rounding_recommends_no_threshold(tmp_path, capsys):
    write(tmp_path, [row([value, 0.0, 0.0]) for value in (1e-6, 2e-6, 3e-6)])
    assert main(["analyze", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "nothing to choose. Divergences up to" in told
    assert "threshold 4" not in told
    write(tmp_path, FOUR, name="step_000002")
    assert main(["analyze", str(tmp_path)]) == 0
    assert "For an acceptance of 90 %: threshold 0.08" in capsys.readouterr().out


def deep_row(power: float, number: int) -> dict:
    """600 tokens behind a prompt of 39, whose divergence is a power of the depth; the number draws their signs."""
    depths = np.arange(40, 640)
    size = 1e-2 * (depths / 100) ** (power / 2)
    entry = row((size * np.random.default_rng(number).choice([-1.0, 1.0], 600)).tolist())
    return entry | {"prompt_ids": [1] * 39}


def test_growth_with_depth_is_said_of_a_dump(tmp_path, capsys):
    for power, kind in ((0.0, "flat"), (0.8, "growing")):
        folder = write(tmp_path / kind, [deep_row(power, number) for number in range(4)])
        assert main(["analyze", str(folder), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        found = result["by_depth"]
        assert found["kind"] == kind
        assert found["slope"] == pytest.approx(power, abs=0.03)
        assert [each["tokens"] for each in found["bins"]] == [
            result["mask"][f"num_tokens_depth_{first}"] for first in (64, 128, 256, 512)
        ]
        assert main(["analyze", str(folder)]) == 0
        text = capsys.readouterr().out
        assert f"Mismatch by depth in the context: {kind}" in text
        assert "not tested" in text


def test_versions_in_a_dump_give_its_lags(tmp_path):
    # of step 3, which began with version 2; the token of the environment has none
    entry = row([0.1, 0.0, 0.0], step=3) | {"rollout_versions": [0, -1, 1, 2]}
    metrics = analysis.masked(analysis.load(read_dump(write(tmp_path, [entry])), TrmConfig()), TrmConfig())
    assert [metrics[f"tokens_lag_{lag}"] for lag in (0, 1, 2)] == pytest.approx([1 / 3] * 3)
    assert metrics["sequences_span_2"] == 1


def played_row(number: int, drawn: bool) -> dict:
    """Three tokens whose most likely alternative has a probability of 0.55, and was drawn or not."""
    entry = row([0.0, 0.0, 0.0])
    top = [(token if drawn else token + 100) if sampled else -1 for token, sampled in enumerate(entry["response_mask"])]
    log_probs = [math.log(0.55) if sampled else math.nan for sampled in entry["response_mask"]]
    record = {"task": "t", "timings": {"total": 1.0 + number}}
    return entry | {"rollout_top_ids": top, "rollout_top_log_probs": log_probs, "episode": json.dumps(record)}


@pytest.mark.parametrize("share", [0.55, 0.8])
def test_the_samplers_record_is_tested_on_a_dump(tmp_path, capsys, share):
    rows = [played_row(number, number < round(100 * share)) for number in range(100)]
    # another update holds the same episodes
    folder = write(tmp_path, rows)
    write(tmp_path, [each | {"update": 1} for each in rows], name="step_000001.update_001")
    assert main(["analyze", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sampler"]
    assert found["tokens"] == 300
    assert found["is_false"] == (share > 0.6)
    (bucket,) = found["buckets"]
    assert (bucket["low"], bucket["expected"], bucket["observed"]) == pytest.approx((0.5, 0.55, share))
    assert main(["analyze", str(folder)]) == 0
    told = "no: the most likely token was drawn more often" if share > 0.6 else "nothing speaks against it"
    assert f"Are the recorded log-probs the sampler's own? {told}" in capsys.readouterr().out


def test_a_run_that_left_episodes_out_is_shown_and_not_judged(tmp_path, capsys):
    folder = write(tmp_path, [played_row(number, True) for number in range(100)])
    (tmp_path / "config.yaml").write_text("algorithm: {filter_groups: {enable: true}}\n")
    for path in (tmp_path, folder, next(folder.iterdir())):
        assert main(["analyze", str(path)]) == 0
        text = capsys.readouterr().out
        assert "not judged: algorithm.filter_groups.enable=true" in text
        assert "100.00 %" in text
        # the bounds have seen the others alone
        assert "  algorithm.filter_groups.enable=true leaves episodes out for how they went: bound_stop" in text
