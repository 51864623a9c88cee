"""A bar in a file is whole lines; on a terminal it moves."""

import io

import pytest
from tqdm import tqdm

from trm_agent.evaluate.progress import Progress
from trm_agent.models.bars import bar_options


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_in_a_file_is_a_line_for_each_state() -> None:
    out = io.StringIO()
    with tqdm(total=3, **{**bar_options(out), "mininterval": 0.0}) as bar:
        for step in range(3):
            bar.set_postfix_str(f"loss {step}", refresh=False)
            bar.update()
        bar.write("a note", file=out)
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue()
    assert "a note" in lines
    assert [line for line in lines if "loss 1" in line]
    assert all(line == line.strip() != "" for line in lines)


def test_a_bar_on_a_terminal_moves_on_one_line() -> None:
    out = FakeTerminal()
    with tqdm(total=3, **{**bar_options(out), "mininterval": 0.0}) as bar:
        bar.update()
        assert out.getvalue().count("\r") >= 2
        assert "\n" not in out.getvalue()


@pytest.mark.parametrize(("out", "has_returns"), [(io.StringIO(), False), (FakeTerminal(), True)])
def test_the_progress_of_an_evaluation_does_likewise(out: io.StringIO, has_returns: bool) -> None:
    progress = Progress("step 40", [], 2, out)
    progress.add({"success": True, "stop_reason": "terminated"})
    progress.close()
    assert ("\r" in out.getvalue()) == has_returns
    assert "success 100.0 %" in out.getvalue()
