"""`trm eval` from the command line: what it refuses before an engine starts, and what it leaves. Engines are fakes."""

import json
import os
import signal
import threading
import time
from contextlib import asynccontextmanager

import pytest

from tests.evaluate.evaluation_fakes import FakeEngine, fake_checkpoint
from trm_agent.cli import main
from trm_agent.evaluate import checks, request, store
from trm_agent.evaluate.engines import opening as engines
from trm_fields import closest

SMALL = ("--env", "chain_math", "--set", "reveal=upfront", "--horizons", "1", "2", "--tasks", "4", "--samples", "2")
CHECKPOINTS = ("before=http://one", "after=http://two")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Checkpoints and engines are fakes; everything between the arguments and the files is real."""
    settings = {"opened": [], "places": [], "delay_s": 0.0, "fails": lambda seed: False}

    def parse(text, nano=None, tokenizer=None):
        label, _, source = text.partition("=")
        if not source.startswith("http"):
            raise ValueError(f"checkpoint {source!r}: no checkpoint; {closest(source, ['http://one'])}")
        return fake_checkpoint(label)

    @asynccontextmanager
    async def open_engine(checkpoint, sampling, max_num_seqs, **_):
        settings["opened"].append(checkpoint.label)
        settings["places"].append(max_num_seqs)
        yield FakeEngine(settings["fails"], settings["delay_s"])

    monkeypatch.setattr(request, "parse_checkpoint", parse)
    monkeypatch.setattr(checks, "fingerprint", lambda checkpoint: f"hash of {checkpoint.label}")
    monkeypatch.setattr(checks, "served_context", lambda url, model: None)
    monkeypatch.setattr(checks, "load_tokenizer", lambda folder: FakeEngine().tokenizer)
    monkeypatch.setattr(engines, "open_engine", open_engine)
    monkeypatch.chdir(tmp_path)
    return settings


def test_an_evaluation_leaves_results_figures_and_plots_and_prints_a_table(fake, tmp_path, capsys):
    assert main(["eval", *CHECKPOINTS, *SMALL]) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "runs" / "eval-chain_math-001"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 4 * 2
    assert {(row["checkpoint"], row["horizon"]) for row in rows} == {
        (c, h) for c in ("before", "after") for h in (1, 2)
    }
    assert json.loads((folder / "summary.json").read_text())
    assert list((folder / "plots").glob("*.png"))
    assert len(list((folder / "episodes").glob("*.parquet"))) == 16
    assert "before" in out
    assert "after" in out
    assert "eval-chain_math-001 (new)" in err.replace("\n", " ")
    assert fake["opened"] == ["before", "after"]


@pytest.mark.slow
def test_json_is_alone_on_the_standard_output(fake, tmp_path, capsys, monkeypatch):
    # as after programs have run, in this evaluation or before it
    monkeypatch.setattr(store, "sandbox_section", lambda: {"sandbox": {"cpu": "as much as it wants"}})
    assert main(["eval", *CHECKPOINTS, *SMALL, "--out", "e", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "e" / "summary.json").read_text())
    assert printed["sandbox"] == {"cpu": "as much as it wants"}
    assert main(["eval", *CHECKPOINTS, *SMALL, "--out", "e", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert fake["opened"] == ["before", "after"]


@pytest.mark.slow
def test_an_engine_has_places_for_the_episodes_that_are_missing_and_no_more(fake, tmp_path, capsys):
    # of four tasks three, each with two samples, and then the last one
    arguments = ["eval", *CHECKPOINTS, *SMALL, "--concurrency", "5"]
    assert main([*arguments, "--limit", "3"]) == 0
    assert main(arguments) == 0
    assert fake["places"] == [5, 5, 2, 2]


@pytest.mark.slow
def test_a_limit_goes_on_to_the_whole(fake, tmp_path, capsys):
    assert main(["eval", *CHECKPOINTS, *SMALL, "--limit", "2"]) == 0
    assert "warning: --limit 2: only so many tasks" in capsys.readouterr().err
    assert len((tmp_path / "runs" / "eval-chain_math-001" / "results.jsonl").read_text().splitlines()) == 8
    assert main(["eval", *CHECKPOINTS, *SMALL]) == 0
    assert "going on: 8 of 16 episodes are there" in capsys.readouterr().err
    assert len((tmp_path / "runs" / "eval-chain_math-001" / "results.jsonl").read_text().splitlines()) == 16


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(fake, tmp_path, capsys):
    fake["delay_s"] = 0.05
    results = tmp_path / "e" / "results.jsonl"

    def interrupt():
        while not (results.exists() and results.read_text().count("\n") >= 2):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    arguments = ["eval", *CHECKPOINTS, *SMALL, "--out", "e", "--concurrency", "2"]
    assert main(arguments) == 130
    assert "episodes are in e; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "e" / "summary.json").exists()
    assert main(arguments) == 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert len({(row["checkpoint"], row["task"], row["sample"]) for row in rows}) == len(rows) == 16


@pytest.mark.slow
def test_failed_episodes_are_played_once_more_and_what_is_left_is_said(fake, tmp_path, capsys):
    seen = []

    def first_ones(seed):
        seen.append(seed)
        return seed in seen[:3]

    fake["fails"] = first_ones
    assert main(["eval", *CHECKPOINTS, *SMALL]) == 0
    err = capsys.readouterr().err
    assert "before: 3 episodes failed for reasons of the infrastructure: once more" in err
    # both checkpoints play with the same seeds
    assert "warning: 6 of 16 episodes (37.5 %) could not be played in two tries (generator_error)" in err
    assert "the same command plays them again" in err
    fake["fails"] = lambda seed: False
    assert main(["eval", *CHECKPOINTS, *SMALL]) == 0
    assert "warning" not in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["eval-chain_math-001"]


@pytest.mark.slow
def test_what_succeeds_at_the_second_try_is_no_failure(fake, capsys):
    seen = []

    def first_ones(seed):
        seen.append(seed)
        return len(seen) <= 3

    fake["fails"] = first_ones
    assert main(["eval", *CHECKPOINTS, *SMALL]) == 0
    err = capsys.readouterr().err
    assert "before: 3 episodes failed for reasons of the infrastructure: once more" in err
    assert "warning" not in err


@pytest.mark.slow
def test_an_engine_that_plays_nothing_ends_the_command(fake, capsys):
    fake["fails"] = lambda seed: True
    assert main(["eval", *CHECKPOINTS, *SMALL, "--samples", "9"]) == 1
    assert "error: before: the last 20 episodes failed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "CHECKPOINT: give at least one"),
        (("a=nowhere", *SMALL), "no checkpoint"),
        (CHECKPOINTS, "belongs to no training run"),
        ((*CHECKPOINTS, "--suite", "nano_lnog"), "did you mean 'nano_long'"),
        ((*CHECKPOINTS, "--env", "chainmath"), "did you mean 'chain_math'"),
        ((*CHECKPOINTS, "--env", "trm/ChainMat-v0"), "did you mean 'trm/ChainMath-v0'"),
        ((*CHECKPOINTS, "--env", "no_such_package:mine/Task-v0"), "no_such_package cannot be imported"),
        ((*CHECKPOINTS, "--suite", "nano_long", "--env", "chain_math"), "--suite and --env: each says what to play"),
        ((*CHECKPOINTS, "--suite", "nano_long", "--horizons", "4"), "--horizons with --suite: its tasks are fixed"),
        ((*CHECKPOINTS, "--suite", "aime25"), "give it with --rows FILE"),
        ((*CHECKPOINTS, "--env", "chain_math", "--rows", "x"), "--rows: belongs to a suite"),
        ((*CHECKPOINTS, *SMALL, "--horizons", "0"), "horizons of chain_math: got [0]"),
        ((*CHECKPOINTS, *SMALL, "--samples", "0"), "--samples: got 0"),
        ((*CHECKPOINTS, *SMALL, "--limit", "-1"), "--limit: got -1"),
        ((*CHECKPOINTS, *SMALL, "--concurrency", "0"), "--concurrency: got 0"),
        ((*CHECKPOINTS, *SMALL, "--temperature", "-1"), "temperature: got -1.0"),
        ((*CHECKPOINTS, *SMALL, "--top-p", "0"), "top_p: got 0.0"),
        ((*CHECKPOINTS, *SMALL, "--set", "revael=upfront"), "reveal"),
        ((*CHECKPOINTS, *SMALL, "--set", "reveal=sometimes"), "allowed: `stepwise`, `upfront`"),
        ((*CHECKPOINTS, *SMALL, "--set", "limits.max_trun=1"), "did you mean 'limits.max_turns'"),
        (
            (*CHECKPOINTS, *SMALL, "--set", "limits.max_prompt_tokens=9"),
            "horizon 2 --set limits.max_prompt_tokens=433",
        ),
        ((*CHECKPOINTS, *SMALL, "--set", "limits.max_turns=1"), "it takes 3 turns, 2 tool calls, "),
        (("a=http://one", "a=http://two", *SMALL), "a is there twice; name each by LABEL=SOURCE"),
        ((*CHECKPOINTS, "--validation", "nowhere"), "nowhere: no training run"),
    ],
)
def test_what_cannot_work_is_refused_before_an_engine_starts(fake, tmp_path, capsys, arguments, told):
    assert main(["eval", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert fake["opened"] == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(fake, capsys):
    assert main(["eval", *CHECKPOINTS, *SMALL, "--out", "e"]) == 0
    assert main(["eval", *CHECKPOINTS, *SMALL, "--out", "e", "--temperature", "0.5"]) == 2
    assert "sampling.temperature: 1.0 -> 0.5" in capsys.readouterr().err


def test_the_suites_are_shown(capsys):
    assert main(["eval", "--list-suites"]) == 0
    assert "nano_long (version 1)" in capsys.readouterr().out


def test_help_says_the_defaults_and_gives_examples(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = capsys.readouterr().out
    for text in ("default: 5; 1 at temperature 0", "default: 64", "trm eval runs/", "start:RUN", "token budgets"):
        assert text in shown
