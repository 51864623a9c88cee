"""A command whose output nobody reads any more."""

import os
import subprocess
import sys

import pytest

from trm_agent.runs import screen
from trm_agent.runs.reader import EXIT_CODE, ended_by_reader

BOUNDS = ["bounds", "--horizon", "4", "--delta", "1e-4", "--kl-seq", "0.01"]


def ended_unread(module: str, *arguments: str) -> tuple[int, str]:
    """Return exit code and standard error of a command whose reader is gone before it writes."""
    unread, out = os.pipe()
    os.close(unread)
    with os.fdopen(out, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("trm_agent.cli", ["envs", "list"]),
        pytest.param("trm_agent.cli", BOUNDS, marks=pytest.mark.slow),
        pytest.param("trm_agent.cli", ["envs", "play", "trm/ChainMath-v0", "--solver"], marks=pytest.mark.slow),
        pytest.param("trm_agent.cli", ["train", "--cfg"], marks=pytest.mark.slow),
        pytest.param("trm_agent.train", ["--cfg"], marks=pytest.mark.slow),
    ],
)
def test_a_command_ends_without_a_word_when_its_reader_has_enough(module: str, arguments: list[str]) -> None:
    # 141 = 128 + SIGPIPE, as of a command that the signal ends
    assert ended_unread(module, *arguments) == (141, "")


def test_help_ends_without_a_word_when_its_reader_has_enough() -> None:
    # argparse swallows the broken pipe
    assert ended_unread("trm_agent.cli", "--help") == (0, "")


def test_a_pipe_that_breaks_elsewhere_is_no_reader_that_has_enough(capfd: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise BrokenPipeError("a server's socket")

    with pytest.raises(BrokenPipeError, match="a server's socket"):
        ended_by_reader(command)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_command_that_is_read_keeps_its_exit_code(code: int) -> None:
    assert ended_by_reader(lambda: code) == code != EXIT_CODE


def test_a_run_goes_on_when_nobody_reads_its_screen() -> None:
    unread, out = os.pipe()
    stream = screen.unread_stream(out)
    os.close(unread)
    print("step 1/2", file=stream)
    print("step 2/2", file=stream, flush=True)
    stream.close()
