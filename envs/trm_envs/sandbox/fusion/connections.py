"""The connections of the server: how many there are, and how long a client may take, before anyone is asked who it is.

aiohttp sees a connection only once the head of a request is complete, and has deadlines for nothing but idleness. A
`Gate` stands before it: it collects the head, hands everything on after it, and a `Porter` drops what takes too long.
"""

import asyncio
import enum
import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from trm_envs.sandbox.fusion.bounds import Bounds

if TYPE_CHECKING:
    from aiohttp import web

SWEEP_S = 0.25
"""Interval at which deadlines are looked at."""
MOMENT_S = 0.5
"""Age from which a connection that says nothing makes way for others: in a flood, a good one speaks sooner."""
_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_BUFFER_BYTES = 1 << 15
_UNREAD_BYTES = 8 * _BUFFER_BYTES
"""Bytes after a complete head in which aiohttp must have seen it."""
_EMPTY = b"Content-Length: 0\r\nConnection: close\r\n\r\n"
_TOO_SLOW, _TOO_LONG, _TOO_MANY = (
    b"HTTP/1.1 " + words + b"\r\n" + _EMPTY
    for words in (b"408 Request Timeout", b"431 Request Header Fields Too Large", b"503 Service Unavailable")
)


class State(enum.Enum):
    """Stages of a connection."""

    HEAD = "no complete head"
    """Nothing of a request has come, or not its whole head."""
    READ = "no request in what was sent"
    """A head was handed on; whether it is one is not known yet."""
    BODY = "no complete body"
    """A request's body is read, or waits to be."""
    RUNS = "an answer"
    """A request is carried out or answered."""
    ENDS = "a refusal"
    """The connection is about to be closed, and what still comes is thrown away."""


class Gate(asyncio.BufferedProtocol):
    """One connection.

    Args:
        porter: the porter of all connections.
        inner: makes aiohttp's protocol.
    """

    def __init__(self, porter: "Porter", inner: "Callable[[], web.RequestHandler]") -> None:
        self._porter, self._make_inner = porter, inner
        self.inner: Any = None
        self.transport: Any = None
        self.address = ""
        self.state = State.HEAD
        self.is_new = True
        self.since = self.until = 0.0
        self._ahead = bytearray()
        self._unread = self._unsent = 0
        self._unsent_until = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the porter for admission."""
        self.transport = transport
        self.address = network_of((transport.get_extra_info("peername") or ("?",))[0])
        self._enter(State.HEAD, self._porter.bounds.head_s)
        if not self._porter.admit(self):
            self.refuse(_TOO_MANY)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._porter.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that came: to aiohttp, or aside until a head is complete or an earlier request is answered."""
        data = bytes(self._porter.buffer[:nbytes])
        if self.state is State.ENDS:
            return
        if self.state is State.BODY or (self.state is State.READ and not self._ahead):
            self._unread += nbytes if self.state is State.READ else 0
            self.inner.data_received(data) if self._unread <= _UNREAD_BYTES else self.drop(self.state.value)
            return
        if self.state is State.HEAD and not self._ahead and not self.is_new and data.strip(_LINE_END):
            self._enter(State.HEAD, self._porter.bounds.head_s)
        self._ahead += data
        self._hand_on(max(0, len(self._ahead) - nbytes - len(_END)))

    def _hand_on(self, searched: int = 0) -> None:
        """Hand on what was laid aside if it holds a complete head."""
        most = self._porter.bounds.head_bytes
        if self.state is State.HEAD and self._ahead[:1] in _LINE_END:  # no head, but passed over before one
            self._ahead, searched = self._ahead.lstrip(_LINE_END), 0
        if self.state is State.HEAD and 0 <= self._ahead.find(_END, searched) <= most:
            data, self._ahead = bytes(self._ahead), bytearray()
            if self.inner is None:
                self.inner = self._make_inner()
                self.inner.connection_made(self.transport)
                self._porter.by_inner[self.inner] = self
            self._enter(State.READ, self._porter.bounds.head_s)
            self._unread = 0
            self.inner.data_received(data)
        elif len(self._ahead) > most:
            self.refuse(_TOO_LONG) if self.state is State.HEAD else self.drop("sent ahead too much")

    def begin(self) -> None:
        """Note that a request has begun and its body may be read."""
        self.is_new = False
        self._porter.hear(self)
        self._enter(State.BODY, None)
        if self._ahead:  # parts of this body, if its head was sent ahead
            data, self._ahead = bytes(self._ahead), bytearray()
            self.inner.data_received(data)

    def run(self) -> None:
        """Note that the body is complete: what comes from now on belongs to a later request."""
        self._enter(State.RUNS, None)
        if not self.transport.is_closing():
            self.transport.resume_reading()  # or nobody would see it hang up

    def finish(self, goes_on: bool) -> None:
        """Note that a request is answered.

        Args:
            goes_on: whether the connection stays; it cannot if a body was not read to its end.
        """
        bounds = self._porter.bounds
        self._enter(State.HEAD if goes_on else State.ENDS, bounds.idle_s if goes_on else bounds.slow_s)
        if goes_on and self._ahead:
            self._enter(State.HEAD, bounds.head_s)
            asyncio.get_running_loop().call_soon(self._hand_on)

    def refuse(self, answer: bytes) -> None:
        """Answer without a request, and hang up."""
        self._enter(State.ENDS, self._porter.bounds.slow_s)
        self._ahead.clear()
        self.transport.write(answer)
        self.transport.close()

    def drop(self, why: str) -> None:
        """Hang up at once."""
        self._porter.note(self, why)
        self._porter.forget(self)
        self._ahead.clear()
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Drop the connection if its client has taken too long."""
        bounds = self._porter.bounds
        unsent = self.transport.get_write_buffer_size()
        if unsent > self._unsent:
            self._unsent_until = max(self._unsent_until, now + bounds.slow_s + unsent / bounds.rate)
        self._unsent = unsent
        if unsent and now > self._unsent_until:
            self.drop("its answer was not taken")
        elif now > self.until and not unsent:
            if self.state is State.HEAD and self._ahead:
                self._porter.note(self, self.state.value)
                self.refuse(_TOO_SLOW)
            else:
                is_idle = self.state is State.ENDS or (self.state is State.HEAD and not self.is_new)
                self.drop("" if is_idle else self.state.value)

    def eof_received(self) -> bool | None:
        """Close the connection."""
        return self.inner.eof_received() if self.inner is not None else None

    def pause_writing(self) -> None:
        """Have aiohttp wait for the client."""
        if self.inner is not None:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Have aiohttp go on."""
        if self.inner is not None:
            self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a request that runs is cancelled."""
        self._porter.forget(self)
        if self.inner is not None:
            self.inner.connection_lost(exc)
            self._porter.by_inner.pop(self.inner, None)

    def _enter(self, state: State, seconds: float | None) -> None:
        self.state, self.since = state, time.monotonic()
        self.until = self.since + seconds if seconds is not None else float("inf")


class Porter:
    """Counts connections, makes room for new ones and drops those that take too long.

    Args:
        bounds: the server's limits.
        log: takes lines for the log.
    """

    def __init__(self, bounds: Bounds, log: Callable[[str], None]) -> None:
        self.bounds = bounds
        # one for all connections of a server, whose loop takes the content out before the next one reads
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.by_inner: dict[Any, Gate] = {}
        self._log = log
        # the oldest first
        self._all: dict[Gate, None] = {}
        self._all_silent: dict[Gate, None] = {}
        self._gates: dict[str, dict[Gate, None]] = {}
        self._silent: dict[str, dict[Gate, None]] = {}
        self._notes: dict[str, list[str]] = {}

    def admit(self, gate: Gate) -> bool:
        """Count a new connection in, at the cost of one that says nothing if there are too many; False if none is."""
        bounds, address = self.bounds, gate.address
        same, own = self._gates.get(address, {}), self._silent.get(address, {})
        self._thin_out(own, bounds.address_silent)
        self._thin_out(self._all_silent, bounds.silent)
        is_full = len(same) >= bounds.address_connections and not self._make_way(own, list(same))
        is_full = is_full or (len(self._all) >= bounds.connections and not self._make_way(self._all_silent, self._all))
        # whoever made way may have been the last of its address, whose counts are gone then
        same, own = self._gates.setdefault(address, {}), self._silent.setdefault(address, {})
        for gates in (same, own, self._all, self._all_silent):
            gates[gate] = None
        return not is_full

    def _thin_out(self, silent: dict[Gate, None], most: int) -> None:
        """Drop the oldest silent connection if there are too many and it has had a moment to speak."""
        if len(silent) >= most and (oldest := next(iter(silent))).since < time.monotonic() - MOMENT_S:
            oldest.drop("too many connections")

    def _make_way(self, silent: dict[Gate, None], gates: Iterable[Gate]) -> bool:
        """Drop the connection that has waited longest without a request, or else with half of one; False if none."""
        if silent:
            next(iter(silent)).drop("too many connections")
            return True
        for state in (State.HEAD, State.READ, State.BODY):
            idle = [each for each in gates if each.state is state and not each.transport.get_write_buffer_size()]
            if idle:
                min(idle, key=lambda each: each.since).drop("too many connections")
                return True
        return False

    def hear(self, gate: Gate) -> None:
        """Note that a connection says something."""
        self._all_silent.pop(gate, None)
        self._silent.get(gate.address, {}).pop(gate, None)

    def forget(self, gate: Gate) -> None:
        """Count a connection out; may be called again."""
        self.hear(gate)
        self._all.pop(gate, None)
        for counted in (self._gates, self._silent):
            same = counted.get(gate.address, {})
            same.pop(gate, None)
            if not same:
                counted.pop(gate.address, None)

    def note(self, gate: Gate, why: str) -> None:
        """Note that a connection was dropped; the log has one line for all of a second."""
        if why:
            self._notes.setdefault(why, []).append(gate.address)

    async def watch(self) -> None:
        """Look at the deadlines until cancelled."""
        while True:
            for _ in range(round(1 / SWEEP_S)):
                await asyncio.sleep(SWEEP_S)
                now = time.monotonic()
                for gate in list(self._all):
                    gate.sweep(now)
            for why, addresses in self._notes.items():
                more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
                self._log(f"{addresses[0]} dropped{more}: {why}")
            self._notes.clear()

    def close(self) -> None:
        """Hang up on everyone."""
        for gate in list(self._all):
            gate.transport.abort()


def network_of(host: str) -> str:
    """Return the address that a client is counted under: of IPv6 its /64 network, which one machine may own."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
