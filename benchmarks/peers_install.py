"""Makes the environment of TRL for `peers`, apart from ours, with the same torch and transformers."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

TRL_VERSION = "1.16.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# transformers needs it to read tool calls, gymnasium is for our environment
BESIDE = ("jmespath",)


def trl_python(folder: Path) -> str:
    """Return the Python of TRL's environment, which is made where it is not there; takes one to five minutes then.

    Raises:
        CalledProcessError: pip failed.
    """
    python = folder / "bin" / "python"
    done = folder / ".complete"
    if not done.exists():
        print(f"installing trl {TRL_VERSION} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        torch = f"torch=={version('torch')}"
        if not _installed(python, torch):
            subprocess.run([*_pip(python), "--index-url", CPU_INDEX, torch], check=True)
        same = [f"{name}=={version(name)}" for name in ("transformers", "gymnasium")]
        subprocess.run([*_pip(python), f"trl=={TRL_VERSION}", *same, *BESIDE], check=True)
        done.touch()
    return str(python)


def _installed(python: Path, requirement: str) -> bool:
    """Install from the default index, which has CPU builds on some machines only."""
    return subprocess.run([*_pip(python), requirement], stderr=subprocess.DEVNULL).returncode == 0


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
