"""When the supervisor looks at a program, and whom it stops for that, on a clock of the test's own."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from trm_envs.sandbox.guest import crowds, looks, memory, rest
from trm_envs.sandbox.guest.looks import Looks

MIB = 1 << 20
COUNTING_S = 0.03


class World:
    """A clock, processes and their memory; `events` are the steps of PID 1."""

    def __init__(self) -> None:
        self.now, self.events = 100.0, list[str]()
        self.size, self.left = crowds.Size(1, 1), 400 * MIB
        self.running = SimpleNamespace(
            memory_left=self._count,
            overreaches=lambda proc, stops: False,
            share=SimpleNamespace(lower=lambda proc: self.events.append("lower"), look=lambda proc: None),
        )

    def _count(self, proc: int, order: object, stops: bool, deadline: float) -> int:
        self.events.append("count")
        self.now += COUNTING_S
        return self.left

    def see(self, proc: int) -> crowds.Size:
        self.events.append("see")
        return self.size

    @contextlib.contextmanager
    def stopped(self, proc: int) -> Iterator[None]:
        self.events.append("stop")
        yield
        self.events.append("go on")

    def looks(self, has_memory: bool = False) -> Looks:
        order = SimpleNamespace(has_memory=has_memory, has_share=False, memory_bytes=self.left)
        return Looks(self.running, order, 1e9, 0)  # type: ignore[arg-type]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(looks, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(crowds, "size", made.see)
    monkeypatch.setattr(rest, "stopped", made.stopped)
    monkeypatch.setattr(memory, "_PROCESSORS", 2)
    return made


@pytest.mark.parametrize(
    ("left", "processes", "seconds"),
    [
        (64 * MIB, 1, 1 / 128),  # it may be two at any moment, which fill 8 GiB a second
        (64 * MIB, 4, 1 / 256),  # half of that: PID 1 may be late
        (1 * MIB, 4, memory.SHORTEST_WATCH_S),
        (1 << 40, 1, memory.WATCH_S),
    ],
)
def test_a_look_comes_before_what_is_left_can_be_used_up(
    world: World, left: int, processes: int, seconds: float
) -> None:
    assert memory.patience(left, processes) == seconds


def test_the_next_look_is_planned_from_when_the_last_one_began_to_count(world: World) -> None:
    made = world.looks()
    world.left = 64 * MIB
    assert made.look()
    # what came while it counted, 30 ms, may not have been seen: the next look is late already
    assert made.next == 100.0 + 1 / 128 < world.now


def test_of_those_that_were_stopped_nothing_grows_until_they_go_on(world: World) -> None:
    made = world.looks()
    world.size, world.left = crowds.Size(10, 10), 64 * MIB
    assert made.look()
    assert world.events == ["see", "stop", "count", "lower", "go on"]
    assert made.next == 100.0 + COUNTING_S + 1 / 256


def test_several_that_can_have_used_up_what_was_left_are_stopped_before_they_are_seen(world: World) -> None:
    made = world.looks()
    world.size, world.left = crowds.Size(4, 4), 64 * MIB
    made.look()
    world.events.clear()
    world.now = 100.0 + 0.0079  # 64 MiB at 8 GiB a second take 7.8 ms
    made.look()
    assert world.events == ["stop", "see", "count", "go on"]


def test_nobody_is_stopped_by_a_look_in_time(world: World) -> None:
    made = world.looks()
    world.size = crowds.Size(4, 4)
    for _ in range(3):
        world.now = max(world.now, made.next)
        made.look()
    assert "stop" not in world.events


def test_a_single_process_is_held_by_its_own_limit_and_others_by_a_memory_group(world: World) -> None:
    for size, has_memory in ((crowds.Size(1, 30), False), (crowds.Size(4, 4), True)):
        world.size, world.left = size, 64 * MIB
        made = world.looks(has_memory)
        for _ in range(2):
            world.now += 1.0
            made.look()
    assert "stop" not in world.events


def test_who_has_used_up_the_memory_is_told(world: World) -> None:
    made = world.looks()
    world.left = -1
    assert not made.look()


@pytest.mark.parametrize("threads", [2, crowds.CROWD + 1])
def test_a_look_that_stops_nobody_wakes_those_that_were_born_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(rest, "wake_newborn", lambda proc: world.events.append("wake"))
    world.size = crowds.Size(2, threads)
    assert world.looks().look()
    expected = ["see", "wake", "count"] if threads == 2 else ["see", "stop", "count", "lower", "go on"]
    assert world.events == expected
