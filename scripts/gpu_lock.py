"""Write the lock of the set with CUDA: every package, and the hash of the one file of it that is installed.

python scripts/gpu_lock.py requirements/gpu.txt              keep the versions of the file wherever they still fit
python scripts/gpu_lock.py requirements/gpu.txt --upgrade    take the newest that fit

What is locked are the extras in EXTRAS, for Python 3.12 on Linux on x86-64 with glibc 2.31 or newer. Needs Python 3.11,
uv of the extra `dev`, and the package index that pip is set up with.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

REPOSITORY = Path(__file__).resolve().parent.parent
EXTRAS = ("gpu", "dev", "math", "programs")
PYTHON = (3, 12)
GLIBC_MINOR = 31
# pure Python, and no wheel of it exists
FROM_SOURCE = "antlr4-python3-runtime"
OPTIONS = ("--require-hashes", "--only-binary :all:", f"--no-binary {FROM_SOURCE}")


def main(arguments: Sequence[str]) -> int:
    """Write the lock; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lock", type=Path, help="file to write, and to keep the versions of")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    options = parser.parse_args(arguments)
    keep = [] if options.upgrade or not options.lock.exists() else pins(options.lock.read_text(encoding="utf-8"))
    options.lock.write_text(lock_of(resolve(keep)), encoding="utf-8")
    return 0


def pins(lock: str) -> list[str]:
    """Return `name==version` of each package of a lock."""
    return [line.split()[0] for line in lock.splitlines() if line and line[0] not in "#-"]


def resolve(keep: Iterable[str]) -> list[dict[str, Any]]:
    """Ask uv for the packages of the extras, as PEP 751 writes them: name, version, wheels, sdist.

    Args:
        keep: constraints, such as the pins of a lock.

    Raises:
        SystemExit: there is no solution, or no index; uv has said why.
    """
    import tomllib  # Python 3.11

    with tempfile.TemporaryDirectory() as folder:
        constraints, out = Path(folder, "constraints.txt"), Path(folder, "pylock.gpu.toml")
        constraints.write_text("\n".join(keep), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--no-config"]
        command += [part for extra in EXTRAS for part in ("--extra", extra)]
        command += ["--python-version", ".".join(map(str, PYTHON))]
        command += ["--python-platform", f"x86_64-manylinux_2_{GLIBC_MINOR}"]
        command += ["--only-binary", ":all:", "--no-binary", FROM_SOURCE]
        command += ["--constraint", str(constraints), "--format", "pylock.toml", "--output-file", str(out)]
        environment = dict(os.environ)
        for setting, variable in (("index-url", "UV_DEFAULT_INDEX"), ("cert", "SSL_CERT_FILE")):
            if value := pip_setting(setting):
                environment.setdefault(variable, value)
        if status := subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode:
            raise SystemExit(status)
        packages: list[dict[str, Any]] = tomllib.loads(out.read_text(encoding="utf-8"))["packages"]
    return packages


def pip_setting(name: str) -> str | None:
    """Return a setting of pip, from its variable or its files; None if it is not set."""
    if value := os.environ.get("PIP_" + name.upper().replace("-", "_")):
        return value
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def lock_of(packages: Iterable[dict[str, Any]]) -> str:
    """Return the text of the lock: pip's options, then a line for each package with its hash and its file's name."""
    rank = {tag: place for place, tag in enumerate(tags())}
    lines, size = [], 0
    for package in sorted(packages, key=lambda package: package["name"]):
        file = file_of(package, rank)
        pin, sha256 = f"{package['name']}=={package['version']}", file["hashes"]["sha256"]
        lines.append(f"{pin} --hash=sha256:{sha256}  # {name_of(file)}")
        size += file["size"]
    machine = f"Python {'.'.join(map(str, PYTHON))}, Linux on x86-64, glibc 2.{GLIBC_MINOR}"
    head = [
        f"# The set with CUDA: {len(lines)} files of {size / 1e9:.1f} GB for {machine}.",
        "# Written by scripts/gpu_lock.py from pyproject.toml: change the extras there. scripts/setup.sh installs it.",
    ]
    return "\n".join([*head, *OPTIONS, *lines, ""])


def file_of(package: dict[str, Any], rank: dict[Tag, int]) -> dict[str, Any]:
    """Return the file that pip takes: the wheel whose tag ranks first, the source of FROM_SOURCE alone.

    Raises:
        ValueError: no wheel fits.
    """
    if package["name"] == FROM_SOURCE:
        source: dict[str, Any] = package["sdist"]
        return source
    fitting = []
    for wheel in package.get("wheels", []):
        places = [rank[tag] for tag in parse_wheel_filename(name_of(wheel))[3] if tag in rank]
        if places:
            fitting.append((min(places), name_of(wheel), wheel))
    if not fitting:
        raise ValueError(f"{package['name']} {package['version']} has no wheel for this Python and platform")
    return min(fitting)[2]


def name_of(file: dict[str, Any]) -> str:
    """Return a file's name, which PEP 751 leaves out where the address ends with it."""
    return str(file.get("name") or file["url"].rpartition("/")[2])


def tags() -> list[Tag]:
    """Return the tags of wheels that can be installed, best first."""
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms = []
    for minor in range(GLIBC_MINOR, 4, -1):
        platforms.append(f"manylinux_2_{minor}_x86_64")
        if minor in legacy:
            platforms.append(f"{legacy[minor]}_x86_64")
    platforms.append("linux_x86_64")
    interpreter = "cp" + "".join(map(str, PYTHON))
    return [*cpython_tags(PYTHON, platforms=platforms), *compatible_tags(PYTHON, interpreter, platforms)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
