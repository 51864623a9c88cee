"""One contract for every registered environment: each passes every check."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import trm_envs
from trm_envs.checker import check, check_names

ENV_IDS = trm_envs.registered_ids()
HORIZONS = (1, 4, 50)
NUM_FUZZ = 200
# What an environment cannot be made without.
NEEDS = {"trm/ReasoningGym-v0": "reasoning_gym"}
# These take seconds: each turn runs programs.
SLOW_CHECKS = {
    ("trm/CodeTests-v0", "solver:500"),
    ("trm/CodeTests-v0", "solver:50"),
    ("trm/CodeTests-v0", "close"),
    ("trm/CodeRepair-v0", "solver:500"),
    ("trm/CodeRepair-v0", "close"),
    *((f"trm/{name}-v0", "splits") for name in ("CodeTests", "CodeRepair", "PythonMath", "ComposedMath")),
}
# A stream of texts, or a process of its own, each.
SLOW_NAMES = ("fuzz:", "malformed", "fresh_process")
# Its sets are drawn and scored in processes that take seconds to start.
SLOW_IDS = {"trm/ReasoningGym-v0"}


def cases() -> list:
    """Every id with every check; the long ones are marked."""
    found = []
    for env_id in ENV_IDS:
        for name in check_names((*HORIZONS, 500)):
            is_slow = env_id in SLOW_IDS or (env_id, name) in SLOW_CHECKS or name.startswith(SLOW_NAMES)
            marks = [pytest.mark.slow] if is_slow else []
            found.append(pytest.param(env_id, name, marks=marks, id=f"{env_id}-{name}"))
    return found


@pytest.mark.parametrize(("env_id", "name"), cases())
def test_the_contract(env_id: str, name: str) -> None:
    pytest.importorskip(NEEDS.get(env_id, "gymnasium"))
    (finding,) = check(env_id, horizons=(*HORIZONS, 500), only=[name], num_fuzz=NUM_FUZZ, fuzz_budget_s=3.0)
    assert not finding.failed, finding.message
    if finding.outcome == "skipped":
        assert name.startswith("fuzz:") or "is refused" in finding.message


def test_the_package_imports_no_trainer() -> None:
    usable = [env_id for env_id in ENV_IDS if importlib.util.find_spec(NEEDS.get(env_id, "gymnasium"))]
    program = (
        f"import sys; sys.path.insert(0, {str(Path(trm_envs.__file__).parents[1])!r})\n"
        "import trm_envs, trm_envs.checker, gymnasium\n"
        f"for env_id in {usable}: gymnasium.make(env_id).reset(seed=0)\n"
        "print([name for name in ('torch', 'verl', 'vllm', 'transformers', 'trm_agent') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr
