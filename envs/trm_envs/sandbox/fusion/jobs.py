"""Jobs read from requests: the published client's models, held to this server's limits."""

import dataclasses
import math
from typing import Any, TypeVar

from sandbox_fusion.models import RunCodeRequest, RunJupyterRequest

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.interface import LANGUAGES, Limits, as_bytes, check_file_name

MOST = Limits(
    wall_s=300.0,
    cpu_s=86_400.0,
    memory_bytes=8 << 30,
    stack_bytes=100 << 20,
    processes=512,
    output_bytes=1 << 25,
    file_bytes=1 << 28,
    disk_bytes=1 << 30,
    num_files=100_000,
)
"""Default upper limits of one request."""
_Request = TypeVar("_Request", RunCodeRequest, RunJupyterRequest)


class BadField(ValueError):
    """A field of a request is not allowed.

    Args:
        field: its name.
        message: the requirement.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclasses.dataclass(frozen=True)
class Job:
    """A request that was checked."""

    cells: list[str]
    """The program, or the cells of a notebook."""
    language: str
    """One of `LANGUAGES`, or one of the schema's that this server does not run."""
    stdin: str
    """The program's input."""
    files: dict[str, bytes]
    """Files to write first."""
    outputs: list[str]
    """Files to fetch afterwards."""
    limits: Limits
    """Its limits; of a notebook, each cell's."""
    total_s: float
    """Seconds for all cells."""
    last_wall_s: float
    """Seconds for the last cell of a notebook: `trm_limits`'s, if less than for each cell."""
    num_replayed: int = 0
    """Number of first cells that run again, and whose output is left out."""


def read_run(body: Any, base: Limits, most: Limits) -> Job:
    """Return the job of a request to `/run_code`.

    Args:
        body: the decoded request.
        base: the limits where the request names none.
        most: the largest limits that a request may name.

    Raises:
        BadField: if a field is not allowed.
    """
    request = _parse(RunCodeRequest, body)
    # neither language is compiled
    _check_number("compile_timeout", request.compile_timeout, 0, most.wall_s)
    wall_s = _check_number("run_timeout", request.run_timeout, 0.01, most.wall_s)
    limits = _limits(body, base, most, wall_s)
    files = _files(request.files, limits)
    code, stdin = _text("code", request.code), _text("stdin", request.stdin or "")
    return Job([code], request.language, stdin, files, _names(request.fetch_files), limits, wall_s, wall_s)


def read_jupyter(body: Any, base: Limits, most: Limits) -> Job:
    """Return the job of a request to `/run_jupyter`; see `read_run`."""
    request = _parse(RunJupyterRequest, body)
    total_s = _check_number("total_timeout", request.total_timeout, 0.01, most.wall_s)
    cell_s = _check_number("cell_timeout", request.cell_timeout, 0, most.wall_s)
    limits = _limits(body, base, most, min(max(cell_s, 0.01), total_s) if cell_s else total_s)
    if not request.cells:
        raise BadField("cells", "expected at least one cell")
    cells = [_text("cells", cell) for cell in request.cells]
    files = _files(request.files, limits)
    asked_s = (body.get("trm_limits") or {}).get("wall_s", limits.wall_s)
    last_s = min(_check_number("trm_limits.wall_s", asked_s, 0.01, most.wall_s), limits.wall_s)
    num_replayed = body.get(schema.REPLAYED, 0)
    if isinstance(num_replayed, bool) or not isinstance(num_replayed, int) or not 0 <= num_replayed < len(cells):
        most_told = f"expected an integer from 0 to {len(cells) - 1}, fewer than there are cells"
        raise BadField(schema.REPLAYED, f"got {num_replayed!r}; {most_told}")
    return Job(cells, LANGUAGES[0], "", files, _names(request.fetch_files), limits, total_s, last_s, num_replayed)


def _parse(model: type[_Request], body: Any) -> _Request:
    if not isinstance(body, dict):
        raise BadField("body", f"expected a JSON object, got {type(body).__name__}")
    try:
        return model.parse_obj(body)
    except ValueError as error:
        problems: list[Any] = error.errors() if hasattr(error, "errors") else []
        where = ".".join(map(str, problems[0]["loc"])) if problems else "body"
        raise BadField(where, str(problems[0]["msg"]) if problems else str(error)) from error


def _limits(body: dict[str, Any], base: Limits, most: Limits, wall_s: float) -> Limits:
    asked = body.get("trm_limits")
    if asked is None:
        limits = schema.with_timeout(base, wall_s)
        megabytes = body.get("memory_limit_MB", -1)
        if not isinstance(megabytes, int) or isinstance(megabytes, bool):
            raise BadField("memory_limit_MB", f"got {megabytes!r}; expected an integer, -1 for this server's own limit")
        if megabytes > 0:
            _check_number("memory_limit_MB", megabytes, 32, most.memory_bytes // schema.MIB)
            limits = dataclasses.replace(limits, memory_bytes=megabytes * schema.MIB)
        return limits
    if not isinstance(asked, dict) or not set(asked) <= set(Limits.__dataclass_fields__):
        allowed = ", ".join(Limits.__dataclass_fields__)
        raise BadField("trm_limits", f"expected an object with the fields {allowed}")
    try:
        limits = dataclasses.replace(dataclasses.replace(base, **asked), wall_s=wall_s)
    except (ValueError, OverflowError) as error:
        raise BadField("trm_limits", str(error)) from error
    for name in Limits.__dataclass_fields__:
        if getattr(limits, name) > getattr(most, name):
            raise BadField(
                f"trm_limits.{name}", f"got {getattr(limits, name)}; this server allows at most {getattr(most, name)}"
            )
    return limits


def _check_number(field: str, value: float, least: float, most: float) -> float:
    # "not inside" and never "outside": NaN is refused
    if not least <= value <= most or not math.isfinite(value):
        raise BadField(field, f"got {value!r}; this server allows {least:g} to {most:g}")
    return float(value)


def _text(field: str, text: str) -> str:
    try:
        as_bytes(field, text)
    except UnicodeEncodeError:
        raise BadField(field, "holds half of a surrogate pair, which is no text") from None
    return text


def _files(packed: dict[str, str | None], limits: Limits) -> dict[str, bytes]:
    files = {}
    for name, text in packed.items():
        if text is None:  # the schema's word for a file that is not there
            continue
        try:
            files[check_file_name("files", name)] = schema.unpack_base64(text)
        except ValueError as error:
            raise BadField(f"files.{name}", str(error)) from error
    size = sum(map(len, files.values()))
    if size > limits.disk_bytes:
        raise BadField("files", f"hold {size} bytes; at most {limits.disk_bytes} are allowed")
    return files


def _names(names: list[str]) -> list[str]:
    try:
        return [check_file_name("fetch_files", name) for name in names]
    except ValueError as error:
        raise BadField("fetch_files", str(error)) from error
