"""Places of the server: no address, however many requests it sends, keeps another one from its turn."""

import asyncio
import contextlib
import select
import socket
import time
from typing import Any

import pytest

from tests.envs.fusion_support import FakeSandbox, running_server
from tests.envs.test_sandbox_server import program, request
from trm_envs.sandbox.fusion import door
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.places import Places


class Quiet:
    """A reply whose client is told nothing."""

    response = None

    async def wait_for(self, waiting: Any) -> Any:
        return await waiting


async def in_turn(places: Places, addresses: str) -> tuple[list[str], list[asyncio.Task[None]]]:
    """Requests that wait, one a letter, and the addresses as their turns come."""
    turns: list[str] = []

    async def wait(address: str) -> None:
        await places.take(Quiet(), address)  # type: ignore[arg-type]
        turns.append(address)

    tasks = [asyncio.create_task(wait(address)) for address in addresses]
    await asyncio.sleep(0)
    return turns, tasks


async def freed(places: Places, number: int) -> None:
    for _ in range(number):
        places.give_back()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("waiting", "turns"),
    [("aaaaabb", "ababaaa"), ("abcabc", "abcabc"), ("aaab", "abaa"), ("bbba", "babb"), ("aaa", "aaa")],
)
async def test_addresses_have_their_turns_one_after_another(waiting: str, turns: str) -> None:
    places = Places(1, 100, 100)
    await places.take(Quiet(), "a")  # type: ignore[arg-type]
    told, tasks = await in_turn(places, waiting)
    assert told == []
    await freed(places, len(waiting))
    assert "".join(told) == turns
    await asyncio.gather(*tasks)


async def test_a_client_that_hangs_up_takes_no_turn_and_keeps_no_place() -> None:
    places = Places(1, 100, 100)
    await places.take(Quiet(), "a")  # type: ignore[arg-type]
    told, tasks = await in_turn(places, "abab")
    tasks[0].cancel()
    await asyncio.sleep(0)
    places.give_back()
    tasks[2].cancel()  # at the very moment at which it was handed the place
    await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
    await asyncio.sleep(0)
    assert told == ["b"]
    await freed(places, 1)
    assert told == ["b", "b"]
    await freed(places, 1)
    late, _ = await in_turn(places, "cc")
    await asyncio.sleep(0)
    assert late == ["c"]


async def test_a_client_that_hangs_up_costs_its_address_no_turn() -> None:
    places = Places(1, 100, 100)
    await places.take(Quiet(), "a")  # type: ignore[arg-type]
    told, tasks = await in_turn(places, "ababc")
    for hung_up in (tasks[0], tasks[4]):
        hung_up.cancel()
    await asyncio.sleep(0)
    assert sorted(places._lines) == ["a", "b"]
    await freed(places, 3)
    assert "".join(told) == "abb"


def test_an_address_is_full_before_all_are() -> None:
    places = Places(2, 4, 1)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            assert not places.is_full_for("a")
            stack.enter_context(places.entered("a"))
        assert (places.is_full_for("a"), places.is_full_for("b"), places.num_inside) == (True, False, 3)
        for address in "bbc":
            stack.enter_context(places.entered(address))
        assert (places.is_full_for("c"), places.is_full_for("d")) == (True, True)
    assert (places.is_full_for("a"), places.num_inside) == (False, 0)


def test_many_requests_of_one_address_send_no_other_one_away() -> None:
    fake = FakeSandbox(seconds=60)
    bounds = Bounds(waiting=4, address_waiting=1)
    with running_server(fake, max_concurrent=1, bounds=bounds) as url, contextlib.ExitStack() as stack:  # type: ignore[arg-type]
        address = ("127.0.0.1", int(url.rpartition(":")[2]))

        def answers(source: str, number: int, expected: int) -> list[bytes]:
            clients = [
                stack.enter_context(socket.create_connection(address, source_address=(source, 0)))
                for _ in range(number)
            ]
            for client in clients:
                client.sendall(request(program()))
            told: list[bytes] = []
            over = time.monotonic() + 20
            while len(told) < expected and (left := over - time.monotonic()) > 0:
                for client in select.select(clients, [], [], left)[0]:
                    told.append(client.recv(12))
                    clients.remove(client)
            time.sleep(0.1)
            return sorted([*told, *(b"more" for _ in select.select(clients, [], [], 0)[0])])

        # one runs and says nothing, one waits with signs of life
        assert answers("127.0.0.1", 4, 3) == [b"HTTP/1.1 200", b"HTTP/1.1 503", b"HTTP/1.1 503"]
        assert answers("127.0.0.2", 1, 1) == [b"HTTP/1.1 200"]


def test_an_empty_token_in_the_environment_is_none_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.VARIABLE, "")
    with pytest.raises(ValueError, match="TRM_SANDBOX_TOKEN: is empty; allowed: a token"):
        door.find_token(None, None)
    assert door.find_token("given", None)[0] == "given"
    monkeypatch.delenv(door.VARIABLE)
    assert door.find_token(None, None) == (None, None)
