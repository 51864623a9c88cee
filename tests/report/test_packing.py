"""Codes, packed episodes, rows of files."""

import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.report.synthetic import ALPHA, END, GAMMA, LINE, episode_row, write_evaluation, write_rows, write_run
from trm_agent.report import codec
from trm_agent.report.divergences import measure
from trm_agent.report.episodes import pack_episodes, turns
from trm_agent.report.rows import groups_of, read_rows
from trm_agent.report.sources import open_sources
from trm_agent.report.spacing import spaced
from trm_agent.report.vocabulary import Vocabulary


def one_row(tmp_path, row, **settings):
    write_rows(tmp_path, [row], "step_000001", **settings)
    return next(read_rows(tmp_path / "step_000001.parquet"))


def packed_run(folder, limit=100):
    texts: dict[int, str] = {}
    packed = pack_episodes(open_sources([folder]), limit, texts.__setitem__)
    return packed, texts


def bounds(found):
    return [(turn["start"], turn["stop"], turn["observation_stop"]) for turn in found]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_code_is_within_its_error_and_keeps_the_sign(bits: int, signed: bool) -> None:
    low, high = codec.SIGNED if signed else codec.POSITIVE
    values = np.geomspace(low, high, 10_001)
    values = np.concatenate([values, -values]) if signed else values
    restored = codec.restore(codec.quantise(values, bits, signed), bits, signed)
    errors = np.abs(restored / values - 1)
    assert errors.max() <= codec.max_error(bits, signed) * (1 + 1e-9)
    # the stated error is no loose one
    assert errors.max() > 0.9 * codec.max_error(bits, signed)


@pytest.mark.parametrize("bits", [8, 16])
def test_zero_the_ends_and_what_is_not_finite_survive(bits: int) -> None:
    values = np.array([0.0, 1e-30, 1e30, np.inf, np.nan])
    assert codec.restore(codec.quantise(values, bits), bits) == pytest.approx(
        [0.0, 0.0, codec.POSITIVE[1], np.nan, np.nan], nan_ok=True
    )
    signed = codec.restore(codec.quantise(np.array([-1e30, -0.0, -np.inf]), bits, signed=True), bits, signed=True)
    assert signed == pytest.approx([-codec.SIGNED[1], 0.0, np.nan], nan_ok=True)


def test_packing_gives_back_header_and_arrays_of_every_type() -> None:
    arrays = {
        "a": np.array([1, 255], np.uint8),
        "b": np.array([65535], np.uint16),
        "c": np.array([2**31], np.uint32),
        "d": np.array([1.5, np.nan], np.float32),
        "e": np.zeros(0, np.uint8),
    }
    header, found = codec.unpack(codec.pack({"name": "ä</script>"}, arrays))
    assert header == {"name": "ä</script>"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_a_vocabulary_numbers_tokens_by_first_use_and_takes_large_ids() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.indices(np.array([7, 3, 7])).tolist() == [0, 1, 0]
    assert vocabulary.indices(np.array([151_935, 3])).tolist() == [2, 1]
    with pytest.raises(ValueError, match="-1"):
        vocabulary.indices(np.array([-1]))


def test_a_packed_episode_has_its_tokens_turns_and_exact_violations(tmp_path) -> None:
    # 8 tokens of the model; k2 of log ratio 0.4 is 0.08 > 0.05, of 0.3 0.045
    row = episode_row(log_ratios=[0.1, 0.4, 0.3, 0, 0, -0.4, 0, 0])
    packed, texts = packed_run(write_run(tmp_path / "run", [row]))
    header, arrays = codec.unpack(texts[0])
    vocabulary = packed.vocabularies[0]._ids
    ids = [vocabulary[index] for index in arrays["ids"]]
    assert ids == row["prompt_ids"] + row["response_ids"]
    assert arrays["violations"].tolist() == [1, 5]
    assert header["runs"] == [0, 4, 6, 10]
    assert [(turn["start"], turn["stop"], turn["observation_stop"]) for turn in header["turns"]] == [
        (0, 4, 6),
        (6, 10, 10),
    ]
    exact = dict(zip(arrays["exact_at"].tolist(), arrays["exact_value"].tolist(), strict=True))
    assert exact[1] == pytest.approx(0.4**2 / 2, rel=1e-6)
    ratios = codec.restore(arrays["ratio"], packed.bits, signed=True)
    assert ratios == pytest.approx([0.1, 0.4, 0.3, 0, 0, -0.4, 0, 0], rel=codec.max_error(16, signed=True), abs=1e-6)
    index = packed.index
    assert (index["violations"], index["horizon"], index["stop"], index["turns"]) == ([2], [2], ["terminated"], [2])
    assert index["worst"][0] == pytest.approx(0.08, rel=1e-4)


def test_measured_divergences_decide_before_sampled_ones(tmp_path) -> None:
    kl = [0.0, 0.06, 0.05, 0.0, 0.0, 0.0, math.inf, 0.0]
    row = one_row(tmp_path, episode_row(log_ratios=[1.0] * 8, kl=kl), estimator="exact")
    measured = measure(row)
    assert measured.kind == "measured"
    # 0.05 itself is inside; what is not finite is outside
    assert np.flatnonzero(measured.violates).tolist() == [1, 6]


def test_undecided_tokens_violate_only_if_they_are_rejected(tmp_path) -> None:
    entry = episode_row(kl=[0.0] * 8)
    mask = np.asarray(entry["response_mask"])
    upper = np.full(len(mask), np.nan)
    upper[mask] = [0.09, *[0.0] * 7]
    entry["kl_upper"] = upper.tolist()
    rejecting = measure(one_row(tmp_path / "r", entry, estimator="topk", undecided="reject"))
    accepting = measure(one_row(tmp_path / "a", entry, estimator="topk", undecided="accept"))
    assert (rejecting.violates.sum(), accepting.violates.sum()) == (1, 0)


def test_an_episode_without_a_trainer_is_coloured_by_its_surprise(tmp_path) -> None:
    measured = measure(one_row(tmp_path, episode_row(trainer=False)))
    assert measured.kind == "surprise"
    assert measured.value.tolist() == [0.5] * 8
    assert not measured.violates.any()


def test_turns_follow_from_the_mask_where_there_is_no_record(tmp_path) -> None:
    row = one_row(tmp_path, episode_row(record=False, turns=3))
    assert row.record == {}
    assert [(turn["start"], turn["stop"], turn["observation_stop"]) for turn in turns(row)] == [
        (0, 4, 6),
        (6, 10, 12),
        (12, 16, 16),
    ]


def test_files_of_the_first_version_have_no_record(tmp_path) -> None:
    write_rows(tmp_path, [episode_row()], "step_000001")
    file = tmp_path / "step_000001.parquet"
    table = pyarrow.parquet.read_table(file)
    header = json.loads(table.schema.metadata[b"trm"]) | {"version": 1}
    table = table.drop_columns(["episode"]).replace_schema_metadata({"trm": json.dumps(header)})
    pyarrow.parquet.write_table(table, file)
    row = next(read_rows(file))
    assert row.record == {}
    assert row.response_ids.tolist() == episode_row()["response_ids"]


def test_only_the_wanted_rows_are_read_in_order(tmp_path) -> None:
    rows = [episode_row(seed=seed, answer=[ALPHA] * (seed % 3 + 1) + [END]) for seed in range(50)]
    write_rows(tmp_path, rows, "step_000001")
    file = tmp_path / "step_000001.parquet"
    assert len(groups_of(file)) == 50
    found = list(read_rows(file, {3, 17, 40}))
    assert [row.number for row in found] == [3, 17, 40]
    for row in found:
        assert row.response_ids.tolist() == rows[row.number]["response_ids"]
        assert row.record["seed"] == row.number


def test_of_too_many_episodes_evenly_spaced_ones_are_taken(tmp_path) -> None:
    folder = write_run(tmp_path / "run", [episode_row(seed=seed) for seed in range(40)])
    packed, texts = packed_run(folder, limit=5)
    assert packed.available == 40
    assert packed.index["seed"] == [0, 10, 20, 29, 39]
    assert sorted(texts) == [0, 1, 2, 3, 4]


def test_of_too_many_episodes_whole_groups_are_taken(tmp_path) -> None:
    rows = [episode_row(seed=seed) | {"task": f"t{seed // 4}"} for seed in range(40)]
    packed, _ = packed_run(write_run(tmp_path / "run", rows), limit=13)
    assert packed.available == 40
    # three groups of four: the first, the fifth (0, 4.5, 9: half to even) and the last
    assert packed.index["seed"] == [*range(4), *range(16, 20), *range(36, 40)]
    assert packed.index["sample"] == [1, 2, 3, 4] * 3


@pytest.mark.parametrize(
    ("groups", "limit", "chosen"),
    [
        (["a", "b", "a", "b"], 4, [0, 1, 2, 3]),
        (["a", "b", "a", "b"], 3, [0, 2]),
        (["a", "a", "a", None], 2, [0, 1]),
        ([None, "a", None, "a"], 0, []),
        # the long group does not fit beside the first episode
        ([None, None, "a", "a", "a"], 3, [0]),
    ],
)
def test_groups_are_cut_only_where_one_alone_is_too_long(groups, limit: int, chosen: list[int]) -> None:
    assert spaced(groups, limit) == chosen


def test_a_broken_file_and_a_foreign_one_are_named_and_the_others_shown(tmp_path) -> None:
    folder = write_run(tmp_path / "run", [episode_row()])
    good = folder / "rollouts" / "step_000001.update_000.rank_000.parquet"
    (folder / "rollouts" / "step_000002.parquet").write_bytes(good.read_bytes()[:500])
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), folder / "rollouts" / "step_000003.parquet")
    packed, texts = packed_run(folder)
    assert len(texts) == 1
    assert [("step_000002" in note, "step_000003" in note) for note in packed.notes] == [(True, False), (False, True)]


def test_a_record_whose_turns_do_not_fit_is_named_and_left_out(tmp_path) -> None:
    bad = episode_row(turns=1, answer=[GAMMA, LINE])
    bad["episode"] = json.dumps({"turns": [{"start": 0, "stop": 99}]})
    packed, texts = packed_run(write_run(tmp_path / "run", [episode_row(), bad]))
    assert len(texts) == 1
    assert "row 1" in packed.notes[0]


def test_many_tokens_are_packed_with_fewer_bits(tmp_path, monkeypatch) -> None:
    folder = write_run(tmp_path / "run", [episode_row()])
    monkeypatch.setattr("trm_agent.report.episodes.MANY_TOKENS", 5)
    assert packed_run(folder)[0].bits == 8


def test_episodes_of_an_evaluation_are_named_by_checkpoint_task_and_sample(tmp_path) -> None:
    packed, _ = packed_run(write_evaluation(tmp_path / "eval"))
    assert packed.index["id"] == ["a · chain · task 0 · sample 0"]
    assert packed.index["accepted"] == [None]
    assert packed.settings[0]["kind"] == "surprise"
