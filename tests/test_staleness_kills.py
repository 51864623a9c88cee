"""How `benchmarks.staleness` tells the phase of a run and kills it there; nothing here trains."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.staleness_job import Kill
from benchmarks.staleness_kills import Phases, resumed_after, weight_buffers
from trm_agent.runs.progress import begin_phase, end_phase


def dump(run: Path, update: int) -> None:
    (run / "rollouts").mkdir(exist_ok=True)
    (run / "rollouts" / f"step_000004.update_00{update}.rank_000.parquet").touch()


def test_the_phase_of_a_step_is_read_from_the_files_of_the_run(tmp_path, monkeypatch):
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr("benchmarks.staleness_kills.SHARED_MEMORY", memory)
    phases = Phases(tmp_path, each_update_waits=False)
    found = [phases.look(100.0)]
    # the row of the fourth step is not whole
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 3}\n{"step": 4')
    begin_phase(tmp_path, "step 4: generation", 16, 99.9)
    found += [phases.look(100.0), phases.look(101.0)]
    end_phase(tmp_path)
    found.append(phases.look(101.0))
    for update in (0, 1):
        dump(tmp_path, update)
        found.append(phases.look(101.0))
    (tmp_path / "checkpoints" / "global_step_4").mkdir(parents=True)
    found.append(phases.look(101.0))
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")
    found.append(phases.look(101.0))
    (memory / "verl_weights_0a1b").touch()
    found.append(phases.look(101.0))
    told = ["", "", "sampling", "", "update", "", "saving", "", "synchronisation"]
    assert found == [(1, ""), *((4, phase) for phase in told[1:])]


def test_where_each_update_waits_the_second_has_begun_only_after_that(tmp_path):
    phases = Phases(tmp_path, each_update_waits=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    begin_phase(tmp_path, "step 4: generation", 16, 99.0)
    found = [phases.look(100.0)]
    end_phase(tmp_path)
    found.append(phases.look(100.0))
    dump(tmp_path, 0)
    # the end of the first update
    found.append(phases.look(100.0))
    # seen, if not for long enough to be killed in
    begin_phase(tmp_path, "step 4: generation for update 2", 8, 100.0)
    found.append(phases.look(100.1))
    end_phase(tmp_path)
    found.append(phases.look(100.2))
    dump(tmp_path, 1)
    found.append(phases.look(100.3))
    assert found == [(4, phase) for phase in ("sampling", "", "", "", "update", "")]


def test_a_buffer_counts_while_a_process_of_the_run_holds_it(tmp_path):
    lines = "7f0 rw-s 00:19 /dev/shm/verl_weights_0a\n7f1 rw-s 00:19 /dev/shm/verl_weights_0b (deleted)\n"
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "maps").write_text(lines)
    (tmp_path / "verl_weights_0a").touch()
    assert weight_buffers([7, 8], tmp_path, tmp_path) == {"verl_weights_0a"}
    assert weight_buffers([8], tmp_path, tmp_path) == set()


def test_how_a_run_went_on_is_read_from_its_folder(tmp_path):
    rows = '{"after_step": 2, "time": 1.0}\n'
    (tmp_path / "resumes.jsonl").write_text(rows)
    assert resumed_after(tmp_path, 3, 1) == Kill(3, 2, 1)
    (tmp_path / "resumes.jsonl").write_text(rows * 2)
    with pytest.raises(ValueError, match="got 2 resumptions"):
        resumed_after(tmp_path, 3, 1)


# a run that saves in no time but in its fourth step, with a child that left it
PRETENDER = """
import json, subprocess, sys, time
from pathlib import Path
run = Path(sys.argv[1])
saved = run / "checkpoints"
saved.mkdir(parents=True)
subprocess.Popen(["sleep", "100"], start_new_session=True)
for step in range(1, 9):
    (saved / f"global_step_{step}").mkdir()
    time.sleep(0.03 if step != 4 else 100)
    (saved / "latest_checkpointed_iteration.txt").write_text(str(step))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
"""
KILLING = """
import sys, time
from pathlib import Path
from benchmarks import staleness_kills
from benchmarks.peers_watch import descendants
folder = Path(sys.argv[1])
command = [sys.executable, "-c", sys.argv[2], str(folder / "run")]

def look_for_survivors(strangers):
    until = time.monotonic() + 5
    while (left := descendants()) and time.monotonic() < until:
        time.sleep(0.02)
    print(len(left), "left", end=" ")

staleness_kills.FIRST, staleness_kills.end_all = 4, look_for_survivors
phases = staleness_kills.Phases(folder / "run", each_update_waits=False)
print(staleness_kills.kill_in_phase("saving", command, phases, folder / "log.txt", 60))
"""


def test_a_run_is_killed_with_all_its_processes_in_the_phase(tmp_path):
    # in a process of its own, which becomes the parent of what the run leaves
    asked = [sys.executable, "-c", KILLING, str(tmp_path), PRETENDER]
    root = Path(__file__).parents[1]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=root, timeout=110)
    assert (done.stdout, done.stderr) == ("0 left (4, 0)\n", "")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
