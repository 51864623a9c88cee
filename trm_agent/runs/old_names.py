"""Map dotted names in the config.yaml of older runs to the names of today.

A config.yaml holds dotted names as values: `_target_: package.module.Class`, `path: pkg://package.module`,
`package.module:Class`. A module that moves would make every stored run look like a run of another configuration, so
stored names are replaced by `OLD_NAMES` before configurations are compared.

To add a move, write one line in `OLD_NAMES`:

- a module or package that moved: `"old.module": "new.module"`; it holds for everything inside;
- a class or function that moved or has another name: `"old.module.Old": "new.module.New"`.

The longest line that fits wins, and a name is replaced once: write today's name on the right, also in the lines that
are there already. Never remove a line; tests/runs/test_old_configs.py checks that each leads to something that exists.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OLD_NAMES: dict[str, str] = {
    "trm_agent.config": "trm_agent.trust_region.settings",
    "trm_agent.dump": "trm_agent.trust_region.dump",
    "trm_agent.verl_plugin.actor_divergences": "trm_agent.verl_plugin.actor.divergences",
    "trm_agent.verl_plugin.advantages": "trm_agent.verl_plugin.driver.advantages",
    "trm_agent.verl_plugin.agent_loop": "trm_agent.verl_plugin.rollout.agent_loop",
    "trm_agent.verl_plugin.dataset": "trm_agent.verl_plugin.driver.dataset",
    "trm_agent.verl_plugin.distributions": "trm_agent.verl_plugin.rollout.distributions",
    "trm_agent.verl_plugin.dumping": "trm_agent.verl_plugin.actor.dumping",
    "trm_agent.verl_plugin.engine": "trm_agent.verl_plugin.actor.engine",
    "trm_agent.verl_plugin.episode_metrics": "trm_agent.verl_plugin.driver.episode_metrics",
    "trm_agent.verl_plugin.infrastructure_share": "trm_agent.verl_plugin.driver.infrastructure_share",
    "trm_agent.verl_plugin.launch": "trm_agent.verl_plugin.driver.launch",
    "trm_agent.verl_plugin.places": "trm_agent.verl_plugin.rollout.places",
    "trm_agent.verl_plugin.policy_loss": "trm_agent.verl_plugin.actor.policy_loss",
    "trm_agent.verl_plugin.recording_server": "trm_agent.verl_plugin.rollout.recording_server",
    "trm_agent.verl_plugin.replay_buffer": "trm_agent.verl_plugin.driver.replay_buffer",
    "trm_agent.verl_plugin.runner": "trm_agent.verl_plugin.driver.runner",
    "trm_agent.verl_plugin.trainer": "trm_agent.verl_plugin.driver.trainer",
    "trm_agent.verl_plugin.update": "trm_agent.verl_plugin.actor.update",
}

ROOTS = ("trm_agent", "trm_envs", "trm_fields")
_NAME = re.compile(r"(?P<scheme>pkg://)?(?P<name>[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)+)")


def with_current_names(value: Any, names: Mapping[str, str] = OLD_NAMES) -> Any:
    """Replace old dotted names in a configuration, at any depth.

    Args:
        value: a mapping, a list or a leaf of a configuration.
        names: old dotted name -> name of today.
    """
    if isinstance(value, Mapping):
        return {key: with_current_names(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [with_current_names(item, names) for item in value]
    return current_name(value, names) if isinstance(value, str) else value


def current_name(text: str, names: Mapping[str, str] = OLD_NAMES) -> str:
    """Replace an old dotted name by the name of today; any other text stays as it is.

    Args:
        text: such as `package.module.Class`, `pkg://package.module` or `package.module:Class`.
        names: old dotted name -> name of today.
    """
    found = _NAME.fullmatch(text)
    if not found:
        return text
    name, scheme = found["name"], found["scheme"] or ""
    plain = name.replace(":", ".")
    fits = [old for old in names if plain == old or plain.startswith(f"{old}.")]
    if not fits:
        return text
    old = max(fits, key=len)
    new, rest = names[old], name[len(old) :]
    # `module:Old` that fits as a whole keeps its number of parts behind the colon
    if ":" in name[: len(old)]:
        num_parts = name[: len(old)].rpartition(":")[2].count(".") + 1
        parts = new.split(".")
        new = ".".join(parts[:-num_parts]) + ":" + ".".join(parts[-num_parts:])
    return f"{scheme}{new}{rest}"


def unknown_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Find the dotted names of our packages that lead nowhere.

    Args:
        config: a configuration with the names of today.

    Returns:
        Field -> name.
    """
    return {field: text for field, text in _texts(config) if _is_ours(text) and not exists(text)}


def exists(text: str) -> bool:
    """Return True if a dotted name of an installed package leads to a module or a name at its top; nothing is imported.

    Args:
        text: see `current_name`.
    """
    root, *parts = re.split(r"[.:]", text.removeprefix("pkg://"))
    spec = importlib.util.find_spec(root)
    if spec is None or not spec.submodule_search_locations:
        return False
    place = Path(next(iter(spec.submodule_search_locations)))
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if not parts:
        return any(place.glob("*.py"))
    if (module := place / f"{parts[0]}.py").is_file():
        parts = parts[1:]
    else:
        module = place / "__init__.py"
    return not parts or (module.is_file() and parts[0] in _defined(module))


def _defined(module: Path) -> set[str]:
    """Return the names at the top of a module: classes, functions, imports, variables."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _is_ours(text: str) -> bool:
    found = _NAME.fullmatch(text)
    return found is not None and re.split(r"[.:]", found["name"])[0] in ROOTS


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{field}[{index}]")
    elif isinstance(value, str):
        yield field, value
