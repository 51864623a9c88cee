"""Host files that a call sees: the system's libraries, one interpreter without its surroundings, packages."""

import glob
import os
import sys
from collections.abc import Sequence

from trm_envs.sandbox.interface import SandboxUnavailable
from trm_envs.sandbox.local import libraries

PACKAGES = "/opt/packages"
"""Folder in which programs find the declared packages."""
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
_HIDDEN = ("/tmp/", "/dev/", "/proc/")  # by what each call has of its own


def arguments(python: str, packages: Sequence[str] = ()) -> list[str]:
    """Return bubblewrap's arguments that show the system, the interpreter and the packages, read-only."""
    args = []
    for path in _SYSTEM:
        if os.path.islink(path):
            args += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            args += ["--ro-bind", path, path]
    for path in () if _in_system(python) else parts(python):
        args += ["--ro-bind", path, path]
    for entry in packages:
        args += ["--ro-bind", entry, f"{PACKAGES}/{os.path.basename(entry)}"]
    return args


def parts(python: str) -> list[str]:
    """Return what an interpreter outside of the system's folders needs of its prefix, and nothing beside it.

    That is its program, its lib/python3.x, and the libraries that these load from where they or their files say.
    """
    versions = _versions(python)
    modules = [path for folder in versions for path in glob.glob(f"{glob.escape(folder)}/lib-dynload/*.so")]
    own = os.path.join(os.path.dirname(os.path.dirname(python)), "lib")
    loaded = libraries.closure([python, *modules], [own])
    inside = tuple(f"{folder}/" for folder in versions)
    return [python, *versions, *(path for path in loaded if not _in_system(path) and not path.startswith(inside))]


def find_python(asked: str | None) -> str:
    """Return a Python that the unprivileged user can read.

    Args:
        asked: the user's choice; None takes this interpreter if it can be read, else the system's.

    Raises:
        SandboxUnavailable: if there is none.
    """
    own = os.path.realpath(sys.executable)
    candidates = [asked] if asked is not None else [own, "/usr/bin/python3", "/usr/local/bin/python3"]
    for candidate in candidates:
        real = os.path.realpath(candidate)
        is_whole = _in_system(real) or (_versions(real) and not real.startswith(_HIDDEN))
        if os.path.isfile(real) and _readable_by_all(real) and is_whole:
            return real
    raise SandboxUnavailable(
        f"python = {asked!r}: found no interpreter that an unprivileged user can read, with its "
        f"lib/python3.x beside its bin/ and not below /tmp, among {', '.join(candidates)}; "
        "apt-get install python3, or pass python= another"
    )


def _in_system(path: str) -> bool:
    return any(path.startswith(f"{folder}/") for folder in _SYSTEM)


def _readable_by_all(path: str) -> bool:
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | os.X_OK)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


def _versions(python: str) -> list[str]:
    """Return the lib/python3.x of an interpreter: of several in its prefix the one whose name it has, or all."""
    prefix = os.path.dirname(os.path.dirname(python))
    found = sorted(filter(os.path.isdir, glob.glob(f"{glob.escape(prefix)}/lib/python3.*"))) if prefix != "/" else []
    return [folder for folder in found if os.path.basename(folder) == os.path.basename(python)] or found
