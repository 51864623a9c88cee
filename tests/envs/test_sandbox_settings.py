"""The settings in which attacks are tried: each runs programs and sessions as the user that it names."""

import os
from pathlib import Path

import pytest

from tests.envs.sandbox_settings import Setting, setting  # noqa: F401
from tests.envs.sandbox_support import needs_bubblewrap

pytestmark = [pytest.mark.slow, needs_bubblewrap]


def test_a_setting_runs_programs_and_sessions_as_its_user(setting: Setting) -> None:  # noqa: F811
    assert setting.run("print(1)").stdout == "1\n"
    with setting.session() as session:
        session.run("x = 6")
        assert session.run("print(x * 7)").stdout == "42\n"
    owner = os.stat(f"/proc/{setting.pid}").st_uid
    assert owner == (65534 if setting.name.startswith("user") else 0)
    assert Path(setting.evaluate("import sys; value = sys.executable")).exists()
