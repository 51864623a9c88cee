"""Optional packages: the extra that brings what a command needs, and the error for a package that is missing."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

DISTRIBUTION = "trm-agent"
# import name -> distribution, for those that differ
DISTRIBUTIONS = {"hydra": "hydra-core", "yaml": "PyYAML", "transfer_queue": "TransferQueue"}
ENGINE = "vllm"


@dataclass(frozen=True)
class Needs:
    """Packages of one command beyond the core dependencies."""

    command: str
    """Command as a user types it."""
    extra: str
    """Extra of the distribution that brings the packages."""
    packages: tuple[str, ...]
    """Import names."""


_TRAINING = (
    "hydra",
    "jinja2",
    "matplotlib",
    "psutil",
    "pyarrow",
    "ray",
    "tensorboard",
    "tensordict",
    "torch",
    "tqdm",
    "transfer_queue",
    "transformers",
    "verl",
    "yaml",
)
_EVALUATION = (
    "huggingface_hub",
    "hydra",
    "jinja2",
    "matplotlib",
    "pyarrow",
    "torch",
    "tqdm",
    "transformers",
    "verl",
    "yaml",
)
# A command that is absent here runs on the core dependencies alone.
NEEDS = {
    "analyze": Needs("trm analyze", "analyze", ("pyarrow", "torch")),
    "bounds": Needs("trm bounds", "analyze", ("torch",)),
    "eval": Needs("trm eval", "eval", _EVALUATION),
    "export": Needs("trm export", "eval", ("huggingface_hub", "torch", "transformers", "yaml")),
    "numerics": Needs("trm numerics", "train", _TRAINING),
    "report": Needs("trm report", "report", ("pyarrow", "transformers", "yaml")),
    "train": Needs("trm train", "train", _TRAINING),
    "warmstart": Needs("trm warmstart", "eval", _EVALUATION),
}


def require(name: str) -> None:
    """Check that the packages of a command are installed, without importing them.

    Args:
        name: key of `NEEDS`.

    Raises:
        ValueError: a package is missing; the message names it, its extra and the pip command.
    """
    needs = NEEDS[name]
    missing = _missing(needs.packages)
    if missing:
        names = ", ".join(DISTRIBUTIONS.get(package, package) for package in missing)
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise ValueError(
            f"{needs.command}: {names} {verb} not installed; the extra {needs.extra!r} brings {them}: "
            f"{install(needs.extra)}"
        )


def require_engine(name: str) -> None:
    """Check that vLLM is installed for a command that generates with it.

    Args:
        name: key of `NEEDS`.

    Raises:
        ValueError: vLLM is missing; the message says where it comes from on this kind of machine.
    """
    if _missing((ENGINE,)):
        raise ValueError(
            f"{NEEDS[name].command}: {ENGINE} is not installed; with CUDA the extra 'gpu' brings it: {install('gpu')}; "
            "without, bash scripts/setup.sh in a checkout does"
        )


def install(extra: str) -> str:
    """Return the pip command that brings an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def _missing(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if not is_installed(package)]


def is_installed(package: str) -> bool:
    """Return True if a package can be imported, without importing it."""
    spec = importlib.util.find_spec(package)
    # a plain folder of that name in the current one has no origin
    return spec is not None and spec.origin is not None
