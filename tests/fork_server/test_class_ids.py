"""Random ids of Ray's in the forks of a process that has decorated actors."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
FORKS = """
import os, sys
if sys.argv[1:]:
    import trm_agent.fork_server.class_ids
import ray
from ray._raylet import ObjectID
ray.remote(type("Actor", (), {}))
read, write = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        os.write(write, ObjectID.from_random().hex()[:16].encode())
        os._exit(0)
for _ in range(2):
    os.wait()
drawn = os.read(read, 32)
print(drawn[:16] == drawn[16:])
"""


@pytest.mark.parametrize(("apart", "same"), [([], "True"), (["apart"], "False")])
def test_forks_draw_ids_of_their_own(apart: list[str], same: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, *apart], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [same]
