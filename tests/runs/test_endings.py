"""The cause of a run's end in two lines: messages as torch, Ray, vLLM, verl and the hub wrote them, shortened."""

import pytest

from tests.runs.ending_messages import CASES
from tests.runs.ending_texts import DIED, ENGINE, engine_log
from trm_agent.runs.endings.explain import Ending, explain, second_line
from trm_agent.runs.endings.facts import Facts
from trm_agent.runs.endings.hung import HUNG
from trm_agent.runs.endings.rules import RULES, Again
from trm_agent.runs.endings.told import raised_in

FACTS = Facts(
    folder="runs/mine",
    space="13.2 MiB needed for a checkpoint, 0.1 MiB free",
    memory="the machine has 23.4 GiB of memory",
    num_oom_kills=0,
    model="org/some-7b",
)


@pytest.mark.parametrize(
    ("name", "told", "log", "words", "again"), CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)]
)
def test_a_message_has_its_cause_in_two_lines(name: str, told: str, log: str, words: str, again: Again) -> None:
    ending = explain(told, log, FACTS)
    assert (ending.name, ending.again) == (name, again), ending
    assert words in ending.cause
    for line in (ending.cause, second_line(ending, 20, "runs/mine/log.txt")):
        assert "\n" not in line
        assert len(line) < 600
        assert "{" not in line
        assert "\x1b" not in line


def test_a_process_that_the_kernel_may_have_killed_for_memory_says_so() -> None:
    facts = Facts(**{**FACTS.__dict__, "num_oom_kills": 1})
    killed = explain(DIED, "fork server: worker 24242 was killed by signal 9 (SIGKILL)", facts)
    # the machine's count is of other processes too
    assert killed.cause.startswith("the process WorkerDict was killed by signal 9 (SIGKILL), perhaps for memory: ")
    assert killed.cause.endswith("the kernel killed 1 for it meanwhile, and the machine has 23.4 GiB of memory")
    # without the fork server nobody has seen the signal
    assert explain(DIED, "", facts).name == "memory: kernel"


def test_a_401_of_another_service_is_not_the_hubs() -> None:
    url = "401 Client Error: Unauthorized for url: https://{}/x"
    assert explain(f"requests.exceptions.HTTPError: {url.format('tickets.mine')}", "", FACTS).name != "hub: gated"
    assert explain(f"requests.exceptions.HTTPError: {url.format('huggingface.co')}", "", FACTS).name == "hub: gated"


def test_a_count_of_the_machine_hides_no_cause_that_the_log_tells() -> None:
    facts = Facts(**{**FACTS.__dict__, "num_oom_kills": 3})
    log = engine_log("ValueError: Model architectures ['OddForCausalLM'] are not supported for now. Supported: [...]")
    assert explain(ENGINE, log, facts).name == "engine: architecture"
    assert explain(DIED, log, facts).name == "engine: architecture"


def test_a_message_of_no_rule_keeps_its_type_words_and_the_users_own_line() -> None:
    told = """Traceback (most recent call last):
  File "/home/me/my_env.py", line 12, in render
    return self.rows[0]
  File "/opt/env/lib/python3.11/site-packages/pandas/core.py", line 99, in __getitem__
    raise KeyError(key)
KeyError: 0

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/home/me/my_env.py", line 14, in render
    raise ValueError("the table is empty\\nand of no use")
my_env.Broken: the table is empty
and of no use
"""
    ending = explain(told, "", FACTS)
    assert ending.cause == "Broken: the table is empty and of no use (/home/me/my_env.py:14 in render)"
    assert [each.type for each in raised_in(told)] == ["KeyError", "Broken"]


def test_a_line_of_code_in_a_traceback_is_no_cause() -> None:
    told = """Traceback (most recent call last):
  File "/home/me/my_env.py", line 12, in render
    raise Broken("x") if full else OSError("No space left on device")  # or a MemoryError, CUDA out of memory
my_env.Broken: x
"""
    assert explain(told, "", FACTS).cause == "Broken: x (/home/me/my_env.py:12 in render)"


def test_the_same_command_is_promised_only_where_it_goes_on() -> None:
    ends = {again: Ending("x", "c", "do this", again) for again in Again}
    assert second_line(ends[Again.RESUMES], 20, "l").startswith("do this; the same command resumes it after step 20 (")
    assert second_line(ends[Again.THEN_RESUMES], 20, "l").startswith("do this; then the same command resumes it after")
    assert second_line(ends[Again.THEN_RESUMES], 0, "l").startswith("do this; then the same command begins it anew (")
    assert "would stop here again" in second_line(ends[Again.REPEATS], 20, "l")
    assert "resumes" not in second_line(ends[Again.REPEATS], 20, "l")


def test_every_rule_has_a_message() -> None:
    untold = {rule.name for rule in (*HUNG, *RULES)} - {name for name, *_ in CASES}
    assert untold <= {"file size limit", "memory: GPU, unsized", "memory: process", "Ray: start"}
