"""An environment of a user's own that is broken: told in one line, with the exception's type and place, before Ray."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest

from trm_agent.episode import Limits
from trm_agent.runs.environment_check import Trial, Wording, check_environment
from trm_agent.tasks import Task
from trm_envs import ToolEnv

WORDING = Wording("env.id=X", "env.module=None", "register it", "env.kwargs={} of X", remedy="; change them")


class Adds(ToolEnv):
    system_prompt = "Add. {answer}"

    def make_task(self) -> Any:
        return f"Say {self.np_random.integers(10**6)}."

    def score(self, answer: str) -> float:
        return 0.0


class NoFirstMessage(Adds):
    def make_task(self) -> Any:
        self.task = self.np_random.integers(9)


class NumberAsKey(Adds):
    def make_task(self) -> Any:
        self.task_key = self.np_random.integers(10**6)
        return "Say it."


class Unmade(Adds):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = {}["rows"]


class Empty(Adds):
    def make_task(self) -> Any:
        return [][0]


class TwoLines(Adds):
    def make_task(self) -> Any:
        raise RuntimeError("no rows\nat all")


class Refuses(Adds):
    def make_task(self) -> Any:
        raise ValueError("rows: got 0; allowed: 1 or more")


FAULTS = {
    "mine/NoFirstMessage-v0": (NoFirstMessage, ["make_task: got null; allowed: the first message as a text"]),
    "mine/NumberAsKey-v0": (NumberAsKey, ["make_task: got ", "and self.task_key as one where it is set"]),
    "mine/Unmade-v0": (Unmade, ["KeyError: 'rows' (at ", "test_broken_environments.py:", " in __init__)"]),
    "mine/Empty-v0": (Empty, ["IndexError: list index out of range (at ", " in make_task)"]),
    "mine/TwoLines-v0": (TwoLines, ["RuntimeError: no rows at all (at "]),
    "mine/Refuses-v0": (Refuses, ["of X: rows: got 0; allowed: 1 or more; change them"]),
    "mine/Absent-v0": ("tests.runs.test_broken_environments:Nowhere", ["AttributeError: ", "'Nowhere'"]),
    "mine/NoModule-v0": ("no_such_module:Task", ["ModuleNotFoundError: No module named 'no_such_module'"]),
    "mine/Number-v0": (lambda **_: 3, ["TypeError: The environment must inherit from the gymnasium.Env class"]),
    "mine/Game-v0": (
        "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        ["makes a CartPoleEnv, which is not a trm_envs.ToolEnv", "trm/Gym-v0 with the option env_id"],
    ),
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for env_id, (entry_point, _) in FAULTS.items():
        gymnasium.register(env_id, entry_point)
    yield
    for env_id in FAULTS:
        gymnasium.registry.pop(env_id)


@pytest.mark.parametrize("env_id", FAULTS)
def test_a_broken_environment_is_refused_with_what_it_raised_and_where(env_id: str) -> None:
    tasks = [Task(env_id, 0, {"horizon": 1, "split": "train"})]
    with pytest.raises(ValueError, match=r"^env.kwargs=\{\} of X: ") as refused:
        check_environment(Trial(env_id, None, {}, tasks, [Limits()], 100.0), WORDING)
    message = str(refused.value)
    assert [words for words in FAULTS[env_id][1] if words not in message] == [], message
    assert message.endswith("; change them")


def test_a_sound_one_passes() -> None:
    gymnasium.register("mine/Adds-v0", Adds)
    try:
        tasks = [Task("mine/Adds-v0", 0, {"horizon": 1, "split": split}) for split in ("train", "held_out")]
        check_environment(Trial("mine/Adds-v0", None, {}, tasks, [Limits()], 100.0), WORDING)
    finally:
        gymnasium.registry.pop("mine/Adds-v0")
