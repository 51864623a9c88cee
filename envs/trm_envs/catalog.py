"""The environments with their options and protocols."""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium

from trm_envs.base import ToolEnv
from trm_envs.protocols import PROTOCOLS
from trm_envs.registration import WRAPPERS, registered_ids
from trm_envs.tools import tools_of


@dataclasses.dataclass(frozen=True)
class Entry:
    """One environment."""

    id: str
    """Id for `gymnasium.make`."""
    summary: str
    """Description in one line."""
    options: Mapping[str, Any]
    """Default of each option by name."""
    protocols: tuple[str, ...]
    """Protocols in which tool calls can be written."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON."""
        return {**dataclasses.asdict(self), "protocols": list(self.protocols)}


def entries(module: str | None = None) -> list[Entry]:
    """Return this package's environments, its wrappers of others, and those that importing `module` registers.

    Raises:
        ValueError: if the module cannot be imported.
    """
    from trm_envs.checking.subject import import_module
    from trm_envs.own_modules import load

    ids = sorted([*registered_ids(), *WRAPPERS])
    if module is not None:
        import_module(module)
        ids += [
            name
            for name, spec in gymnasium.registry.items()
            if str(spec.entry_point).startswith(f"{module}.") or str(spec.entry_point).startswith(f"{module}:")
        ]
    found = []
    for env_id in ids:
        spec = gymnasium.spec(env_id)
        kind = load(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if inspect.isclass(kind) and issubclass(kind, ToolEnv):
            found.append(Entry(env_id, _summary(kind), {**_defaults(kind), **spec.kwargs}, _protocols(kind)))
    return found


def _summary(kind: type[ToolEnv]) -> str:
    """Return the first sentence of the module's docstring, without the id, or else the class's."""
    module = importlib.import_module(kind.__module__)
    text = (module.__doc__ or kind.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    _, colon, rest = text.partition(": ")
    return (rest if colon else text).split(". ")[0].rstrip(".")


def _defaults(kind: type[ToolEnv]) -> dict[str, Any]:
    return dataclasses.asdict(kind.options_class())


def _protocols(kind: type[ToolEnv]) -> tuple[str, ...]:
    names = []
    for name, protocol in PROTOCOLS.items():
        try:
            protocol.check_tools(tools_of(kind))
        except ValueError:
            continue
        names.append(name)
    return tuple(names)
