"""What the machine has once, and what no ordinary program calls, is out of reach in every setting."""

import dataclasses
import platform

import pytest

from tests.envs.sandbox_attacks_syscalls import ATTACKS, OTHER_WAYS
from tests.envs.sandbox_settings import Setting, setting  # noqa: F401
from tests.envs.sandbox_support import TIGHT

pytestmark = pytest.mark.slow
ROOMY = dataclasses.replace(TIGHT, wall_s=10.0)


def test_what_the_machine_has_once_is_refused(setting: Setting) -> None:  # noqa: F811
    results = {name: setting.run(code, limits=ROOMY) for name, (code, _) in ATTACKS.items()}
    found = {name: (result.stdout, result.stderr) for name, result in results.items()}
    assert found == {name: (expected, "") for name, (_, expected) in ATTACKS.items()}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86-64")
def test_no_other_way_into_the_kernel_is_open(setting: Setting) -> None:  # noqa: F811
    results = {name: setting.run(code, limits=ROOMY) for name, (code, *_) in OTHER_WAYS.items()}
    found = {name: (result.return_code, result.stdout) for name, result in results.items()}
    assert found == {name: (return_code, printed) for name, (_, return_code, printed) in OTHER_WAYS.items()}
