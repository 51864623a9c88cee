"""Import a user's module that registers environments, and name what it registered.

A folder without `__init__.py` in the current folder counts for Python as an empty package. It then hides an installed
project of the same name, if that is installed in editable form: the folder of a small project, as a rule.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import gymnasium

from trm_fields import closest

_registered: dict[str, frozenset[str]] = {}


class _CodeBeforeFolders:
    """A finder that prefers code to an empty folder of the same name, for the names in `wanted`."""

    wanted: set[str] = set()  # noqa: RUF012  (one finder for the process)

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> object:
        if path is not None or name not in cls.wanted:
            return None
        return _hidden_code(name)


def import_module(name: str) -> ModuleType:
    """Import a user's module, also one that a folder without `__init__.py` hides.

    Raises:
        ImportError: as `importlib.import_module`, and whatever the module raises.
    """
    top = name.partition(".")[0]
    if _CodeBeforeFolders not in sys.meta_path:
        sys.meta_path.insert(0, _CodeBeforeFolders)  # type: ignore[arg-type]
    _CodeBeforeFolders.wanted.add(top)
    if _is_folder(sys.modules.get(top)) and _hidden_code(top) is not None:
        del sys.modules[top]
    before = set(gymnasium.registry)
    module = importlib.import_module(name)
    _registered[name] = _registered.get(name, frozenset()) | (set(gymnasium.registry) - before)
    return module


def load(address: str) -> Any:
    """Return the object that "module:name" names.

    Raises:
        ImportError, AttributeError: there is none.
    """
    module, _, name = address.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def registered_by(name: str) -> list[str]:
    """Return the ids that an imported module registered, sorted."""
    own = {env_id for env_id, spec in gymnasium.registry.items() if _is_within(name, _module_of(spec.entry_point))}
    return sorted(own | (_registered.get(name, frozenset()) & set(gymnasium.registry)))


def told_of_unknown(env_id: str, name: str) -> str:
    """Return a refusal's words on an id that an imported module has not registered."""
    ids = registered_by(name)
    if ids:
        return f"module {name} registers others; {closest(env_id, ids)}"
    module = sys.modules[name]
    if not _is_folder(module):
        place = getattr(module, "__file__", None) or "no file"
        remedy = f"call gymnasium.register({env_id!r}, ...) at its top"
        return f"module {name} registered nothing (imported from {place}); {remedy}"
    folder = next(iter(module.__path__), "nowhere")
    return (
        f"module {name} registered nothing (imported from {folder}, a folder without __init__.py); run the command in "
        f"that folder, or install it: pip install -e {folder}"
    )


def told_of_kind(kind: type) -> str:
    """Return a refusal's words on an environment that is not one of ours."""
    return (
        f"makes a {kind.__name__}, which is not a trm_envs.ToolEnv; derive it from that, or play a plain Gymnasium "
        "environment through trm/Gym-v0 with the option env_id (docs/own_environment.md)"
    )


def _module_of(entry_point: object) -> str:
    named = entry_point if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")
    return str(named).partition(":")[0]


def _is_within(name: str, module: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _is_folder(module: ModuleType | None) -> bool:
    """Return True for a package without code, which Python makes of any folder."""
    return module is not None and getattr(module, "__file__", None) is None and hasattr(module, "__path__")


def _hidden_code(name: str) -> ModuleSpec | None:
    """Return the code that an empty folder hides; None if nothing does."""
    finders = [finder for finder in sys.meta_path if finder is not _CodeBeforeFolders and hasattr(finder, "find_spec")]
    found = [spec for finder in finders if (spec := finder.find_spec(name, None)) is not None]
    if not found or found[0].origin is not None:
        return None
    return next((spec for spec in found if spec.origin is not None and spec.loader is not None), None)
