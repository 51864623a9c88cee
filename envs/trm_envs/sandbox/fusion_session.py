"""Sessions over a protocol that has none: every call sends all cells so far and takes the result of the last."""

import asyncio
import dataclasses
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sandbox_fusion.models import CommandRunStatus, RunJupyterRequest, RunJupyterResponse, RunStatus

from trm_envs.sandbox import fusion_schema as schema
from trm_envs.sandbox.fusion_http import TOO_LONG, TOO_MUCH
from trm_envs.sandbox.interface import Limits, Result, SandboxClosed, Status
from trm_envs.sandbox.request import make_request

if TYPE_CHECKING:
    from trm_envs.sandbox.fusion import Call, FusionSandbox
    from trm_envs.sandbox.fusion_http import Poster

REPLAY_FACTOR = 3.0
"""How much longer than before the cells that are replayed may take."""
REPLAY_SPARE_S = 5.0
MOST_TOTAL_S = 300.0
"""The most that a call with its replay may take, which is also what a server of ours allows at most by itself."""
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


class FusionSession:
    """Calls that share variables and files; see `Runner`. Python only, one call at a time.

    The server forgets everything between calls, so a call replays all cells before its own: what they print, draw at
    random or read from the clock happens again. A replayed cell that now raises where it did not, the other way round,
    takes too long or ends the interpreter makes the call an `error` with `state_lost`: it was the program that behaved
    otherwise, not the server. A call's time grows with the cells before it; the longest `wall_s` so far holds for each
    of them, and on a server of ours the call's own for its own cell. Once the state is lost, the files that were given
    are there again, those that cells wrote are not. A cancelled call leaves the state as it was.
    """

    def __init__(self, sandbox: "FusionSandbox") -> None:
        self._sandbox = sandbox
        self._turn: asyncio.Lock | None = None
        self._closed = False
        self._given: dict[str, str] = {}
        self._forget()

    def run(
        self,
        code: str,
        language: str = "python",
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        limits: Limits | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Result:
        """Run one cell; see `Runner.run`. The status of a cell is the program's own word: never score by it."""
        return self._sandbox._wait_for(self._cell(code, language, stdin, files, limits, outputs))

    async def arun(
        self,
        code: str,
        language: str = "python",
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        limits: Limits | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Result:
        """Run one cell without blocking the event loop."""
        return await self._sandbox._await(self._cell(code, language, stdin, files, limits, outputs))

    def close(self) -> None:
        """End the session; may be called again."""
        self._closed = True

    def __enter__(self) -> "FusionSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        """Go back to nothing but the files that were given."""
        self._first_files = dict(self._given)
        self._cells: list[_Cell] = []
        self._replay_s = 0.0
        self._wall_s = 0.0

    def _cell(self, code: str, language: str, stdin: Any, files: Any, limits: Limits | None, outputs: Any) -> "Call":
        """Check the arguments, now, and return the call."""
        if self._closed:
            raise SandboxClosed("the session is closed; open a new one with session()")
        if language != "python" or stdin:
            field, value = ("stdin", stdin) if language == "python" else ("language", language)
            raise ValueError(
                f"{field} = {value!r}: a session takes Python cells without stdin; use the sandbox's own run()"
            )
        limits = self._sandbox.limits if limits is None else limits
        checked = make_request(code, language, stdin, files, limits, outputs, session=True)

        def call(poster: "Poster") -> Coroutine[Any, Any, Result]:
            return self._in_turn(poster, checked.code, checked.packed_files(), limits, checked.outputs)

        return call

    async def _in_turn(
        self, poster: "Poster", code: str, files: dict[str, str], limits: Limits, outputs: list[str]
    ) -> Result:
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:
            first_files, before = self._first_files, list(self._cells)
            if files and not before:
                first_files = {**first_files, **files}
            elif files:
                before.append(_Cell(_WRITE.format(files=files), raised=False))
            wall_s = max(self._wall_s, limits.wall_s)
            least_s = wall_s + self._replay_s
            if before and least_s > MOST_TOTAL_S:
                self._forget()
                return _replay_failed(f"it would take {least_s:.0f} s, more than {MOST_TOTAL_S:.0f}")
            total_s = least_s + (REPLAY_FACTOR - 1) * self._replay_s + (REPLAY_SPARE_S if before else 0.0)
            total_s = max(min(total_s, MOST_TOTAL_S), wall_s)
            request = RunJupyterRequest(
                cells=[*(cell.code for cell in before), code],
                cell_timeout=wall_s,
                total_timeout=total_s,
                files=first_files,
                fetch_files=outputs,
            )
            result = await poster.post(
                "/run_jupyter",
                {**request.dict(), **schema.limit_fields(limits), schema.REPLAYED: len(before)},
                total_s + self._sandbox.margin_s,
                2 * self._answer_bytes(limits, outputs, len(before) + 1),
                lambda answer: _read(answer, before, self._replay_s, limits, outputs),
            )
            is_refused = result.status is Status.SANDBOX_ERROR and "total_timeout" in result.message
            is_too_long = result.message.startswith(TOO_LONG)
            if before and (is_refused or is_too_long):
                result = _replay_failed(result.message)
            elif is_too_long:
                return result
            elif result.message.startswith(TOO_MUCH):
                result = dataclasses.replace(result, state_lost=True)
            if result.status is not Status.SANDBOX_ERROR or result.state_lost:
                self._given.update(files)
            if result.state_lost:
                self._forget()
            elif result.status is not Status.SANDBOX_ERROR:
                self._cells = [*before, _Cell(code, raised=not result.ok)]
                self._first_files, self._wall_s = first_files, wall_s
                self._replay_s += result.duration_s
            return result

    def _answer_bytes(self, limits: Limits, outputs: list[str], num_cells: int) -> int:
        from trm_envs.sandbox.fusion import answer_bytes

        return min(num_cells * answer_bytes(limits, outputs), 1 << 30)


def _read(answer: Any, before: list[_Cell], replay_s: float, limits: Limits, outputs: list[str]) -> Result:
    """Return the last cell's result, once the cells before it have gone as they went.

    Raises:
        ValueError: if the answer is not of the schema, or contradicts itself.
    """
    response = schema.parse(RunJupyterResponse, answer)
    if response.status is RunStatus.SandboxError:
        return Result(Status.SANDBOX_ERROR, message=f"the server's sandbox failed: {response.message[:500]}")
    driver = response.driver
    timed_out = driver is not None and driver.status is CommandRunStatus.TimeLimitExceeded
    for number, (cell, now) in enumerate(zip(before, response.cells, strict=False), 1):
        if bool(now.error) != cell.raised:
            return _replay_failed(f"cell {number} {'raised' if now.error else 'did not raise'}, unlike before")
    if timed_out and not response.cells:
        return Result(Status.TIMEOUT, state_lost=True)  # a server that tells of no cell if one runs too long
    if len(response.cells) <= len(before):
        return _replay_failed(f"{len(response.cells)} of {len(before)} earlier cells ran; {response.message}")
    last = response.cells[len(before)]
    own = answer.get("trm")
    own = own if isinstance(own, dict) else {}
    ended = response.status is not RunStatus.Success
    whole_s = driver.execution_time if driver else None
    duration = own.get("duration_s", None if whole_s is None else max(whole_s - replay_s, 0.0))
    result = Result(
        _status(timed_out, bool(last.error), ended, last.error, own),
        stdout=last.stdout,
        stderr=schema.cell_stderr(last.stderr, last.error),
        return_code=_return_code(timed_out, bool(last.error), ended, driver),
        duration_s=float(duration) if isinstance(duration, (int, float)) else 0.0,
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
