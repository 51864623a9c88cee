"""Two ranks in processes of their own, of which one does not enter a collective: who it was, and where each is."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("verl")

from tests.end_to_end.training import REPOSITORY, environment
from tests.verl_plugin.hung_ranks import SECONDS, SERVERS_FILE
from trm_agent.runs.endings.closing import CAUSE_FILE
from trm_agent.runs.endings.explain import explain
from trm_agent.runs.endings.facts import Facts
from trm_agent.verl_plugin.driver.hung import STACKS_FILE

FACTS = Facts("a disk", "see df -h", 1 << 33, 0, "the model")


def stacks(run: Path, name: str) -> list[str]:
    """What is told of each rank."""
    text = (run / name).read_text()
    parts = text.split("rank ")
    assert [part[:1] for part in parts[1:]] == ["0", "1"], text
    return parts[1:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rank_that_does_not_come_is_named_and_all_tell_where_they_are(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.verl_plugin.hung_ranks", str(tmp_path)]
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=REPOSITORY, env=environment(), check=False
    )
    assert done.returncode == 1, done.stderr[-3000:]
    print(f"{time.monotonic() - began:.0f} s")
    cause = (tmp_path / CAUSE_FILE).read_text()
    assert cause == (
        f"the update of the policy took longer than {SECONDS:.0f} s (run.phase_timeout_s); ranks that answered: none, "
        f"that did not: 0, 1; their stacks: {STACKS_FILE}; giving up\n"
    )
    first, second = stacks(tmp_path, STACKS_FILE)
    assert first.splitlines()[0].endswith("has not answered")
    assert "in enter_the_collective" in first
    assert "in all_reduce" in first
    assert "in be_elsewhere" in second
    assert "all_reduce" not in second
    # the log has them too, and the command's last lines name the phase
    assert (tmp_path / STACKS_FILE).read_text() in done.stdout
    assert explain(cause, "", FACTS).cause == cause.rpartition(";")[0]

    # where torch gave up first: one had its exception, the other waited in a coroutine
    cause = (tmp_path / f"torch {CAUSE_FILE}").read_text()
    assert cause == (
        "saving the checkpoint: a collective took longer than actor_rollout_ref.nccl_timeout; ranks that answered: 0, "
        f"that did not: 1; their stacks: {STACKS_FILE}\n"
    )
    first, second = stacks(tmp_path, f"torch {STACKS_FILE}")
    assert "enter_the_collective" not in first
    assert "a coroutine waits:" in second
    assert "in _never" in second

    # a server's worker beside them
    told = (tmp_path / SERVERS_FILE).read_text().split("rank ")
    assert [part.partition(",")[0] for part in told] == ["", "0", "1", "server 0"]
    assert told[1].splitlines()[0].endswith("has answered")
    assert "in be_elsewhere" in told[3]
    assert "in be_elsewhere" not in told[2]
