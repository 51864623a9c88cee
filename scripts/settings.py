"""List the fields that verl reads where we replace its code, and what verl's configuration may hold.

`python scripts/settings.py` writes `trm_agent/runs/verl_fields.json`; `--print` prints each field with its fate. Reads
verl's source and its yaml files, and imports nothing of it.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from config_reads import Source, fields_of
from config_types import declared_fields

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "trm_agent" / "runs" / "verl_fields.json"
_WHOLE = {"config": "", "self.config": "", "trainer_config.config": "", "data_config.config": "data"}
_ROLLOUT = {**_WHOLE, "self.rollout_config": "actor_rollout_ref.rollout"}
_LOOPS = "verl.experimental.agent_loop"
_V1 = "verl.trainer.ppo.v1"
_ACTOR = {"config": "actor_rollout_ref.actor"}
# files of ours that may set a field after composition
_OURS = ("train.py", "runs", "verl_plugin")


@dataclass(frozen=True)
class Original:
    """Code of verl that a run replaces, extends or leaves idle."""

    ours: str
    """Our replacement."""
    places: tuple[str, ...]
    """Classes and functions of verl, `module:name`; a name may end with `*`."""
    roots: Mapping[str, str]
    """Expression -> section of the configuration that it stands for."""


ORIGINALS = {
    "dataset": Original("EnvDataset", ("verl.utils.dataset.rl_dataset:RLHFDataset",), {"config": "data"}),
    "agent loop": Original(
        "EnvAgentLoop",
        (
            f"{_LOOPS}.agent_loop:AgentLoopBase",
            f"{_LOOPS}.single_turn_agent_loop:SingleTurnAgentLoop",
            f"{_LOOPS}.tool_agent_loop:ToolAgentLoop",
        ),
        _ROLLOUT,
    ),
    "agent loop worker": Original(
        "our agent loop in it",
        (f"{_LOOPS}.agent_loop:AgentLoopWorker", f"{_V1}.agent_loop_tq:AgentLoopWorkerTQ"),
        _WHOLE,
    ),
    "rewards": Original(
        "the environment's reward",
        (
            "verl.experimental.reward_loop.reward_loop:RewardLoopWorker",
            "verl.experimental.reward_loop.reward_loop:RewardLoopManager",
        ),
        _WHOLE,
    ),
    "task runner": Original("RunTaskRunner", ("verl.trainer.main_ppo:TaskRunnerV1",), _WHOLE),
    "launch": Original("launch.run", ("verl.trainer.main_ppo:run_ppo", "verl.utils.config:validate_config"), _WHOLE),
    "policy loss": Original(
        "the loss trm",
        ("verl.trainer.ppo.core_algos:compute_policy_loss_*",),
        _ACTOR,
    ),
    "replay buffer and trainer": Original(
        "EnvReplayBuffer, RunMixin",
        (
            f"{_V1}.trainer_base:PPOTrainer",
            f"{_V1}.trainer_sync:PPOTrainerSync",
            f"{_V1}.trainer_colocate_async:PPOTrainerColocateAsync",
            f"{_V1}.trainer_separate_async:PPOTrainerSeparateAsync",
        ),
        _WHOLE,
    ),
}


def found() -> dict[str, Any]:
    """Return what verl's source and yaml files say, as `verl_fields.json` holds it."""
    source, tree = Source(verl_folder()), verl_tree()
    types, unlisted, open_ = _types(source, tree)
    read: dict[str, list[str]] = {}
    for name, original in ORIGINALS.items():
        places = [each for place in original.places for each in _named(source, place)]
        fields = [fields_of(source, place, original.roots) for place in places]
        asked = {path for each in fields for path in each.asked}
        paths = {field for each in fields for path in each.read if (field := _field(path, tree, asked))}
        # below a field that only a dataclass has stand the attributes of an object
        read[name] = sorted(path for path in paths if not any(path.startswith(f"{each}.") for each in unlisted))
        unlisted |= {path: "leaf" for path in read[name] if path not in types}
        open_ |= {path for each in fields for path in each.spread if path.startswith("ray_kwargs.")}
    return {
        "verl": importlib.metadata.version("verl"),
        "fields": dict(sorted(types.items())),
        "unlisted": dict(sorted(unlisted.items())),
        "open": sorted(open_),
        "loggers": _loggers(source),
        "read": read,
    }


def as_text(found: Mapping[str, Any]) -> str:
    """Return the list as a file that has one field a line."""
    parts = []
    for name, part in found.items():
        if isinstance(part, dict):
            lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items()]
            parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(part)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def written() -> dict[str, list[str]]:
    """Return the fields that our own code sets after composition: field -> files."""
    source, found = Source(ROOT), {}
    for part in _OURS:
        path = ROOT / "trm_agent" / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for item in (source.module(module) or ast.Module([], [])).body:
                parameters = [each.arg for each in ast.walk(item) if isinstance(each, ast.arg)]
                if isinstance(item, ast.FunctionDef | ast.ClassDef) and "config" in parameters:
                    for field in fields_of(source, f"{module}:{item.name}", {"config": ""}).written:
                        found.setdefault(field, []).append(file.relative_to(ROOT).as_posix())
    return dict(sorted(found.items()))


def verl_folder() -> Path:
    """Return the folder that holds the package verl."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


def verl_tree() -> dict[str, Any]:
    """Compose verl's own `ppo_trainer`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(verl_folder() / "verl" / "trainer" / "config"), version_base=None):
        tree = OmegaConf.to_container(compose("ppo_trainer"), resolve=False)
    assert isinstance(tree, dict)
    return tree


def _named(source: Source, place: str) -> list[str]:
    module, _, name = place.partition(":")
    tree = source.module(module)
    if not name.endswith("*") or tree is None:
        return [place]
    found = [item.name for item in tree.body if isinstance(item, ast.FunctionDef)]
    return [f"{module}:{each}" for each in found if each.startswith(name.removesuffix("*"))]


def _field(path: str, tree: Mapping[str, Any], asked: set[str]) -> str | None:
    """Return the field that a read path is or belongs to; None for a section, and an attribute of a value."""
    node: Any = tree
    walked: list[str] = []
    for name in path.split("."):
        if not isinstance(node, dict) or (walked and node == {}):
            return ".".join(walked)
        if name not in node:
            return path if path in asked else None
        node, walked = node[name], [*walked, name]
    return None if isinstance(node, dict) and node else path


def _types(source: Source, tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    """Return the fields of the tree with type and default, those that only a dataclass has, and open dictionaries."""
    types: dict[str, Any] = {}
    unlisted: dict[str, str] = {}
    open_: set[str] = set()

    def visit(section: Mapping[str, Any], path: str, cls: str) -> None:
        declared = declared_fields(source, section.get("_target_") or cls) or {}
        for name, value in section.items():
            below, item = f"{path}.{name}" if path else name, declared.get(name)
            if isinstance(value, dict) and value:
                open_.update({below} if item and item.type.startswith("dict") else set())
                visit(value, below, item.cls if item else "")
            elif name != "_target_":
                kind = item.type if item else _type_of(value)
                kind += "?" if value is None and not kind.endswith("?") else ""
                types[below] = [kind, value]
                open_.update({below} if value == {} or kind.startswith("dict") else set())
        for name, item in declared.items():
            if name not in section:
                unlisted[f"{path}.{name}"] = item.type
                open_.update({f"{path}.{name}"} if item.type.startswith("dict") else set())

    visit(tree, "", "")
    return types, unlisted, open_


def _type_of(value: Any) -> str:
    """Return the type of a default that no dataclass declares; a whole number may stand for any number."""
    kinds = {bool: "bool", int: "float", float: "float", list: "list", dict: "dict"}
    return kinds.get(type(value), "any")


def _loggers(source: Source) -> list[str]:
    tree = source.module("verl.utils.tracking")
    assert tree is not None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "supported_backend":
            return list(ast.literal_eval(node.value))
    raise ValueError("verl.utils.tracking: no list `supported_backend`")


def main(argv: list[str] | None = None) -> int:
    """Write or print the list."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--print", action="store_true", help="print each field with its fate")
    if parser.parse_args(argv).print:
        from trm_agent.runs.verl_fates import fate_of

        for name, fields in found()["read"].items():
            print(f"{name}: replaced by {ORIGINALS[name].ours}")
            for field in fields:
                print(f"  {field}: {fate_of(field)}")
        print("set by us after composition")
        for field, files in written().items():
            print(f"  {field}: {', '.join(files)}")
        return 0
    FILE.write_text(as_text(found()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
