"""A server whose forks are to use a GPU forks only while it holds none; a fork follows the variables of its asker."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.fork_server.test_fork_server import HERE, ask, start, wait_for
from trm_agent.fork_server.client import is_plain

WORKER = "print('a fork')"
USUAL = "print('the usual way')"


@pytest.fixture
def device_use(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, which the server imports by path."""
    monkeypatch.syspath_prepend(str(HERE))
    import device_use

    return device_use


def fake_ray(folder: Path) -> None:
    """A Ray whose own way to start a worker says so."""
    workers = folder / "ray" / "_private" / "workers"
    workers.mkdir(parents=True)
    for package in (workers, workers.parent, workers.parent.parent):
        (package / "__init__.py").touch()
    (workers / "setup_worker.py").write_text(USUAL)


def said_by(folder: Path, opened: str, **env: str) -> tuple[str, str]:
    """What a worker prints, and what the server has said, if an import of the server has run some code.

    Args:
        folder: an empty one.
        opened: the code.
        env: variables of the server beside this process's.
    """
    fake_ray(folder)
    devices = folder / "dev"
    devices.mkdir()
    (devices / "nvidia0").touch()
    (folder / "probes.py").write_text(f"import sys, types\nDEVICE = {str(devices / 'nvidia0')!r}\n{opened}\n")
    (folder / "patterns.py").write_text(f"import device_use\ndevice_use.DEVICES = ({str(devices) + '/nvidia*'!r},)\n")
    (folder / "worker.py").write_text(WORKER)
    with (folder / "out").open("w+") as out, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        server, address = start(folder, '("patterns", "probes")', out)
        wait_for(address)
        asked = ask(address, "--language=PYTHON", str(folder / "worker.py"), cwd=folder, PYTHONPATH=str(folder))
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(timeout=10) == 0
        return asked.stdout.strip(), (folder / "out").read_text()


HELD = {
    "open device": ("held = open(DEVICE)", "{device} open"),
    "CUDA": (
        "sys.modules['torch.cuda'] = types.SimpleNamespace(is_initialized=lambda: True)",
        "CUDA initialised",
    ),
    "NVML": ("sys.modules['pynvml'] = types.SimpleNamespace(_nvmlLib_refcount=1)", "NVML in use"),
}


@pytest.mark.parametrize(("opened", "words"), HELD.values(), ids=HELD)
def test_a_server_that_holds_a_gpu_refuses_once_by_name_and_workers_start_the_usual_way(
    opened: str, words: str, tmp_path: Path
) -> None:
    how, said = said_by(tmp_path, opened)
    assert how == "the usual way"
    held = words.format(device=tmp_path / "dev" / "nvidia0")
    warning = (
        f"fork server: warning: the import of probes left {held}; refusing to fork, so each worker starts by itself"
    )
    assert [line for line in said.splitlines() if "refusing" in line] == [warning]


LEFT = {
    "closed again": "open(DEVICE).close()",
    "asked and ended": "sys.modules['pynvml'] = types.SimpleNamespace(_nvmlLib_refcount=0)",
    "not initialised": "sys.modules['torch.cuda'] = types.SimpleNamespace(is_initialized=lambda: False)",
}


@pytest.mark.parametrize("opened", LEFT.values(), ids=LEFT)
def test_what_is_closed_again_is_no_reason(opened: str, tmp_path: Path) -> None:
    how, said = said_by(tmp_path, opened)
    assert (how, "refusing" in said) == ("a fork", False)


def test_a_server_for_a_cpu_forks_whatever_is_open(tmp_path: Path) -> None:
    how, said = said_by(tmp_path, HELD["open device"][0], VERL_PLATFORM="cpu")
    assert (how, "refusing" in said) == ("a fork", False)


def test_the_devices_are_those_of_every_maker(device_use: ModuleType, tmp_path: Path, monkeypatch) -> None:
    real = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-caps/nvidia-cap2", "/dev/kfd", "/dev/dxg")
    paths = (*real, "/dev/dri/renderD128", "/dev/null", "/dev/shm/nvidia0", "pipe:[7]")
    for number, path in enumerate(paths):
        (tmp_path / str(number)).symlink_to(path)
    monkeypatch.setattr(device_use, "DESCRIPTORS", str(tmp_path))
    assert device_use.in_use() == [f"{path} open" for path in sorted((*real, "/dev/dri/renderD128"))]


def test_the_platform_says_whether_forks_may_use_a_gpu(device_use: ModuleType) -> None:
    assert [device_use.may_use_gpu(env) for env in ({}, {"VERL_PLATFORM": "nvidia"}, {"VERL_PLATFORM": " CPU"})] == [
        True,
        True,
        False,
    ]


def test_where_forks_may_use_a_gpu_neither_verl_nor_vllm_is_imported_before(device_use: ModuleType) -> None:
    from preloads import WITHOUT_GPU, preloads

    packages = {name.partition(".")[0] for name in preloads({})}
    assert {"torch", "transformers", "ray"} <= packages
    # verl asks CUDA as it is imported, vLLM the driver's library; ours import one or the other
    assert not packages & {"verl", "vllm", "trm_agent"}
    assert preloads({"VERL_PLATFORM": "cpu"}) == WITHOUT_GPU


def test_a_runtime_environment_of_more_than_variables_starts_the_usual_way() -> None:
    env = {"PYTHONHASHSEED": "0", "A": "2"}
    plain = {"command_prefix": [], "env_vars": {"A": "1"}, "py_executable": sys.executable, "java_jars": []}
    assert is_plain({}, env)
    assert is_plain({**plain, "override_worker_entrypoint": None}, env)
    # as the server has it, from the command as the worker has
    assert is_plain({"env_vars": {"PYTHONHASHSEED": "0"}}, env)
    for name, value in (("PYTHONHASHSEED", "7"), ("LD_LIBRARY_PATH", "/elsewhere"), ("LD_PRELOAD", "lib.so")):
        assert not is_plain({"env_vars": {name: value}}, env)
    # a folder to change to, a profiler around the interpreter, an interpreter of another environment, a container
    assert not is_plain({**plain, "command_prefix": ["cd", "/somewhere", "&&"]}, env)
    assert not is_plain({**plain, "py_executable": "nsys profile -t cuda python"}, env)
    assert not is_plain({**plain, "py_executable": "/venv/bin/python"}, env)
    assert not is_plain({**plain, "override_worker_entrypoint": "/inside/default_worker.py"}, env)


def test_a_worker_that_a_fork_would_not_be_like_starts_the_usual_way(tmp_path: Path) -> None:
    fake_ray(tmp_path)
    (tmp_path / "worker.py").write_text(WORKER)
    server, address = start(tmp_path)
    wait_for(address)
    worker, path = str(tmp_path / "worker.py"), {"PYTHONPATH": str(tmp_path)}
    profiled = f"--serialized-runtime-env-context={json.dumps({'py_executable': 'nsys profile python'})}"
    usual = USUAL.split("'")[1]
    assert ask(address, worker, cwd=tmp_path, **path).stdout.strip() == "a fork"
    assert ask(address, profiled, worker, cwd=tmp_path, **path).stdout.strip() == usual
    seeded = f"--serialized-runtime-env-context={json.dumps({'env_vars': {'PYTHONHASHSEED': '7'}})}"
    assert ask(address, seeded, worker, cwd=tmp_path, **path).stdout.strip() == usual
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=10) == 0


RAY_PRIVATE = {
    "utils": "import os\n"
    "def get_visible_accelerator_ids():\n    return {'GPU': os.environ['CUDA_VISIBLE_DEVICES'].split(',')}\n"
    "def set_omp_num_threads_if_unset():\n"
    "    if 'OMP_NUM_THREADS' in os.environ:\n        return False\n"
    "    os.environ['OMP_NUM_THREADS'] = '5'\n    return True\n",
    "worker": "from types import SimpleNamespace\nimport ray._private.utils\n"
    "shown = ray._private.utils.get_visible_accelerator_ids()\n"
    "global_worker = SimpleNamespace(original_visible_accelerator_ids=shown)",
}
ASKS = """
import os, sys
import ray._private.utils, ray._private.worker
told = [ray._private.worker.global_worker.original_visible_accelerator_ids["GPU"]]
ray._private.utils.set_omp_num_threads_if_unset()
os.environ["CUDA_VISIBLE_DEVICES"] = "3"  # as Ray does for a task
print(told, sys.modules["torch"].noted, os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize(
    ("platform", "given", "expected"),
    [
        # Ray chooses the threads
        ("nvidia", {}, "[['1', '2']] [5] 5"),
        # they are given, by the environment of the worker
        ("nvidia", {"OMP_NUM_THREADS": "3"}, "[['1', '2']] [3] 3"),
        # hardware=cpu sets them before the server starts, and shows no devices
        ("cpu", {"OMP_NUM_THREADS": "3"}, "[['0']] [] 3"),
    ],
)
def test_a_worker_follows_the_devices_and_threads_that_a_fresh_process_would_read(
    platform: str, given: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "ray" / "_private").mkdir(parents=True)
    (tmp_path / "ray" / "__init__.py").touch()
    (tmp_path / "ray" / "_private" / "__init__.py").touch()
    for name, source in RAY_PRIVATE.items():
        (tmp_path / "ray" / "_private" / f"{name}.py").write_text(source)
    (tmp_path / "torch.py").write_text("noted = []\nset_num_threads = noted.append\n")
    (tmp_path / "worker.py").write_text(ASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        patch.setenv("VERL_PLATFORM", platform)
        server, address = start(tmp_path, '("torch", "ray._private.worker")')
    wait_for(address)
    shown = {"CUDA_VISIBLE_DEVICES": "1,2", "VERL_PLATFORM": platform, **given}
    assert ask(address, str(tmp_path / "worker.py"), cwd=tmp_path, **shown).stdout.strip() == expected
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=10) == 0


ASKED = """
import sys
sys.path.insert(0, {here!r})
asked, loaded = [], []
sys.addaudithook(lambda event, given: event == "ctypes.dlopen" and loaded.append(str(given[0])))
import torch.cuda
def stand_in(name, answer):
    def asking(*_, **__):
        asked.append(name)
        return answer
    return asking
answers = dict(is_available=True, device_count=1, current_device=0, get_device_capability=(9, 0), init=None)
for name, answer in dict(answers, _lazy_init=None, _device_count_nvml=1, get_device_properties=None).items():
    assert hasattr(torch.cuda, name), name
    setattr(torch.cuda, name, stand_in(name, answer))
import importlib, threading
from preloads import preloads
for module in preloads({{}}):
    importlib.import_module(module)
print(asked)
print([name for name in loaded if "cuda" in name or "nvidia" in name])
print([name for name in sys.modules if name in ("verl", "vllm", "torch._inductor.runtime.benchmarking")])
print(threading.active_count())
import verl.utils.device
print("is_available" in asked)
"""


@pytest.mark.slow
def test_no_import_of_a_server_on_gpus_asks_for_a_device_or_starts_a_thread_and_verl_s_does() -> None:
    code, env = ASKED.format(here=str(HERE)), {**os.environ, "VERL_PLATFORM": "nvidia"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["[]", "[]", "[]", "1", "True"]
