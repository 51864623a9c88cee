"""List the options of vLLM's server, with the names that each takes: `python scripts/engine_options.py`.

Writes `trm_agent/runs/vllm_options.json`, which the checks before Ray read; they import no vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

FILE = Path(__file__).resolve().parent.parent / "trm_agent" / "runs" / "vllm_options.json"


def found() -> dict[str, Any]:
    """Return the options of the installed vLLM: option -> `int`, `float`, `true`, its names, or null."""
    import vllm
    from vllm.config.parallel import DistributedExecutorBackend
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    # sets that the command line's own parser leaves open
    closed = {
        "attention_backend": ["AUTO", *(item.name for item in AttentionBackendEnum)],
        "distributed_executor_backend": list(get_args(DistributedExecutorBackend)),
        "load_format": list(_LOAD_FORMAT_TO_MODEL_LOADER),
        "quantization": sorted(QUANTIZATION_METHODS),
    }
    actions = make_arg_parser(FlexibleArgumentParser())._actions
    options = {
        _plain(string): closed.get(action.dest) or _takes(action, string)
        for action in actions
        for string in action.option_strings
        if string.startswith("--") and action.dest != "help"
    }
    return {"vllm": ".".join(vllm.__version__.split(".")[:2]), "options": dict(sorted(options.items()))}


def as_text(found: dict[str, Any]) -> str:
    """Return the options as a file of one option a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(takes)}" for name, takes in found["options"].items()]
    body = ",\n".join(lines)
    return f'{{\n "vllm": {json.dumps(found["vllm"])},\n "options": {{\n{body}\n }}\n}}\n'


def _plain(string: str) -> str:
    return string.removeprefix("--").replace("-", "_")


def _takes(action: Any, string: str) -> Any:
    """Return the values of an option; one that turns another off takes `true` alone."""
    if string.startswith("--no-") and f"--{string.removeprefix('--no-')}" in action.option_strings:
        return "true"
    if action.choices:
        return [name for name in action.choices if name != "None"]
    return action.type.__name__ if action.type in (int, float) and action.nargs is None else None


if __name__ == "__main__":
    FILE.write_text(as_text(found()), encoding="utf-8")
