"""A plan is read, nothing more: no model, no engine, no environment, no process, no file of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.evaluate.test_checkpoints import fsdp
from trm_agent.runs.compose import compose_run, plain

# what is heavy cannot be imported, and what acts is an error
BUILD = """
import importlib.abc, json, os, sys

sys.dont_write_bytecode = True
FORBIDDEN = {"torch", "vllm", "transformers", "verl", "ray", "bubblewrap"}
ACTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.mkdir", "os.rename", "os.remove",
        "socket.connect", "socket.bind"}

class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        # verl is found, for its presets, and not loaded
        if name.partition(".")[0] in FORBIDDEN - {"verl"}:
            raise ImportError(f"a plan imports {name}")

def refuse(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if event in ACTS or writes:
        raise AssertionError(f"a plan does {event} {arguments}")

sys.meta_path.insert(0, Refusing())
import gymnasium

def make(env_id, **kwargs):
    raise AssertionError(f"a plan makes {env_id}")

gymnasium.make = make
sys.addaudithook(refuse)
from trm_agent.evaluate.request import Request, build_plan

for asked in json.loads(sys.argv[1]):
    plan = build_plan(Request(**{**asked, "checkpoints": tuple(asked["checkpoints"])}))
    facts = [plan.name, [each.kind for each in plan.checkpoints], [each.num_tasks for each in plan.environments]]
    print(json.dumps(facts))
assert not FORBIDDEN & set(sys.modules), FORBIDDEN & set(sys.modules)
"""


def built(*requests: dict) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BUILD, json.dumps(requests)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training run with a checkpoint of shards."""
    folder = tmp_path / "run"
    fsdp(folder / "checkpoints" / "global_step_3" / "actor")
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    (folder / "metrics.jsonl").write_text('{"step": 3}\n')
    (folder / "config.yaml").write_text(yaml.safe_dump(plain(compose_run(["experiment=math_nano"]))))
    return folder


@pytest.mark.slow
def test_a_plan_is_built_where_nothing_can_be_made_and_no_task_drawn(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n')
    done = built(
        {"checkpoints": ["nano"], "suite": "nano_long", "limit": 7},
        {"checkpoints": [str(run), f"start:{run}"], "validation": ""},
        {"checkpoints": [str(run)], "suite": "aime25", "rows": str(rows)},
        {"checkpoints": ["nano"], "envs": ["python_math"], "tasks": 3},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        '["nano_long", ["nano"], [7]]',
        '["validation-chain_math", ["fsdp", "nano"], [256]]',
        '["aime25", ["fsdp"], [1]]',
        '["python_math", ["nano"], [3]]',
    ]
