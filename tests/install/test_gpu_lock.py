"""The lock of the set with CUDA: whole, of wheels, and what pyproject.toml and verl ask for."""

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from tests.structure_script import load
from tests.test_extras import project
from trm_agent.runs.planning.machine import LEAST_CAPABILITY, LEAST_DRIVERS

REPOSITORY = Path(__file__).resolve().parents[2]
gpu_lock: Any = load(REPOSITORY / "scripts" / "gpu_lock.py")

LOCK = (REPOSITORY / "requirements" / "gpu.txt").read_text(encoding="utf-8")
LINES = [line for line in LOCK.splitlines() if line and line[0] not in "#-"]
LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}  # (\S+)")
PINNED = {name: Version(version) for name, version in (line.split()[0].split("==") for line in LINES)}
# the machine of the lock, as markers of requirements see it
MACHINE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}


def test_every_package_is_pinned_once_with_the_hash_of_one_file():
    names = [line.partition("==")[0] for line in LINES]
    assert len(names) > 200
    assert names == sorted(set(names))
    assert [line for line in LINES if not LINE.fullmatch(line)] == []


def test_each_file_is_a_wheel_for_the_machine_of_the_lock_but_one():
    tags = set(gpu_lock.tags())
    sources = []
    for line in LINES:
        (name, version), file = line.split()[0].split("=="), line.split()[-1]
        if file.endswith(".whl"):
            in_name, in_version, _, fits = parse_wheel_filename(file)
            assert fits & tags, line
        else:
            in_name, in_version = parse_sdist_filename(file)
            sources.append(f"{name}=={version}")
        assert (in_name, in_version) == (name, Version(version)), line
    assert sources == ["antlr4-python3-runtime==4.9.3"]


def test_pip_is_told_to_take_nothing_else():
    options = [line for line in LOCK.splitlines() if line.startswith("-")]
    assert options == ["--require-hashes", "--only-binary :all:", "--no-binary antlr4-python3-runtime"]


def test_neither_flash_attn_nor_the_host_of_an_index_is_named():
    assert not [name for name in PINNED if "flash-attn" in name]
    assert not re.search(r"https?:|index|pypi|pythonhosted|@", LOCK)


def asked(requirements: list[str], extra: str = "") -> list[Requirement]:
    """The requirements that hold on the machine of the lock."""
    found = map(Requirement, requirements)
    return [one for one in found if not one.marker or one.marker.evaluate({**MACHINE, "extra": extra})]


def of_verl(extra: str) -> list[Requirement]:
    """What verl asks for with an extra, through the extras that it names; its core is without one."""
    found = []
    for one in asked(importlib.metadata.requires("verl") or [], extra):
        found += [part for name in one.extras for part in of_verl(name)] if one.name == "verl" else [one]
    return found


def of_ours() -> list[Requirement]:
    extras = project()["optional-dependencies"]
    wanted = ["gpu", *(name for name in gpu_lock.EXTRAS if name != "gpu"), "analyze", "eval", "report", "train"]
    found = asked([*project()["dependencies"], *(line for name in wanted for line in extras[name])])
    return found + [part for one in found if one.name == "verl" for extra in one.extras for part in of_verl(extra)]


@pytest.mark.parametrize("whose", ["ours", "verl's"])
def test_it_holds_what_is_asked_for(whose):
    requirements = of_ours() if whose == "ours" else of_verl("vllm") + of_verl("cupy-cu130")
    assert len(requirements) > 30
    for one in requirements:
        name = canonicalize_name(one.name)
        if name != "trm-agent":
            has = PINNED.get(name)
            told = f"{one}, and the lock has {has}: python scripts/gpu_lock.py requirements/gpu.txt"
            fits = has is not None and one.specifier.contains(has)
            assert fits, told


def test_the_extra_pins_what_verl_pins_for_cuda():
    ours = {canonicalize_name(one.name): str(one.specifier) for one in asked(project()["optional-dependencies"]["gpu"])}
    verl = {canonicalize_name(one.name): str(one.specifier) for one in of_verl("vllm") + of_verl("cupy-cu130")}
    exact = {name for name, specifier in verl.items() if specifier.startswith("==")}
    # neither is imported: verl pins them beside torch for multimodal models
    assert {name: ours.get(name) for name in exact - {"torchvision", "torchaudio"}} == {
        name: verl[name] for name in exact - {"torchvision", "torchaudio"}
    }


def test_a_package_without_a_version_of_its_own_set_is_the_same_on_every_machine():
    # patches and the fork server are written for these, on a CPU and on a GPU
    extras = project()["optional-dependencies"]
    for name in ("ray[default]", "TransferQueue"):
        (cpu,), (gpu,) = ([line for line in extras[extra] if line.startswith(f"{name}==")] for extra in ("cpu", "gpu"))
        assert cpu == gpu


def test_the_libraries_are_of_the_cuda_that_the_setup_asks_a_driver_for():
    # torch asks for the toolkit of the CUDA that it was built with; scripts/gpu.sh has the driver of 13.0
    assert str(PINNED["cuda-toolkit"]).startswith("13.0.")
    script = (REPOSITORY / "scripts" / "gpu.sh").read_text(encoding="utf-8")
    assert f"LEAST_DRIVER={LEAST_DRIVERS['13']}" in script.splitlines()
    assert f"LEAST_CAPABILITY={LEAST_CAPABILITY}" in script.splitlines()
    assert f"LEAST_GLIBC=2.{gpu_lock.GLIBC_MINOR}\n" in script


def test_setuptools_of_the_lock_can_build_this_package():
    page = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    build = re.search(r'requires = \["(setuptools[^"]*)"\]', page)
    assert build is not None
    assert Requirement(build[1]).specifier.contains(PINNED["setuptools"])


FITTING = [
    "cp312-cp312-manylinux_2_28_x86_64",
    "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64",
    "cp38-abi3-manylinux_2_28_x86_64",
    "py3-none-any",
]
OTHERS = [
    "cp312-cp312-manylinux_2_34_x86_64",
    "cp312-cp312-musllinux_1_2_x86_64",
    "cp312-cp312-manylinux_2_28_aarch64",
    "cp313-cp313-manylinux_2_28_x86_64",
]


def one_of(tags: list[str]) -> list[dict[str, Any]]:
    """A package as PEP 751 writes it, with a wheel for each tag and a source."""
    wheels = [{"url": f"x/one-1.0-{tag}.whl", "size": 6 * 10**8, "hashes": {"sha256": f"of {tag}"}} for tag in tags]
    return [{"name": "one", "version": "1.0", "wheels": wheels, "sdist": {"name": "one-1.0.tar.gz", "size": 1}}]


def test_of_several_wheels_the_one_that_pip_prefers_is_locked():
    # best first: this Python with the newest C library that is there, then the stable interface, then pure Python
    for number, best in enumerate(FITTING):
        written = gpu_lock.lock_of(one_of(sorted(FITTING[number:] + OTHERS)))
        assert "1 files of 0.6 GB for Python 3.12" in written
        assert written.endswith(f"\none==1.0 --hash=sha256:of {best}  # one-1.0-{best}.whl\n")
    with pytest.raises(ValueError, match=r"one 1\.0 has no wheel"):
        gpu_lock.lock_of(one_of(OTHERS))


def test_pins_of_a_lock_are_read_back():
    assert gpu_lock.pins(LOCK) == [line.split()[0] for line in LINES]


@pytest.mark.slow
def test_the_package_index_still_gives_these_files_for_these_extras():
    # each pin is a constraint: a package too many or too few, a yanked or changed file would show
    assert gpu_lock.lock_of(gpu_lock.resolve(gpu_lock.pins(LOCK))) == LOCK
