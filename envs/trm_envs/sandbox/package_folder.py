"""The folder in which programs find the packages that an environment declares."""

import os
import shutil
import tempfile
from collections.abc import Sequence

from trm_envs.packages import Packages
from trm_envs.sandbox.interface import Result, SandboxUnavailable


def linked(packages: Packages) -> "tempfile.TemporaryDirectory[str]":
    """Make a folder with a link to each entry; it is removed with the object."""
    folder = tempfile.TemporaryDirectory(prefix="trm-packages-")
    for entry in packages.entries:
        os.symlink(entry, os.path.join(folder.name, os.path.basename(entry)))
    return folder


def copied(packages: Packages) -> "tempfile.TemporaryDirectory[str]":
    """Make a folder with a copy of each entry that everybody can read; it is removed with the object."""
    folder = tempfile.TemporaryDirectory(prefix="trm-packages-")
    os.chmod(folder.name, 0o755)
    for entry in packages.entries:
        target = os.path.join(folder.name, os.path.basename(entry))
        if os.path.isdir(entry):
            shutil.copytree(entry, target, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        else:
            shutil.copyfile(entry, target)
    for place, folders, files in os.walk(folder.name):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            os.chmod(path, os.stat(path).st_mode | (0o555 if name in folders else 0o444))
    return folder


def are_readable(entries: Sequence[str]) -> bool:
    """Return True if an unprivileged user can read all of the entries, as far as their folders' modes say."""
    if os.geteuid() != 0:
        return True
    places = {place for entry in entries for place in _ancestors(os.path.realpath(entry))}
    return all(os.stat(place).st_mode & 0o001 for place in places) and all(
        os.stat(entry).st_mode & 0o004 for entry in entries
    )


def check_probe(packages: Packages, result: Result) -> None:
    """Check the output of `packages.probe` from the place where programs run.

    Raises:
        SandboxUnavailable: if a package is not there, or has another version.
    """
    found = result.stdout.split()
    if result.ok and found == list(packages.pins):
        return
    told = result.message or result.stderr.strip().split("\n")[-1] or f"found {', '.join(found) or 'nothing'}"
    raise SandboxUnavailable(
        f"packages = {list(packages.pins)}: cannot be imported where programs run: {told}; install these versions "
        "for that interpreter, or declare those that it has"
    )


def _ancestors(path: str) -> list[str]:
    places = []
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        places.append(path)
    return places
