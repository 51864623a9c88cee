"""Packages that a model's code may import: those that an environment declares, in the declared versions.

Without any, programs have only the standard library, whatever else is installed where they run. So a policy learns the
same on every machine, and the run's configuration records the packages that it was trained with.
"""

import functools
import importlib.metadata
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trm_fields import refuse

EXTRA = "pip install 'trm-agent[programs]'"
_PIN = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9.!+_-]+)")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Packages:
    """Installed packages of declared versions."""

    pins: tuple[str, ...] = ()
    """Declared versions, such as `numpy==2.3.5`, in alphabetical order."""
    entries: tuple[str, ...] = ()
    """Absolute paths of the files and folders to show inside, those of required packages included."""
    modules: tuple[str, ...] = ()
    """Names under which the declared packages are imported."""

    @property
    def probe(self) -> str:
        """Return a program that imports every package and prints `pins`."""
        names = [pin.partition("==")[0] for pin in self.pins]
        imports = "".join(f"import {module}\n" for module in self.modules)
        return (
            f"import importlib.metadata\n{imports}"
            f"print(*(f'{{name}}=={{importlib.metadata.version(name)}}' for name in {names!r}))"
        )


def check_pins(field: str, value: Any) -> tuple[str, ...]:
    """Return the pins of a list of packages, sorted.

    Raises:
        ValueError: if one has no version, or a package is named twice.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        refuse(field, value, "a list of packages with versions", 'give one, such as ["numpy==2.3.5"]')
    names = []
    for pin in value:
        match = _PIN.fullmatch(pin) if isinstance(pin, str) else None
        if match is None:
            raise ValueError(f"{field}: {pin!r} is not a package with a version; expected NAME==VERSION{_hint(pin)}")
        names.append(_normal(match[1]))
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{field}: {', '.join(doubles)} is there twice; name each package once")
    return tuple(sorted(value))


@functools.lru_cache(maxsize=64)
def find_packages(pins: tuple[str, ...], field: str = "packages") -> Packages:
    """Return the installed packages that pins name.

    Args:
        pins: as `check_pins` returns them.
        field: the name of the setting in messages.

    Raises:
        ValueError: if one is not installed, or has another version.
    """
    entries: dict[str, None] = {}
    modules: list[str] = []
    for pin in pins:
        name, _, version = pin.partition("==")
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(f"{field}: {pin} is declared and not installed; {EXTRA}, or pip install {pin}") from None
        if found.version != version:
            raise ValueError(
                f"{field}: {pin} is declared, {name}=={found.version} is installed; pip install {pin}, or declare "
                "that version"
            )
        for entry in _top_entries(found):
            entries[entry] = None
            if os.path.exists(os.path.join(entry, "__init__.py")):
                modules.append(os.path.basename(entry))
        for needed in _needs(found, set()):
            entries.update(dict.fromkeys(_top_entries(needed)))
    return Packages(pins, tuple(entries), tuple(modules))


def describe_packages(pins: Sequence[str]) -> str:
    """Return the system prompt's words on the packages; empty without any."""
    if not pins:
        return ""
    named = ", ".join(pin.replace("==", " ") for pin in pins)
    return f"Beside the standard library these packages can be imported: {named}."


def _top_entries(found: importlib.metadata.Distribution) -> list[str]:
    """Return the files and folders of a distribution that lie directly in site-packages."""
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    return sorted(os.path.abspath(str(found.locate_file(top))) for top in tops)


def _needs(found: importlib.metadata.Distribution, seen: set[str]) -> list[importlib.metadata.Distribution]:
    """Return the transitive requirements of a distribution, without extras."""
    needed: list[importlib.metadata.Distribution] = []
    for line in found.requires or ():
        requirement, _, marker = line.partition(";")
        match = _NAME.match(requirement)
        name = _normal(match[0]) if match else ""
        if "extra" in marker or not name or name in seen:
            continue
        seen.add(name)
        try:
            each = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # its marker does not hold here
            continue
        needed += [each, *_needs(each, seen)]
    return needed


def _hint(pin: Any) -> str:
    try:
        return f"; installed is {pin}=={importlib.metadata.version(pin)}"
    except (importlib.metadata.PackageNotFoundError, TypeError, ValueError, AttributeError):
        return ', such as "numpy==2.3.5"'


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
