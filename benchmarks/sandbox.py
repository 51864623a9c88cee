"""Calls of the local sandbox against a bare subprocess and against other projects' Python tools.

python -m benchmarks.sandbox [--calls 10000] [--rounds 8] [--sessions 500] [--before FOLDER] [--rivals PYTHON]

Claims: a trivial call in full isolation, one after another, at 3 times the rate of `python -I -c` and at 10 times that
of a subprocess for which the same isolation is made; control groups cost at most a quarter of the rate; the latency of
64 calls at once; nothing is left behind by many calls; the start of a session and the memory of many idle ones. The
sides take turns in short rounds, so that a busy machine slows all of them alike. FOLDER is a checkout of an earlier
commit, whose sandbox is one side. PYTHON is an interpreter of an environment of its own in which
`gem-llm` and `skyrl-gym` are installed; their tools start the `python` beside it, without isolation.
"""

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.confined_subprocess import ConfinedSubprocess
from trm_envs.sandbox import Limits, LocalSandbox
from trm_envs.sandbox.local.cgroups import groups_of_this_process

CODE = "print(1)"
SYSTEM_PYTHON = "/usr/bin/python3"
CALLS_A_ROUND = 25
CONCURRENCY = 64
BEFORE = (
    "from trm_envs.sandbox import LocalSandbox\n"
    f"sandbox = LocalSandbox()\ndef call(): assert sandbox.run('{CODE}').stdout == '1\\n'"
)
RIVALS = {
    "GEM": f"from gem.tools.python_code_tool import PythonCodeTool\n"
    f"tool = PythonCodeTool()\ndef call(): assert '1' in tool.execute_action('<python>{CODE}</python>')[2]",
    "SkyRL-gym": f"from skyrl_gym.tools import PythonCodeExecutorToolGroup\n"
    f"tool = PythonCodeExecutorToolGroup()\ndef call(): assert tool.execute_tool('python', '{CODE}') == '1'",
}
RIVAL_LOOP = (
    "\nimport sys, time\ncall()\nfor line in sys.stdin:\n    started = time.perf_counter()\n"
    "    for _ in range(int(line)): call()\n    print('seconds', time.perf_counter() - started, flush=True)\n"
)


def seconds_of(call: Callable[[], object], number: int) -> float:
    """Seconds that so many calls take, one after another."""
    started = time.perf_counter()
    for _ in range(number):
        call()
    return time.perf_counter() - started


def bare(python: str, number: int) -> float:
    """Seconds of a bare interpreter."""
    command = [python, "-I", "-c", CODE]
    return seconds_of(lambda: subprocess.run(command, capture_output=True, text=True, check=True), number)


def in_namespaces(number: int) -> float:
    """Seconds of an interpreter in namespaces of its own, made by bubblewrap for each call, and nothing else."""
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command += [SYSTEM_PYTHON, "-I", "-c", CODE]
    return seconds_of(lambda: subprocess.run(command, capture_output=True, text=True, check=True), number)


def ours(sandbox: LocalSandbox, number: int) -> float:
    """Seconds of the sandbox."""

    def call() -> None:
        result = sandbox.run(CODE)
        assert result.stdout == "1\n", result

    return seconds_of(call, number)


@contextlib.contextmanager
def rival(python: str, setup: str, **environment: str) -> Iterator[Callable[[int], float]]:
    """A process of another project's tool; yields a function from a number of calls to their seconds."""
    path = f"{os.path.dirname(os.path.abspath(python))}:{os.environ['PATH']}"
    with subprocess.Popen(
        [python, "-c", setup + RIVAL_LOOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path, **environment},
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(number: int) -> float:
            assert process.stdin
            assert process.stdout
            with contextlib.suppress(BrokenPipeError):
                print(number, file=process.stdin, flush=True)
            for line in process.stdout:
                if line.startswith("seconds "):
                    return float(line.split()[1])
            assert process.stderr
            raise RuntimeError(process.stderr.read().strip().rpartition("\n")[2])

        try:
            yield ask
        finally:
            process.stdin.close()


def one_after_another(
    sandbox: LocalSandbox, without: LocalSandbox, rounds: int, rivals: str | None, before: Path | None
) -> None:
    """Print calls per second of all sides, and how many times as fast the sandbox is."""
    sides: dict[str, Callable[[int], float]] = {
        "sandbox": lambda number: ours(sandbox, number),
        'sandbox, cgroups="off"': lambda number: ours(without, number),
    }
    for python in dict.fromkeys((sys.executable, SYSTEM_PYTHON)):
        if os.path.exists(python):
            sides[f"{python} -I -c"] = lambda number, python=python: bare(python, number)  # type: ignore[misc]
    sides[f"{SYSTEM_PYTHON} in namespaces alone"] = in_namespaces
    confined = ConfinedSubprocess(SYSTEM_PYTHON, CODE, Limits(), groups_of_this_process())
    sides[f"{SYSTEM_PYTHON} as isolated as the sandbox"] = lambda number: seconds_of(confined.run, number)
    with contextlib.ExitStack() as stack:
        if before:
            path = f"{before.resolve() / 'envs'}:{before.resolve()}"
            sides[f"sandbox of {before}"] = stack.enter_context(rival(sys.executable, BEFORE, PYTHONPATH=path))
        for name, setup in RIVALS.items() if rivals else ():
            side = stack.enter_context(rival(rivals, setup))  # type: ignore[arg-type]
            try:
                side(1)
                sides[name] = side
            except RuntimeError as error:
                print(f"{name} left out: {error}")
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                times[name].append(side(CALLS_A_ROUND) / CALLS_A_ROUND)
    print(f"\n{'one after another':<44}{'calls / s':>10}{'ms':>8}{'sandbox is faster by':>22}")
    for name, seconds in times.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds, times["sandbox"], strict=True))
        middle = statistics.median(seconds)
        print(f"{name:<44}{1 / middle:>10.1f}{middle * 1e3:>8.2f}{ratio:>22.2f}")


def at_once(sandbox: LocalSandbox, number: int) -> None:
    """Print the latency of calls of which 64 wait at any time."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        started = time.perf_counter()
        latencies = sorted(pool.map(lambda _: ours(sandbox, 1), range(number)))
        elapsed = time.perf_counter() - started
    p50, p99 = latencies[number // 2], latencies[int(number * 0.99)]
    print(
        f"\n{number} calls, {CONCURRENCY} at once: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, "
        f"{number / elapsed:.0f} calls / s ({sandbox.max_concurrent} run at one time, the others wait their turn)"
    )


def started(sides: dict[str, LocalSandbox], rounds: int) -> None:
    """Print the milliseconds of a session's first cell and of a later one, the sides in turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(5 * rounds):
        for name, sandbox in sides.items():
            begin = time.perf_counter()
            with sandbox.session() as session:
                assert session.run("x = 1").ok
                first = time.perf_counter()
                assert session.run("x").ok
                times[name].append((first - begin, time.perf_counter() - first))
    print(f"\n{'sessions':<44}{'first cell, ms':>15}{'second, ms':>12}")
    for name, pairs in times.items():
        first, second = (statistics.median(part) * 1e3 for part in zip(*pairs, strict=True))
        print(f"{name:<44}{first:>15.2f}{second:>12.2f}")


def idle(sandbox: LocalSandbox, number: int) -> None:
    """Print the memory, the descriptors and the time that so many idle sessions take."""
    with contextlib.ExitStack() as stack:
        before, begin = held(), time.perf_counter()
        sessions = [stack.enter_context(sandbox.session()) for _ in range(number)]
        for session in sessions:
            assert session.run("x = 1").ok
        elapsed, after = time.perf_counter() - begin, held()
        begin = time.perf_counter()
        assert all(session.run("print(x)").stdout == "1\n" for session in sessions)
        woken = time.perf_counter() - begin
    proportional = after["proportional KiB"] - before["proportional KiB"]
    print(f"\n{number} idle sessions: {proportional / 1024:.0f} MiB, {proportional / number:.0f} KiB each; ", end="")
    print(f"{(after['descriptors'] - before['descriptors']) / number:.1f} descriptors each; ", end="")
    print(f"opened in {elapsed:.1f} s, each asked once more in {woken:.1f} s")


def held() -> dict[str, int]:
    """What this process and its descendants hold."""
    frontier, processes, proportional = [os.getpid()], 0, 0
    while frontier:
        pid = frontier.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
                frontier += map(int, children)
                processes += len(children)
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            proportional += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    groups = Path("/proc/cgroups").read_text().splitlines()[1:]
    return {
        "resident KiB": resident >> 10,
        "proportional KiB": proportional,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "processes": processes,
        "control groups of the machine": sum(int(line.split()[2]) for line in groups),
        "groups of ours": sum(1 for _ in Path("/sys/fs/cgroup").glob(f"**/trm-sandbox-*-{os.getpid()}-*/*/")),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
    }


def many(sandbox: LocalSandbox, calls: int) -> None:
    """Print what is held before and after so many calls."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ours(sandbox, 100), range(4)))
        time.sleep(1)
        before = held()
        list(pool.map(lambda _: ours(sandbox, calls // 4), range(4)))
        time.sleep(1)
        after = held()
    print(f"\n{f'{calls} calls':<30}{'before':>10}{'after':>10}")
    for name in before:
        print(f"{name:<30}{before[name]:>10}{after[name]:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000, help="calls of the last part (default 10000)")
    parser.add_argument("--rounds", type=int, default=8, help=f"rounds of {CALLS_A_ROUND} calls a side (default 8)")
    parser.add_argument("--sessions", type=int, default=500, help="idle sessions (default 500)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="checkout of an earlier commit, as one more side")
    parser.add_argument("--rivals", metavar="PYTHON", help="interpreter that has gem-llm and skyrl-gym installed")
    arguments = parser.parse_args()
    with LocalSandbox() as sandbox, LocalSandbox(cgroups="off") as without:
        for name, means in sandbox.isolation.items():
            print(f"{name}: {means}")
        if not arguments.rivals:
            print("GEM and SkyRL-gym left out: no --rivals PYTHON")
        one_after_another(sandbox, without, arguments.rounds, arguments.rivals, arguments.before)
        at_once(sandbox, 10 * CONCURRENCY)
        many(sandbox, arguments.calls)
        started({"sandbox": sandbox, 'sandbox, cgroups="off"': without}, arguments.rounds)
        idle(sandbox, arguments.sessions)


if __name__ == "__main__":
    main()
