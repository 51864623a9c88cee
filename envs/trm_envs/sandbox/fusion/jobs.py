"""Jobs read from requests: the published client's models, held to this server's limits."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from sandbox_fusion.models import RunCodeRequest, RunJupyterRequest

from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.decoding import BadField, decode
from trm_envs.sandbox.interface import LANGUAGES, Limits, check_file_name

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
PAGE = 1 << 12
"""Bytes of which a file fills a whole number."""
_Request = TypeVar("_Request", RunCodeRequest, RunJupyterRequest)
_TEXTS, _LISTS = ("code", "stdin", "language", "kernel"), ("cells", "fetch_files")
_NUMBERS = ("compile_timeout", "run_timeout", "cell_timeout", "total_timeout")


@dataclasses.dataclass(frozen=True)
class Job:
    """A request that was checked."""

    cells: list[bytes]
    """The program, or the cells of a notebook, as UTF-8: in memory a text may be four times as long."""
    language: str
    """One of `LANGUAGES`, or one of the schema's that this server does not run."""
    stdin: bytes
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


def read_job(path: str, data: bytes | bytearray, base: Limits, most: Limits, bounds: Bounds) -> Job:
    """Return the job of a request.

    Args:
        path: "/run_code" or "/run_jupyter".
        data: the request's body.
        base: the limits where the request names none.
        most: the largest limits that a request may name.
        bounds: the server's limits.

    Raises:
        BadField: if the body or a field is not allowed.
    """
    read = read_run if path == "/run_code" else read_jupyter
    return read(decode(data, bounds), base, most, bounds)


def read_run(body: Any, base: Limits, most: Limits, bounds: Bounds) -> Job:
    """Return the job of a decoded request to `/run_code`; see `read_job`."""
    request = _parse(RunCodeRequest, body)
    # neither language is compiled
    _check_number("compile_timeout", request.compile_timeout, 0, most.wall_s)
    wall_s = _check_number("run_timeout", request.run_timeout, 0.01, most.wall_s)
    limits = _limits(body, base, most, wall_s)
    files, outputs = _files(request.files, limits, bounds), _names(request.fetch_files, limits, bounds)
    code, stdin = _text("code", request.code), _text("stdin", request.stdin or "")
    return Job([code], request.language, stdin, files, outputs, limits, wall_s, wall_s)


def read_jupyter(body: Any, base: Limits, most: Limits, bounds: Bounds) -> Job:
    """Return the job of a decoded request to `/run_jupyter`; see `read_job`."""
    request = _parse(RunJupyterRequest, body)
    total_s = _check_number("total_timeout", request.total_timeout, 0.01, most.wall_s)
    cell_s = _check_number("cell_timeout", request.cell_timeout, 0, most.wall_s)
    limits = _limits(body, base, most, min(max(cell_s, 0.01), total_s) if cell_s else total_s)
    if not 1 <= len(request.cells) <= bounds.cells:
        raise BadField("cells", f"got {len(request.cells)}; expected at least one cell, at most {bounds.cells}")
    cells = [_text("cells", cell) for cell in request.cells]
    files, outputs = _files(request.files, limits, bounds), _names(request.fetch_files, limits, bounds)
    asked_s = (body.get("trm_limits") or {}).get("wall_s", limits.wall_s)
    last_s = min(_check_number("trm_limits.wall_s", asked_s, 0.01, most.wall_s), limits.wall_s)
    num_replayed = body.get(schema.REPLAYED, 0)
    if isinstance(num_replayed, bool) or not isinstance(num_replayed, int) or not 0 <= num_replayed < len(cells):
        most_told = f"expected an integer from 0 to {len(cells) - 1}, fewer than there are cells"
        raise BadField(schema.REPLAYED, f"got {num_replayed!r}; {most_told}")
    return Job(cells, LANGUAGES[0], b"", files, outputs, limits, total_s, last_s, num_replayed)


def _parse(model: type[_Request], body: Any) -> _Request:
    if not isinstance(body, dict):
        raise BadField("body", f"expected a JSON object, got {type(body).__name__}")
    _check_types(body)
    try:
        return model.parse_obj(body)
    except (ValueError, TypeError) as error:
        problems: list[Any] = error.errors() if hasattr(error, "errors") else []
        where = ".".join(map(str, problems[0]["loc"])) if problems else "body"
        raise BadField(where, str(problems[0]["msg"]) if problems else str(error)) from error


def _check_types(body: Mapping[str, Any]) -> None:
    """Refuse what the models would turn into another type: 5 into a text, "5" or true into a number."""
    for name in _TEXTS:
        if not isinstance(value := body.get(name, ""), str) and not (name == "stdin" and value is None):
            raise BadField(name, f"expected a text, got {_kind(value)}")
    for name in _NUMBERS:
        if isinstance(value := body.get(name, 1), bool) or not isinstance(value, int | float):
            raise BadField(name, f"expected a number of seconds, got {_kind(value)}")
    for name in _LISTS:
        if not isinstance(value := body.get(name, []), list) or not all(isinstance(each, str) for each in value):
            raise BadField(name, f"expected a list of texts, got {_kind(value)}")
    files = body.get("files", {})
    if not isinstance(files, dict):
        raise BadField("files", f"expected an object, got {_kind(files)}")
    for name, value in files.items():
        if value is not None and not isinstance(value, str):
            raise BadField(f"files.{name}", f"expected base64, got {_kind(value)}")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list of something else"
    return "null" if value is None else type(value).__name__


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


def _text(field: str, text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # an input's bytes that are not UTF-8 come as halves of pairs
    except UnicodeEncodeError:
        raise BadField(field, "holds half of a surrogate pair, which is not text") from None


def _files(packed: Mapping[str, str | None], limits: Limits, bounds: Bounds) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if len(packed) > bounds.files:
        raise BadField("files", f"got {len(packed)}; this server allows at most {bounds.files}")
    left = limits.disk_bytes
    for name, text in packed.items():
        if text is None:  # the schema's word for a file that is not there
            continue
        field = f"files.{name}"
        checked = _name(field, name, bounds)
        if checked in files:
            raise BadField(field, "is there twice, in two spellings")
        if 3 * len(text) // 4 - 2 > left:
            raise BadField("files", f"hold more than {limits.disk_bytes} bytes, which is the limit")
        try:
            files[checked] = schema.unpack_base64(text)
        except ValueError as error:
            raise BadField(field, str(error)) from error
        left -= -(-len(files[checked]) // PAGE) * PAGE
    if left < 0:
        raise BadField("files", f"fill {limits.disk_bytes - left} bytes; at most {limits.disk_bytes} are allowed")
    folders = _folders_of(files)
    for name in folders & files.keys():
        raise BadField(f"files.{name}", "is a file and the folder of another one")
    if len(files) + len(folders) > limits.num_files:
        raise BadField(
            "files", f"with their folders {len(files) + len(folders)}; at most {limits.num_files} are allowed"
        )
    return files


def _folders_of(names: Iterable[str]) -> set[str]:
    """Return the folders in which files lie; cut by hand, since paths as objects take a second for 27,000."""
    folders: set[str] = set()
    for name in names:
        folders.add(".")
        while (name := name.rpartition("/")[0]) and name not in folders:
            folders.add(name)
    return folders


def _names(names: list[str], limits: Limits, bounds: Bounds) -> list[str]:
    if len(names) > bounds.fetched:
        raise BadField("fetch_files", f"got {len(names)}; this server allows at most {bounds.fetched}")
    outputs = list(dict.fromkeys(_name("fetch_files", name, bounds) for name in names))
    most = min(limits.disk_bytes, len(outputs) * limits.file_bytes)
    if most > bounds.fetched_bytes:
        remedy = "ask for less by trm_limits.disk_bytes or trm_limits.file_bytes"
        raise BadField("fetch_files", f"may have {most} bytes; this server allows {bounds.fetched_bytes}: {remedy}")
    return outputs


def _name(field: str, name: str, bounds: Bounds) -> str:
    if len(_text(field, name)) > bounds.name_bytes:
        raise BadField(field, f"a name of {len(name)} characters; this server allows {bounds.name_bytes} bytes")
    if name.count("/") > bounds.folders:
        raise BadField(field, f"lies in {name.count('/')} folders; this server allows {bounds.folders}")
    try:
        return check_file_name(field, name)
    except ValueError as error:
        raise BadField(field, str(error)) from error
