"""A command that ends after its run's folder was made and before its run began."""

import argparse
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from trm_agent import train
from trm_agent.models.failure import WarmStartFailed
from trm_agent.runs.compose import compose_run

FAILED = WarmStartFailed("the warm start reached 0.00", "take more steps", ["  the solver writes 'a'"])
ARGUMENTS = argparse.Namespace(overrides=[], extend=None, cfg=False, check=False, schedule=None)


@pytest.fixture(scope="module")
def config():
    return compose_run([])


def ended(config, error: BaseException, root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of a training whose model cannot be made."""

    def fail(*_: object) -> str:
        raise error

    own = OmegaConf.merge(config, {"run": {"root": str(root)}})
    monkeypatch.setattr(train, "composed", lambda *_: own)
    monkeypatch.setattr(train, "_refuse_or_pin", lambda _: "")
    monkeypatch.setattr(train, "_suited_model", fail)
    return train.run(ARGUMENTS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FAILED, 1),
        pytest.param(RuntimeError("the solver of mine failed on seed 3"), 1, marks=pytest.mark.slow),
        pytest.param(KeyboardInterrupt(), 1, marks=pytest.mark.slow),
        pytest.param(ValueError("a limit is too small"), 2, marks=pytest.mark.slow),
        pytest.param(OSError(28, "No space left on device"), 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_is_left_of_a_run_that_did_not_begin(
    config, error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(config, error, tmp_path, monkeypatch) == code
    assert list(tmp_path.iterdir()) == []


def test_a_warm_start_that_fails_says_what_to_do_and_shows_no_traceback(
    config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(config, FAILED, tmp_path, monkeypatch)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "error: stopped before the run began: the warm start reached 0.00",
        "  the solver writes 'a'",
        "take more steps",
    ]
