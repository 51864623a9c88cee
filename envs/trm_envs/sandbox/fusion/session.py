"""Sessions over a protocol that has none: every call sends all cells so far and takes the result of the last."""

import asyncio
import dataclasses
from typing import Any

from sandbox_fusion.models import CommandRunStatus, RunJupyterRequest, RunJupyterResponse, RunStatus

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.link import Call, Link, LinkedRunner
from trm_envs.sandbox.fusion.poster import TOO_LONG, TOO_MUCH, Poster
from trm_envs.sandbox.interface import Limits, Result, SandboxClosed, Status
from trm_envs.sandbox.request import Request

REPLAY_FACTOR = 3.0
"""Factor by which replayed cells may take longer than before."""
REPLAY_SPARE_S, CELL_SPARE_S = 5.0, 0.25
"""Seconds beside it, for all cells and for each: a session with many processes takes some to pause and go on."""
MOST_TOTAL_S = 300.0
"""Longest time of a call with its replay, which is also our own server's default limit."""
_OF_REPLAY = ("total_timeout", '"cells"')
"""Fields that a server may refuse because of the cells before."""
_WRITE = (
    "for _trm_name, _trm_data in {files!r}.items():\n"
    "    __import__('os').makedirs(__import__('os.path').path.dirname(_trm_name) or '.', exist_ok=True)\n"
    "    with open(_trm_name, 'wb') as _trm_file: _trm_file.write(__import__('base64').b64decode(_trm_data))\n"
    "globals().pop('_trm_name', None), globals().pop('_trm_data', None), globals().pop('_trm_file', None)"
)


@dataclasses.dataclass(frozen=True)
class _Cell:
    code: str
    raised: bool


@dataclasses.dataclass(frozen=True)
class _State:
    """The replayed part of a call."""

    first_files: dict[str, str]
    """Files to write before the first cell, packed."""
    cells: tuple[_Cell, ...] = ()
    """The cells so far."""
    replay_s: float = 0.0
    """Seconds that they took."""
    wall_s: float = 0.0
    """The longest limit of one of them."""

    @property
    def least_s(self) -> float:
        """The seconds that a replay and one more cell may need at least."""
        return self.wall_s + self.replay_s

    @property
    def total_s(self) -> float:
        """The seconds that a replay and one more cell are given."""
        spare_s = REPLAY_SPARE_S + CELL_SPARE_S * len(self.cells) if self.cells else 0.0
        total_s = self.least_s + (REPLAY_FACTOR - 1) * self.replay_s + spare_s
        return max(min(total_s, MOST_TOTAL_S), self.wall_s)

    def with_request(self, files: dict[str, str], wall_s: float) -> "_State":
        """Return the state in front of a cell that brings files and a limit."""
        longest_s = max(self.wall_s, wall_s)
        if files and self.cells:
            writes = _Cell(_WRITE.format(files=files), raised=False)
            return dataclasses.replace(self, cells=(*self.cells, writes), wall_s=longest_s)
        return dataclasses.replace(self, first_files={**self.first_files, **files}, wall_s=longest_s)

    def with_cell(self, code: str, result: Result) -> "_State":
        """Return the state after a cell that ran."""
        cells = (*self.cells, _Cell(code, raised=not result.ok))
        return dataclasses.replace(self, cells=cells, replay_s=self.replay_s + result.duration_s)


class FusionSession(LinkedRunner):
    """Calls that share variables and files; see `Runner`. Python only, one call at a time.

    The server forgets everything between calls, so a call replays all cells before its own: what they print, draw at
    random or read from the clock happens again. A replayed cell that now raises where it did not, the other way round,
    takes too long or ends the interpreter makes the call an `error` with `state_lost`: it was the program that behaved
    otherwise, not the server. A call's time grows with the cells before it; the longest `wall_s` so far holds for each
    of them, and on a server of ours the call's own for its own cell. Once the state is lost, the files that were given
    are there again, those that cells wrote are not. A cancelled call leaves the state as it was.

    Args:
        link: the sandbox's.
        limits: default limits of a cell.
        margin_s: seconds over the replay's in which an answer must be there.
    """

    is_session = True

    def __init__(self, link: Link, limits: Limits, margin_s: float) -> None:
        super().__init__(limits, link)
        self._margin_s = margin_s
        self._turn = asyncio.Lock()
        self._closed = False
        self._given: dict[str, str] = {}
        self._state = _State({})

    def close(self) -> None:
        """End the session; may be called again."""
        self._closed = True

    def _call(self, request: Request) -> Call:
        if self._closed:
            raise SandboxClosed("the session is closed; open a new one with session()")
        return lambda poster: self._in_turn(poster, request)

    async def _in_turn(self, poster: Poster, request: Request) -> Result:
        async with self._turn:
            files = request.packed_files()
            before = self._state.with_request(files, request.limits.wall_s)
            if before.cells and before.least_s > MOST_TOTAL_S:
                self._state = _State(dict(self._given))
                return _replay_failed(f"it would take {before.least_s:.0f} s, more than {MOST_TOTAL_S:.0f}")
            result = _judge(await self._post(poster, request, before), is_replay=bool(before.cells))
            is_told = result.status is not Status.SANDBOX_ERROR and not result.message.startswith(TOO_LONG)
            if is_told or result.state_lost:
                self._given.update(files)
            if result.state_lost:
                self._state = _State(dict(self._given))
            elif is_told:
                self._state = before.with_cell(request.code, result)
            return result

    async def _post(self, poster: Poster, request: Request, before: _State) -> Result:
        limits, outputs, num_cells = request.limits, request.outputs, len(before.cells) + 1
        asked = RunJupyterRequest(
            cells=[*(cell.code for cell in before.cells), request.code],
            cell_timeout=before.wall_s,
            total_timeout=before.total_s,
            files=before.first_files,
            fetch_files=outputs,
        )
        return await poster.post(
            "/run_jupyter",
            {**asked.dict(), **schema.limit_fields(limits), schema.REPLAYED: len(before.cells)},
            before.total_s + self._margin_s,
            2 * min(num_cells * schema.answer_bytes(limits, outputs), 1 << 30),
            lambda answer: _read(answer, before, limits, outputs),
        )


def _judge(result: Result, is_replay: bool) -> Result:
    """Return the result, or the meaning for the state of a refused request or a truncated answer."""
    is_refused = result.status is Status.SANDBOX_ERROR and any(field in result.message for field in _OF_REPLAY)
    if is_replay and (is_refused or result.message.startswith(TOO_LONG)):
        return _replay_failed(result.message)
    if result.message.startswith(TOO_MUCH):
        return dataclasses.replace(result, state_lost=True)
    return result


def _read(answer: Any, before: _State, limits: Limits, outputs: list[str]) -> Result:
    """Return the last cell's result, once the cells before it have gone as they went.

    Raises:
        ValueError: if the answer is not of the schema, or contradicts itself.
    """
    response = schema.parse(RunJupyterResponse, answer)
    if response.status is RunStatus.SandboxError:
        return Result(Status.SANDBOX_ERROR, message=f"the server's sandbox failed: {response.message[:500]}")
    driver = response.driver
    timed_out = driver is not None and driver.status is CommandRunStatus.TimeLimitExceeded
    for number, (cell, now) in enumerate(zip(before.cells, response.cells, strict=False), 1):
        if bool(now.error) != cell.raised:
            return _replay_failed(f"cell {number} {'raised' if now.error else 'did not raise'}, unlike before")
    if timed_out and not response.cells:
        return Result(Status.TIMEOUT, state_lost=True)  # a server that tells of no cell if one runs too long
    if len(response.cells) <= len(before.cells):
        return _replay_failed(f"{len(response.cells)} of {len(before.cells)} earlier cells ran; {response.message}")
    last = response.cells[len(before.cells)]
    own = answer.get("trm")
    own = own if isinstance(own, dict) else {}
    ended = response.status is not RunStatus.Success
    whole_s = schema.seconds(driver.execution_time) if driver else 0.0
    duration_s = schema.seconds(own["duration_s"]) if "duration_s" in own else max(whole_s - before.replay_s, 0.0)
    result = Result(
        _status(timed_out, bool(last.error), ended, last.error, own),
        stdout=last.stdout,
        stderr=schema.cell_stderr(last.stderr, last.error),
        return_code=_return_code(timed_out, bool(last.error), ended, driver),
        duration_s=duration_s,
        state_lost=ended,
    )
    return schema.finish(result, response.files, answer, limits, outputs)


def _status(timed_out: bool, raised: bool, ended: bool, error: Any, own: dict[str, Any]) -> Status:
    if timed_out:
        return Status.TIMEOUT
    if raised:
        return Status.MEMORY if error[0].get("ename") == "MemoryError" else Status.ERROR
    # a cell that left with sys.exit(0) ended its interpreter without a failure; only our own server can tell
    if ended and not (own.get("status") == Status.OK.value and own.get("return_code") == 0):
        return Status.ERROR
    return Status.OK


def _return_code(timed_out: bool, raised: bool, ended: bool, driver: Any) -> int | None:
    if timed_out:
        return None
    if ended and driver is not None:
        return int(driver.return_code) if driver.return_code is not None else None
    return 1 if raised else 0


def _replay_failed(why: str) -> Result:
    message = f"the session's state is lost, its replay went otherwise: {why}"
    return Result(Status.ERROR, stderr=f"{message}\n", return_code=1, state_lost=True, message=message)
