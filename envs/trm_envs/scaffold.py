"""Write a small package with an environment, to start from."""

import keyword
import re
import sys
from pathlib import Path

from trm_fields import refuse

_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = ["trm-agent"]

[tool.setuptools]
packages = ["{name}"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""

README = """\
# {name}

`pip install --no-deps -e .` beside trm-agent; `trm envs check {name}:{env_id}` says whether the environment keeps the
contract, `trm envs play {name}:{env_id}` plays it.
"""

INIT = '''\
"""Importing this package registers {env_id}."""

import gymnasium

gymnasium.register(id="{env_id}", entry_point="{name}.env:{kind}")
'''

ENV = '''\
"""{env_id}: add up numbers that a tool tells one by one."""

import trm_envs


class {kind}(trm_envs.ToolEnv):
    """`horizon` hidden numbers, their sum as the answer."""

    system_prompt = "Ask for the numbers, one call a turn. Give their sum as {{answer}}."

    def make_task(self) -> str:
        self.numbers_left = [int(number) for number in self.np_random.integers(1, 1000, size=self.options.horizon)]
        self.sum, self.task_key = sum(self.numbers_left), str(self.numbers_left)
        return f"What is the sum of {{len(self.numbers_left)}} numbers?"

    @trm_envs.tool
    def next_number(self) -> str:
        """Return the next number, or "no more"."""
        return str(self.numbers_left.pop(0)) if self.numbers_left else "no more"

    def score(self, answer: str) -> float:
        return float(answer.strip() == str(self.sum))

    def solution(self) -> str:
        return self.call("next_number") if self.numbers_left else self.answer(str(self.sum))
'''

TEST = """\
import pytest
from trm_envs.checker import assert_passes, check_names


@pytest.mark.parametrize("name", check_names())
def test_contract(name):
    assert_passes("{name}:{env_id}", only=[name])
"""

FILES = {
    "pyproject.toml": PYPROJECT,
    "README.md": README,
    "{name}/__init__.py": INIT,
    "{name}/env.py": ENV,
    "tests/test_{name}.py": TEST,
}


def write_package(name: str, folder: Path) -> tuple[str, list[Path]]:
    """Write the package `folder/name`.

    Args:
        name: the package's name, of small letters, digits and underscores.
        folder: the parent of the package.

    Returns:
        The id of its environment, and the files written.

    Raises:
        ValueError: if the name is not allowed.
        FileExistsError: if `folder/name` exists already.
    """
    check_name(name)
    root = folder / name
    if root.exists():
        raise FileExistsError(f"{root} is there already; choose another name, or --dir")
    kind = "".join(part.capitalize() for part in name.split("_"))
    env_id = f"{name}/{kind}-v0"
    written = []
    for pattern, template in FILES.items():
        path = root / pattern.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.format(name=name, kind=kind, env_id=env_id), encoding="utf-8")
        written.append(path)
    return env_id, written


def check_name(name: str) -> None:
    """Raise a ValueError if a package cannot have this name."""
    if not _NAME.fullmatch(name) or name.endswith("_"):
        refuse("NAME", name, "2 to 40 small letters, digits and underscores", "give one, such as my_env")
    if (
        keyword.iskeyword(name)
        or name in sys.stdlib_module_names
        or name in ("trm_envs", "trm_fields", "trm_agent", "gymnasium")
    ):
        refuse("NAME", name, "a name that no module of Python or of this project has", f"give one, such as {name}_env")
