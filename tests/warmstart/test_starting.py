"""A warm start of a model with a tokenizer of its own: what is written, said and refused, and how it ends."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trm_agent import cli
from trm_agent.models.imitation import Imitation
from trm_agent.models.nano import NanoSpec, ensure_nano_model, make_model, make_tokenizer
from trm_agent.models.saving import save_model
from trm_agent.warmstart import pretrained, starting
from trm_agent.warmstart.playing import Played, at_once, play
from trm_agent.warmstart.pretrained import load_model, load_reader
from trm_agent.warmstart.spec import WarmStartSpec
from trm_agent.warmstart.starting import INTERRUPTED, REACHED, WarmStarting, facts_of

TINY = NanoSpec(hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=32, mlp_size=32)
CHAIN = "trm/ChainMath-v0"
KWARGS = {"protocol": "auto", "reveal": "stepwise"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with a chat template."""
    place = tmp_path_factory.mktemp("tiny")
    tokenizer = make_tokenizer(TINY)
    save_model(make_model(TINY, tokenizer), place)
    tokenizer.save_pretrained(place)
    return place


def warmstart(folder: Path, out: Path, *words: str) -> int:
    given = ["warmstart", "--model", str(folder), "--env", "chain_math", "--out", str(out), "--horizon", "1"]
    return cli.main([*given, "--max-steps", "3", "--tasks", "2", "--final-tasks", "2", "--batch-tokens", "200", *words])


def begun(folder: Path, **changes: Any) -> WarmStarting:
    spec = WarmStartSpec(**{"horizon": 1, "max_steps": 6, "tasks": 4, "final_tasks": 4, "batch_tokens": 200, **changes})
    model, _ = load_model(str(folder), "float32")
    return WarmStarting(model, load_reader(str(folder), KWARGS), CHAIN, None, spec)


def test_a_folder_is_written_that_loads_and_says_what_was_done(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "start"
    assert warmstart(folder, out, "--target-success", "0", "--set", "reveal=upfront", "--dtype", "bfloat16") == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{out}: all steps taken after 3 steps, ")
    assert "0 % of 2 held-out tasks at horizon 1 (95 % interval 0 to 66)" in told.out
    assert "imitates the solver of trm/ChainMath-v0 at horizons 1 " in told.err
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert tokenizer.chat_template
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert not torch.equal(model.model.embed_tokens.weight, before.model.embed_tokens.weight)
    facts = json.loads((out / "warmstart.json").read_text())
    assert facts["env"] == {"id": CHAIN, "module": None, "kwargs": {"protocol": "hermes", "reveal": "upfront"}}
    assert (facts["num_steps"], facts["tasks"], facts["successes"], facts["horizon"]) == (3, 2, 0, 1)
    assert facts["spec"]["imitate"] == [1]


def test_a_target_that_is_not_reached_is_a_failure_with_the_folder_written(
    folder: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "start"
    assert warmstart(folder, out) == 1
    told = capsys.readouterr()
    assert f"go on with --model {out}" in told.err
    assert "target not reached" in told.out
    # which goes on
    assert warmstart(out, tmp_path / "again", "--target-success", "0") == 0


def test_ctrl_c_keeps_the_average_of_the_steps_so_far(folder: Path, monkeypatch) -> None:
    starting_ = begun(folder, target_success=0.0)
    first = starting_.model.model.norm.weight.detach().clone()

    def stop(progress) -> None:
        if progress.state.step == 2:
            raise KeyboardInterrupt

    starting_.report = stop
    made: list[Imitation] = []
    monkeypatch.setattr(starting, "Imitation", lambda *given: made.append(Imitation(*given)) or made[0])
    outcome = starting_.run()
    assert (outcome.ended, outcome.progress.state.step, outcome.final) == (INTERRUPTED, 2, Played(0, 0))
    assert torch.equal(starting_.model.model.norm.weight, made[0].average["model.norm.weight"])
    assert not torch.equal(starting_.model.model.norm.weight, first)
    assert facts_of(outcome, "x", starting_.game, starting_.spec)["ended"] == INTERRUPTED


def test_it_ends_where_play_reaches_the_target_and_the_last_tasks_are_new(folder: Path, monkeypatch) -> None:
    # success is played: the model is not asked, and each task is played once
    asked: list[int] = []

    def played(model, game, seeds, sampling_seed) -> Played:
        asked.extend(seeds)
        return Played(len(seeds) // 2, len(seeds))

    monkeypatch.setattr(starting, "play", played)
    monkeypatch.setattr(starting, "_HOPELESS_NATS", math.inf)
    outcome = begun(folder, measure_every=2).run()
    assert (outcome.ended, outcome.progress.state.step) == (REACHED, 2)
    # one measurement, six between the two averages, since so few tasks are never sure, and the last
    assert asked == list(range(8 * 4))
    assert outcome.final == Played(2, 4)


def test_one_more_measurement_is_made_if_the_slowest_so_far_would_fit(folder: Path, monkeypatch) -> None:
    starting_up = begun(folder, max_seconds=100.0)
    clock = [0.0]

    def played(_: Any, __: Any, numbers: range, ___: int) -> Played:
        # the second one is twice as fast
        clock[0] += len(numbers) * (4.0 if numbers[0] == 0 else 2.0)
        return Played(1, len(numbers))

    monkeypatch.setattr(starting, "play", played)
    monkeypatch.setattr(starting.time, "monotonic", lambda: clock[0])
    for _ in range(2):
        starting_up._play(4)
    # four tasks and the last four take 32 s as the first did, 16 as the second
    for now, has_time in ((68.0, True), (69.0, False)):
        clock[0] = now
        assert starting_up._has_time() == has_time


def test_a_model_that_is_far_from_the_solver_is_not_played(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(starting, "play", lambda *_: pytest.fail("it was played"))
    starting_ = begun(folder)
    assert starting_._measure() == 0.0
    # an untrained model: about 60 tokens of ln 300 nats each
    assert starting_.progress.hint > 50


def test_limits_have_room_for_the_solver_and_little_more(folder: Path) -> None:
    limits, lengths = begun(folder, horizon=2).game.limits, begun(folder, horizon=2)
    assert limits.max_turns == 3 + 2
    assert limits.max_response_tokens < 1.6 * lengths.longest
    assert limits.max_malformed_turns == 1


def test_episodes_are_played_in_waves_that_fit_into_memory(folder: Path, monkeypatch) -> None:
    starting_ = begun(folder)
    # 2 x 1 layer x 1 head x 32 numbers of 4 bytes: 256 bytes a token
    token = 256 * starting_.game.limits.max_response_tokens
    monkeypatch.setattr("trm_agent.warmstart.playing.CACHE_BYTES", 3 * token)
    assert at_once(starting_.model, starting_.game.limits) == 3
    played = play(starting_.model, starting_.game, range(7), 0)
    assert (played.num_tasks, played.num_successes) == (7, 0)
    assert played.num_tokens >= 7


@pytest.mark.slow
def test_the_nano_model_succeeds_in_play_as_often_as_its_warm_start_measured() -> None:
    place = ensure_nano_model(NanoSpec())
    facts = json.loads((place / "nano.json").read_text())
    made = begun(place, horizon=2)
    played = play(made.model, made.game, range(200), 1)
    expected = facts["success"]["2"]
    # 64 tasks measured it exactly, 200 played have a standard error of at most 3.5 points; three of them
    assert abs(played.rate - expected) < 0.11
    assert 0.2 < expected < 0.95, "or nothing is shown"


@pytest.mark.slow
def test_adapters_are_trained_alone_and_merged(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "start"
    assert warmstart(folder, out, "--target-success", "0", "--lora-rank", "2", "--dtype", "float32") == 0
    before, after = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (folder, out))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)


def test_adapters_without_peft_are_refused(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trm_agent.warmstart.pretrained.is_installed", lambda package: package != "peft")
    assert warmstart(folder, tmp_path / "start", "--lora-rank", "4") == 2
    assert "--lora-rank: got 4; allowed: 0 where peft is not installed" in capsys.readouterr().err


def test_a_tokenizer_without_a_template_gets_one_with_tools_and_others_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    reader = load_reader(str(tmp_path / "bare"), KWARGS)
    assert "gets ChatML with tools" in reader.notes[0]
    assert reader.kwargs["protocol"] == "hermes"
    assert "<tools>" in reader.tokenizer.decode(reader.chat.prompt("a", "b", [{"type": "function"}]))
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"^--model: got .*, whose tokenizer has neither; allowed: .*<\|im_start\|>"):
        load_reader(str(tmp_path / "plain"), KWARGS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--horizon", "0"], "--horizon: got 0; allowed: a whole number of 1 or more"),
        (["--target-success", "1"], "--target-success: got 1.0; allowed: a finite number of 0 or more and below 1"),
        (["--dtype", "float8"], "--dtype: got 'float8'; allowed: `auto`, `bfloat16`, `float32`"),
        (["--env", "chain_mat"], "--env: got 'chain_mat'"),
        (["--env", "trm/ChainMat-v0"], "trm/ChainMath-v0"),
        (["--set", "revea=upfront"], "revea"),
        (["--model", "/nowhere"], "--model: got '/nowhere', whose tokenizer cannot be loaded"),
        (["--model", "nano"], "--model: got 'nano'; allowed: a pretrained model"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(folder: Path, tmp_path: Path, capsys, words, told) -> None:
    assert warmstart(folder, tmp_path / "start", *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert not (tmp_path / "start").exists()


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((4.0, 1.0), "bfloat16"), ((4.0, 3.0), "float32"), ((1.0, 4.0), "float32")]
)
def test_weights_compute_in_bfloat16_where_that_is_faster_by_far(monkeypatch, seconds, chosen) -> None:
    # a clock for four products in float32, then four in bfloat16
    ticks = [moment for each in seconds for _ in range(4) for moment in (0.0, each)]
    monkeypatch.setattr(pretrained.time, "perf_counter", lambda: ticks.pop(0))
    assert pretrained.faster_dtype("cpu") == chosen
    assert not ticks
    assert pretrained.faster_dtype("cuda") == "bfloat16"


def test_a_folder_that_holds_something_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    assert warmstart(folder, tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_horizon_beyond_the_models_context_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    assert warmstart(tmp_path, tmp_path / "start", "--horizon", "4") == 2
    assert "horizons whose solved episodes fit into 64 tokens" in capsys.readouterr().err
