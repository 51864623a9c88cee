"""Memory that is free goes back to the system, and what the fork server imports for verl's actors is all of it."""

import subprocess
import sys

from tests.verl_plugin.test_patches import run

FREED = """
import re
from trm_agent.verl_plugin.cpu.heap import trim_heap
def own_mib():
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"Private_Dirty:\\s+(\\d+)", file.read())[1]) >> 10
blocks = [b"x" * 100_000 for _ in range(2000)]
full, last = own_mib(), blocks[-1]
del blocks
freed = own_mib()
trim_heap()
print(full - freed < 20, freed - own_mib() > 150)
"""

CONFIGS = """
import sys
from transformers import AutoModelForImageTextToText
mapping = AutoModelForImageTextToText._model_mapping
before = set(sys.modules)
import trm_agent.verl_plugin.actor.known_configs as known
imported = set(sys.modules)
assert list(mapping.keys()) == list(known.KNOWN)
print("patched:", len(imported - before) > 100, len(set(sys.modules) - imported))
"""


def test_free_pages_between_those_in_use_go_back():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr[-500:]) == ("True True\n", "")


def test_an_actor_that_asks_for_the_configurations_imports_none_more():
    done = run(CONFIGS)
    assert done.stdout.splitlines()[-1] == "patched: True 0", done.stderr[-1000:]
