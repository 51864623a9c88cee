"""What an environment raised in training: told with type, place and remedy, in the step and at the run's end."""

import io
import json
import time
from pathlib import Path

import pytest

from trm_agent.episode.env_runner import describe
from trm_agent.runs.folder import METRICS_FILE, STARTUP_FILE
from trm_agent.runs.raised import (
    OUTSIDE,
    RAISED_FILE,
    Raised,
    most_frequent,
    read_raised,
    run_warning,
    told_of_errors,
    write_raised,
)
from trm_agent.runs.screen import SILENT_S, Screen


def error(name: str, message: str, line: int = 7) -> str:
    return f"turn 12: env.step failed: {name}: {message} (at /my/env.py:{line} in step)"


def step(number: int, broken: float, episodes: float = 100.0) -> dict[str, float]:
    return {"step": number, "timing_s/step": 1.0, "env/scorer_errors": broken, "env/num_episodes": episodes}


def test_the_most_frequent_exception_is_that_of_type_and_place_whatever_its_message() -> None:
    errors = [
        error("ValueError", "a", 3),
        error("KeyError", "'7'"),
        error("KeyError", "'8'"),
        error("KeyError", "x", 9),
    ]
    assert most_frequent(errors) == (errors[1], 2)
    assert most_frequent(["score raised TypeError: a", "score raised TypeError: b"])[1] == 2
    assert most_frequent(["tool f returned 3"]) == ("tool f returned 3", 1)


@pytest.mark.parametrize(
    ("name", "is_outside"),
    [
        ("ConnectionError", True),
        ("ConnectionResetError", True),
        ("TimeoutError", True),
        ("ReadTimeout", True),
        ("OSError", True),
        ("gaierror", True),
        ("HTTPError", True),
        ("ValueError", False),
        ("KeyError", False),
        ("IndexError", False),
        ("FileNotFoundError", False),
    ],
)
def test_an_error_of_the_outside_has_the_remedy(name: str, is_outside: bool) -> None:
    # the type decides, and not a message that quotes one
    told = told_of_errors([error(name, "no ConnectionError here")])
    assert told.endswith(OUTSIDE) == is_outside
    assert f"{name}: no ConnectionError here (at /my/env.py:7 in step)" in told


def test_a_long_message_is_cut_and_keeps_type_and_place() -> None:
    told = told_of_errors([error("ValueError", f"{'x' * 900}\n\x1b[2J{'y' * 50}")])
    assert len(told) < 420
    assert told.isprintable()
    assert told.startswith("env.step failed: ValueError: xxx")
    assert told.endswith("(at /my/env.py:7 in step)")


def test_a_step_and_the_end_of_a_run_name_what_was_raised(tmp_path: Path) -> None:
    for number, count in ((1, 70), (2, 89)):
        write_raised(tmp_path, number, [error("KeyError", "'7'", 3)] * 2 + [error("ConnectionError", "gone")] * count)
    write_raised(tmp_path, 3, [])
    with (tmp_path / RAISED_FILE).open("a") as file:
        file.write('{"step": 4, "err')
    out = io.StringIO()
    screen = Screen(tmp_path, out, 3, started=0.0)
    rows = [step(1, 72.0), step(2, 91.0), step(3, 0.0), {"step": 0, "env/val_success/h1": 0.5}]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    screen._look()
    shown = [line for line in out.getvalue().splitlines() if "raised" in line]
    told = f"ConnectionError: gone (at /my/env.py:7 in step); {OUTSIDE}"
    assert shown == [
        f"  warning: on 72 episodes the environment raised, which scores 0; most often (70) env.step failed: {told}",
        f"  warning: on 91 episodes the environment raised, which scores 0; most often (89) env.step failed: {told}",
    ]
    assert run_warning(rows, read_raised(tmp_path))[1] == (
        "on 163 of 300 episodes (54.3 %) the environment raised, which scored 0; most often (159) env.step failed: "
        + told
    )


def test_few_exceptions_are_not_told_again_and_a_run_of_an_older_version_names_its_log() -> None:
    assert run_warning([step(1, 1.0)], {1: Raised(1, "x", 1)}) == run_warning([step(1, 0.0)], {}) == []
    assert run_warning([{"step": 1}], {}) == run_warning([], {}) == []
    assert run_warning([step(1, 2.0)], {})[1].endswith("(2.0 %) the environment raised, which scored 0; see log.txt")


def test_what_an_environment_raises_itself_is_read_as_described() -> None:
    try:
        raise ConnectionResetError(104, "reset by peer")
    except OSError as raised:
        told = told_of_errors([f"env.step failed: {describe(raised)}"])
    assert "test_raised.py:" in told
    assert told.endswith(OUTSIDE)


def test_a_long_phase_of_the_start_up_is_named_once(tmp_path: Path) -> None:
    out, now = io.StringIO(), time.time()
    screen = Screen(tmp_path, out, 1, started=now - 90)
    for phase, ago in (("driver", 80.0), ("data queue", SILENT_S + 1)):
        with (tmp_path / STARTUP_FILE).open("a") as file:
            file.write(json.dumps({"phase": phase, "time": now - ago}) + "\n")
    screen._look()
    screen._look()
    lines = out.getvalue().splitlines()
    assert [line.split(" s  ")[1] for line in lines[:2]] == ["driver ready", "data queue ready"]
    assert lines[2:] == ["     90 s  the model is loaded and the rollout engine starts, which takes longest ..."]
    for phase, ago in (("actor and rollout engine", SILENT_S - 5), ("agent loops", SILENT_S + 5)):
        with (tmp_path / STARTUP_FILE).open("a") as file:
            file.write(json.dumps({"phase": phase, "time": now - ago}) + "\n")
        screen._look()
    assert len(out.getvalue().splitlines()) == 5
