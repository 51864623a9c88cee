"""Between plan and play: what is refused before a model is made, and that nothing is made unsaid."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluate.evaluation_fakes import FakeEngine, environment, fake_checkpoint, plan
from trm_agent.evaluate import checks, prepare
from trm_agent.evaluate.checkpoints import merging
from trm_agent.evaluate.checkpoints.source import Checkpoint, fingerprint, parse_checkpoint, tokenizer_folder
from trm_agent.evaluate.prepare import prepared, with_folder
from trm_agent.models.smollm2 import FACTS, smollm2_folder


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Nano models and merges that only write down what is asked of them; the cache is empty."""
    found = []
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "ensure_nano_model", lambda spec: found.append("nano") or tmp_path)
    monkeypatch.setattr(prepare, "merged_folder", lambda actor: found.append("merge") or tmp_path)
    monkeypatch.setattr(prepare, "world_size", lambda actor: 2)
    monkeypatch.setattr(merging, "fsdp_hash", lambda actor: "hash")
    monkeypatch.setattr(checks, "load_tokenizer", lambda folder: FakeEngine().tokenizer)
    monkeypatch.setattr(checks, "max_positions", lambda folder: None)
    monkeypatch.setattr(checks, "served_context", lambda url, model: None)
    return found


SHARDS = Checkpoint("shards", "fsdp", "run", Path("run/actor"))
NANO = Checkpoint("small", "nano", "nano")


def of(*checkpoints, **changes):
    settings = {"checkpoints": checkpoints, "fingerprints": ("",) * len(checkpoints)}
    chats = plan(chats=(checks.Chat(),) * len(checkpoints), **settings)
    return replace(chats, environments=(environment(**changes),))


def test_each_model_that_is_merged_or_made_is_said_before_it_is(made):
    said = []
    for checkpoint, word in ((SHARDS, "shards: merging 2 shards of run/actor"), (NANO, "small: making the nano model")):
        with_folder(checkpoint, lambda line: said.append((line, len(made))))
        line, num_made = said[-1]
        assert line.startswith(word)
        # the line comes first
        assert num_made == len(made) - 1
    assert made == ["merge", "nano"]
    assert len(said) == 2


def test_what_lies_there_already_is_not_said(made, tmp_path):
    said = []
    (tmp_path / "cache" / "merged" / "hash").mkdir(parents=True)
    with_folder(SHARDS, said.append)
    with_folder(replace(SHARDS, kind="huggingface"), said.append)
    with_folder(fake_checkpoint("x"), said.append)
    assert said == []


def test_what_the_solver_cannot_fit_is_refused_before_shards_are_merged(made):
    with pytest.raises(ValueError, match=r"--set limits.max_turns=4 "):
        prepared(of(SHARDS, kwargs={}, fixed_limits={"max_turns": 1}), lambda line: None)
    assert made == []


def test_a_nano_model_is_measured_when_it_is_made(made, monkeypatch):
    fits = []
    monkeypatch.setattr(prepare, "fitted", lambda plan: fits.append(list(made)) or plan)
    prepared(of(SHARDS), lambda line: None)
    prepared(of(SHARDS, NANO), lambda line: None)
    # before the first merge, and after the nano model
    assert fits == [[], ["merge", "merge", "nano"]]


def test_a_checked_plan_had_every_environment_tried_and_every_weight_hashed(made, monkeypatch):
    tried = []
    monkeypatch.setattr(checks, "check_trial", lambda trial, wording: tried.append((trial.id, len(trial.tasks))))
    monkeypatch.setattr(checks, "fingerprint", lambda checkpoint: checkpoint.label)
    two = of(SHARDS, NANO)
    two = replace(two, environments=(*two.environments, environment(name="other", horizons=(1, 4))))
    found = checks.checked(two)
    assert tried == [("trm/ChainMath-v0", 3), ("trm/ChainMath-v0", 2)]
    assert found.fingerprints == ("shards", "small")
    assert all(each.tasks_hash for each in found.environments)
    assert made == []


def test_smollm2_is_found_by_its_name_and_fetched_when_it_is_needed(made, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "ensure_smollm2", lambda say: made.append("smollm2") or tmp_path)
    checkpoint = parse_checkpoint("before=smollm2")
    assert (checkpoint.label, checkpoint.kind, checkpoint.path) == ("before", "smollm2", None)
    assert tokenizer_folder(checkpoint) is None
    # known before it is there
    assert fingerprint(checkpoint) == smollm2_folder().name
    assert made == []
    found = with_folder(checkpoint)
    # the path goes into config.yaml, where a report finds the tokenizer
    assert (found.folder, found.path, made) == (tmp_path, tmp_path, ["smollm2"])
    smollm2_folder().mkdir(parents=True)
    (smollm2_folder() / FACTS).write_text("{}")
    assert tokenizer_folder(checkpoint) == smollm2_folder()
