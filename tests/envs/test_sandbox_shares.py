"""No program has more of the processor than another one by its threads, processes, sessions or weights."""

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.envs.sandbox_attacks_shares import GREEDY, ONE
from tests.envs.sandbox_settings import Setting, setting  # noqa: F401
from tests.envs.sandbox_support import MIB, TIGHT, needs_bubblewrap
from trm_envs.sandbox import Status

pytestmark = [pytest.mark.slow, pytest.mark.alone, needs_bubblewrap]

LIMITS = dataclasses.replace(TIGHT, wall_s=8.0, cpu_s=60, memory_bytes=512 * MIB, processes=40)
HONEST = """
import time
start, used = time.monotonic(), time.process_time()
while time.monotonic() - start < 0.5: pass
print((time.process_time() - used) / (time.monotonic() - start))
"""


@pytest.fixture(scope="module")
def usual(setting: Setting) -> float:  # noqa: F811
    """What is left for others by a program with one thread."""
    return left_by(setting, ONE)


def left_by(setting: Setting, code: str) -> float:  # noqa: F811
    """The share of a processor that each of as many honest programs as there are processors has beside another one."""
    number = os.cpu_count() or 1
    with ThreadPoolExecutor(number + 1) as threads:
        other = threads.submit(setting.run, code, limits=LIMITS)
        time.sleep(0.4)
        honest = list(threads.map(lambda _: setting.run(HONEST, limits=LIMITS), range(number)))
        assert other.result().status is Status.OK, other.result()
    return sum(float(result.stdout) for result in honest) / number


@pytest.mark.parametrize("name", GREEDY)
def test_nobody_takes_more_than_one_share(setting: Setting, usual: float, name: str) -> None:  # noqa: F811
    # 30 threads with a share each would leave about a tenth of what one leaves
    shares = [(usual, left_by(setting, GREEDY[name]))]
    # what else the machine does may fall on one measurement and not on the other; greed that pays does so each time
    while shares[-1][1] <= 0.5 * shares[-1][0] and len(shares) < 3:
        shares.append((left_by(setting, ONE), left_by(setting, GREEDY[name])))
    assert shares[-1][1] > 0.5 * shares[-1][0], shares


def test_a_child_leads_a_session_where_control_groups_weigh_it(setting: Setting) -> None:  # noqa: F811
    code = "import os\nif os.fork() == 0:\n    try: os.setsid()\n    except PermissionError: os._exit(3)\n"
    code += "    os._exit(0)\n"
    code += "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    assert setting.run(code, limits=LIMITS).stdout == ("0\n" if setting.has_cgroups else "3\n")


_CHILDREN = "for _ in range({}):\n    if os.fork() == 0: os.close(go); os.read(waits, 1); os._exit(0)\n"
_THREADS = "for _ in range({}): threading.Thread(target=os.read, args=(waits, 1)).start()\n"
CROWDS = {
    "ten children": (_CHILDREN.format(10), 10),  # 1.25^10 = 9.3: at 10 first, nine together weigh less than one
    "a child and nine threads": (_CHILDREN.format(1) + _THREADS.format(9), 10),
    "nine threads and a child": (_THREADS.format(9) + _CHILDREN.format(1), 10),
    "nine threads": (_THREADS.format(9), 0),  # one process is held by its own limits
    "five children": (_CHILDREN.format(5), 0),
}


@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_weighs_less_as_soon_as_it_is_seen(setting: Setting, name: str) -> None:  # noqa: F811
    made, nice = CROWDS[name]
    code = "import os, threading, time\ndef nice(): return os.getpriority(os.PRIO_PROCESS, 0)\nfirst = nice()\n"
    code += f"waits, go = os.pipe()\n{made}"
    # processes are counted at the next look, 50 ms later at most where nobody else waits for a processor
    looks = 0 if setting.has_cgroups else nice
    code += f"end = time.monotonic() + 2\nwhile nice() - first < {looks} and time.monotonic() < end: pass\n"
    code += "time.sleep(0.1)\nprint(first, nice() - first)\nos.close(go)"
    result = setting.run(code, limits=LIMITS)
    assert result.status is Status.OK, result
    first, lowered = map(int, result.stdout.split())
    least = 0 if setting.has_cgroups else min(nice, 19 - first)
    assert least <= lowered <= (least + 2 if least else 0)
