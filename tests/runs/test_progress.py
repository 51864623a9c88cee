"""The progress of a long generation or validation on the screen."""

import io
from pathlib import Path

import pytest

from trm_agent.runs import screen
from trm_agent.runs.progress import (
    Counter,
    begin_phase,
    end_phase,
    extend_phase,
    forget_progress,
    progress_line,
    read_phase,
    tell_left,
)
from trm_agent.runs.screen import Screen


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def playing(run: Path, clock: list[float]) -> Counter:
    """A phase of eight episodes that began at 1000 s, after two of another one."""
    counter = Counter(run, lambda: clock[0])
    for _ in range(2):
        counter.add_turn(50)
        counter.add_episode()
    begin_phase(run, "validation after step 20", 8, 1000.0)
    return counter


def test_a_line_has_episodes_of_how_many_tokens_a_second_and_the_time_left(tmp_path: Path) -> None:
    counter = playing(tmp_path, [0.0])
    phase = read_phase(tmp_path)
    assert phase is not None
    assert progress_line(tmp_path, phase, 1005.0) == (
        "  validation after step 20: 0/8 episodes  0 tok/s  0:05, time left unknown"
    )
    counter.add_turn(300)
    counter.add_episode()
    counter.add_episode()
    # 300 tokens in 60 s; 2 episodes took 60 s, so that the other 6 take 180 s
    assert progress_line(tmp_path, phase, 1060.0) == (
        "  validation after step 20: 2/8 episodes  5 tok/s  1:00, 3:00 left"
    )
    end_phase(tmp_path)
    assert read_phase(tmp_path) is None


def test_a_phase_may_become_longer(tmp_path: Path) -> None:
    extend_phase(tmp_path, 4)
    assert read_phase(tmp_path) is None
    counter = playing(tmp_path, [0.0])
    counter.add_episode()
    extend_phase(tmp_path, 4)
    phase = read_phase(tmp_path)
    assert phase is not None
    assert progress_line(tmp_path, phase, 1005.0).startswith("  validation after step 20: 1/12 episodes")


def test_tasks_that_the_trainer_counts_need_no_episodes(tmp_path: Path) -> None:
    tell_left(tmp_path, 1)
    assert read_phase(tmp_path) is None
    begin_phase(tmp_path, "step 3: generation", 8, 1000.0, in_tasks=True)
    # episodes of other tasks
    Counter(tmp_path).add_episode()
    # more than the batch may be waited for
    told = []
    for left in (9, 6, 3, 3):
        tell_left(tmp_path, left)
        # tasks in place of others are not more to wait for
        extend_phase(tmp_path, 4)
        phase = read_phase(tmp_path)
        assert phase is not None
        told.append(progress_line(tmp_path, phase, 1010.0))
    # five since then took 10 s, so that three take 6 s
    assert told == [
        "  step 3: generation: 0/8 tasks  0 tok/s  0:10, time left unknown",
        "  step 3: generation: 2/8 tasks  0 tok/s  0:10, 0:30 left",
        "  step 3: generation: 5/8 tasks  0 tok/s  0:10, 0:06 left",
        "  step 3: generation: 5/8 tasks  0 tok/s  0:10, 0:06 left",
    ]
    begin_phase(tmp_path, "step 4: generation", 8, 1000.0, in_tasks=True)
    tell_left(tmp_path, 6)
    phase = read_phase(tmp_path)
    assert phase is not None
    assert progress_line(tmp_path, phase, 1010.0).endswith(" 2/8 tasks  0 tok/s  0:10, time left unknown")


def test_turns_count_before_the_first_episode_is_over_and_are_written_once_a_second(tmp_path: Path) -> None:
    clock = [0.0]
    counter = playing(tmp_path, clock)
    phase = read_phase(tmp_path)
    assert phase is not None
    for seconds in (0.4, 0.8, 1.2, 1.4):
        clock[0] = seconds
        counter.add_turn(100)
    # the last one waits for its second to be over
    assert "0/8 episodes  30 tok/s" in progress_line(tmp_path, phase, 1010.0)
    forget_progress(tmp_path)
    assert read_phase(tmp_path) is None


@pytest.mark.parametrize(("out", "shown"), [(io.StringIO(), 2), (Terminal(), 4)])
def test_a_terminal_has_one_line_rewritten_and_a_file_a_line_now_and_then(
    tmp_path: Path, out: io.StringIO, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    playing(tmp_path, [0.0])
    follower = Screen(tmp_path, out, 2, started=0.0)
    # from 20 s on; a terminal every second, a file every 25 s, the log at 120 s
    for now in (1001.0, 1019.0, 1020.0, 1020.5, 1021.0, 1022.0, 1046.0):
        follower._show_progress(now)
    follower._print("step 2/2")
    text = out.getvalue()
    assert text.count("0/8 episodes") == shown
    if out.isatty():
        assert text.count("\n") == 1
        assert text.endswith(f"\r{screen.TO_END_OF_LINE}step 2/2\n")
    else:
        assert "\r" not in text
    assert capsys.readouterr().out.count("0/8 episodes") == 1
