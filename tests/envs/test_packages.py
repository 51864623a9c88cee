"""Packages that programs may import: the declared ones, of the declared versions, and no others."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.envs.sandbox_support import needs_bubblewrap
from trm_envs.packages import Packages, check_pins, describe_packages, find_packages
from trm_envs.sandbox import Limits, LocalSandbox, Sandbox, SandboxUnavailable, UnsafeSandbox
from trm_envs.sandbox.package_folder import are_readable, check_probe, copied

SYMPY = f"sympy=={importlib.metadata.version('sympy')}"
NUMPY = f"numpy=={importlib.metadata.version('numpy')}"
SORTED = f"sortedcontainers=={importlib.metadata.version('sortedcontainers')}"
OTHERS = ("torch", "pip", "trm_envs", "yaml")

pytestmark = pytest.mark.filterwarnings("ignore:sandbox=unsafe")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("numpy==1", 'allowed: a list of packages with versions; give one, such as \\["numpy==2.3.5"\\]'),
        (["numpy"], r"'numpy' is not a package with a version; expected NAME==VERSION; installed is numpy=="),
        (["numpy>=2"], "'numpy>=2' is not a package with a version"),
        (["numpy==2.*"], r"'numpy==2.\*' is not a package with a version"),
        ([3], "3 is not a package with a version"),
        (["../x==1"], "is not a package with a version"),
        (["a==1", "A==2"], "a is there twice"),
        (["a-b==1", "a_b==1"], "a-b is there twice"),
        (3, "allowed: a list"),
    ],
)
def test_a_list_of_packages_that_says_no_versions_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"packages.*{message}"):
        check_pins("packages", value)


def test_a_package_that_is_not_installed_or_has_another_version_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"no-such-thing==1.0 is declared and not installed; pip install 'trm-agent"):
        find_packages(("no-such-thing==1.0",))
    with pytest.raises(ValueError, match=r"numpy==0.1 is declared, numpy==[0-9.]+ is installed; pip install numpy"):
        find_packages(("numpy==0.1",))


def test_what_a_package_needs_is_shown_with_it() -> None:
    found = find_packages((SYMPY,))
    names = {Path(entry).name for entry in found.entries}
    assert {"sympy", "mpmath"} < names
    assert "pytest" not in names
    assert found.modules == ("sympy",)


@needs_bubblewrap
@pytest.mark.parametrize("make", [LocalSandbox, UnsafeSandbox])
def test_without_packages_there_is_the_standard_library_alone(make: Callable[[], Sandbox]) -> None:
    code = "\n".join(
        f"try:\n    import {name}; print('{name}')\nexcept ModuleNotFoundError: pass" for name in (*OTHERS, "numpy")
    )
    with make() as sandbox:  # type: ignore[attr-defined]
        assert sandbox.run(f"{code}\nimport json, ctypes, sqlite3; print('done')").stdout == "done\n"
        with sandbox.session() as session:  # type: ignore[attr-defined]
            assert session.run(f"{code}\nprint('done')").stdout == "done\n"


@pytest.mark.slow
@needs_bubblewrap
@pytest.mark.parametrize("make", [LocalSandbox, UnsafeSandbox])
def test_declared_packages_can_be_imported_and_no_others(make: Callable[..., Sandbox]) -> None:
    with make(packages=find_packages((NUMPY,))) as sandbox:  # type: ignore[attr-defined]
        code = "import numpy as np; print(np.linalg.solve(np.eye(2) * 2, np.ones(2)).tolist())"
        assert sandbox.run(code, limits=Limits(wall_s=30)).stdout == "[0.5, 0.5]\n"
        for name in (*OTHERS, "sympy"):
            assert "ModuleNotFoundError" in sandbox.run(f"import {name}").stderr


@needs_bubblewrap
def test_packages_that_others_cannot_read_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trm_envs.sandbox.local import sandbox as local

    monkeypatch.setattr(local.package_folder, "are_readable", lambda entries: not entries)
    with LocalSandbox(packages=find_packages((SORTED,))) as sandbox:
        assert sandbox.run("import sortedcontainers as s; print(s.SortedList([2, 1]))").stdout == "SortedList([1, 2])\n"


def test_a_folder_that_only_its_owner_enters_is_seen_as_unreadable(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "package").mkdir(mode=0o755)
    (tmp_path / "closed" / "package" / "__init__.py").write_text("")
    packages = Packages(("package==1",), (str(tmp_path / "closed" / "package"),), ("package",))
    tmp_path.chmod(0o755)
    assert not are_readable(packages.entries)
    with copied(packages) as folder:
        assert (Path(folder) / "package" / "__init__.py").exists()
        assert are_readable([f"{folder}/package"])


def test_a_sandbox_whose_packages_differ_is_refused() -> None:
    class Other:
        stdout, stderr, message, ok = "numpy==1.0\n", "", "", True

    with pytest.raises(SandboxUnavailable, match=r"cannot be imported where programs run: found numpy==1.0"):
        check_probe(Packages((NUMPY,)), Other())  # type: ignore[arg-type]


def test_the_prompt_names_declared_packages_alone() -> None:
    assert describe_packages(()) == ""
    assert describe_packages(("a==1", "b==2.0")) == (
        "Beside the standard library these packages can be imported: a 1, b 2.0."
    )
