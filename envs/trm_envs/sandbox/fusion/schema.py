"""SandboxFusion's schema: our limits and results as its JSON, and its answers as our results.

The schema has fewer words than we: a memory limit is a `Failed` program with return code -9, as under the published
server. What would be lost stands in fields of ours, `trm_limits` and `trm_replayed` in a request, `trm` in an answer:
other clients and servers ignore them.
"""

import base64
import binascii
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sandbox_fusion.models import CommandRunResult, CommandRunStatus, RunCodeResponse, RunJupyterResponse, RunStatus

from trm_envs.sandbox.interface import Limits, Result, Status

MIB = 1 << 20
REPLAYED = "trm_replayed"
"""Field of a request to `/run_jupyter`: so many cells, the first ones, whose output nobody wants."""
KILLED = -9
"""The return code of a program that the sandbox stopped, for clients that expect a number."""
TRACEBACK = "Traceback (most recent call last):\n"
MOST_LINES = 1000
"""Lines of a traceback that stand apart; the last text holds those after them. A program decides how many there are."""
MOST_S = 1e6
"""Longest duration that an answer may tell of."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_Response = TypeVar("_Response", RunCodeResponse, RunJupyterResponse)


def with_timeout(limits: Limits, wall_s: float) -> Limits:
    """Return the limits with another time on the clock, and processor time enough for it on every processor."""
    cpu_s = min(max(limits.cpu_s, wall_s * (os.cpu_count() or 1)), 86_400)
    return dataclasses.replace(limits, wall_s=wall_s, cpu_s=cpu_s)


def limit_fields(limits: Limits) -> dict[str, Any]:
    """Return the request's fields for the limits, beyond its timeouts."""
    asked = dataclasses.asdict(limits)
    if limits.stack_bytes == Limits.stack_bytes:  # a server of an earlier release does not know the field
        del asked["stack_bytes"]
    return {"memory_limit_MB": -(-limits.memory_bytes // MIB), "trm_limits": asked}


def answer_bytes(limits: Limits, outputs: Sequence[str]) -> int:
    """Return the largest length of an answer: six characters of JSON for a control character, base64 for a file."""
    return 12 * limits.output_bytes + 2 * limits.file_bytes * len(outputs) + (1 << 20)


def to_run_answer(result: Result) -> dict[str, Any]:
    """Return a result as the answer to `/run_code`, with files as bytes."""
    if result.status is Status.SANDBOX_ERROR:
        return _answer(RunStatus.SandboxError, result.message or "the sandbox failed")
    status = RunStatus.Success if result.ok else RunStatus.Failed
    answer = _answer(status, _why(result), result)
    return {**answer, "compile_result": None, "run_result": _command(result)}


def to_jupyter_answer(results: Sequence[Result], num_cells: int) -> dict[str, Any]:
    """Return the results of the cells that ran as the answer to `/run_jupyter`, with files as bytes.

    Args:
        results: one a cell, at least one; cells after one that ended the interpreter did not run.
        num_cells: how many cells were asked for.
    """
    last = results[-1]
    if last.status is Status.SANDBOX_ERROR:
        return _answer(RunStatus.SandboxError, last.message or "the sandbox failed")
    message, status, driver = "", RunStatus.Success, CommandRunResult(status=CommandRunStatus.Finished, return_code=0)
    if len(results) < num_cells or (last.state_lost and not last.ok):
        message = f"cell {len(results)} of {num_cells} ended the interpreter: {_why(last) or last.status.value}"
        status, driver = RunStatus.Failed, CommandRunResult(**_command(last))
    driver.execution_time, driver.stdout, driver.stderr = sum(result.duration_s for result in results), "", ""
    cells = [{"stdout": result.stdout, "display": [], **_error_fields(result)} for result in results]
    return {**_answer(status, message, last), "driver": driver.dict(), "cells": cells}


def seconds(value: Any) -> float:
    """Return a duration that an answer tells of; None counts as none.

    Raises:
        ValueError: if it can be none.
    """
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_S:
        raise ValueError(f"a duration of {str(value)[:40]} seconds")
    return float(value)


def untold(result: Result) -> Result:
    """Return a result without the program's output: an answer must not grow with each call of a session."""
    return dataclasses.replace(result, stdout="", stderr="")


def from_run_answer(answer: Any, limits: Limits, outputs: Sequence[str]) -> Result:
    """Return the result that an answer to `/run_code` tells of.

    Raises:
        ValueError: if the answer is not of the schema, or contradicts itself.
    """
    response = parse(RunCodeResponse, answer)
    command = response.run_result
    if response.status is RunStatus.SandboxError or (command and command.status is CommandRunStatus.Error):
        message = response.message or (command.stderr if command else "") or "no message"
        return Result(Status.SANDBOX_ERROR, message=f"the server's sandbox failed: {message[:500]}")
    if command is None and response.status is RunStatus.Failed:
        command = response.compile_result  # it did not compile
    if command is None:
        raise ValueError(f"status {response.status.value} without run_result")
    stopped = command.status is CommandRunStatus.TimeLimitExceeded
    if not stopped and command.return_code is None:
        raise ValueError("run_result: Finished without return_code")
    if (not stopped and command.return_code == 0) != (response.status is RunStatus.Success):
        raise ValueError(f"status {response.status.value} contradicts return_code {command.return_code}")
    result = Result(
        _status(stopped, command.return_code, command.stderr or ""),
        stdout=command.stdout or "",
        stderr=command.stderr or "",
        return_code=None if stopped else command.return_code,
        duration_s=seconds(command.execution_time),
    )
    return finish(result, response.files, answer, limits, outputs)


def finish(result: Result, files: Mapping[str, str], answer: Any, limits: Limits, outputs: Sequence[str]) -> Result:
    """Add to a result the files and our own server's fields beyond the schema; hold it to the output limit.

    Raises:
        ValueError: if a file is not base64, or our own server's part is malformed.
    """
    own = answer.get("trm")
    contents, missing = _fetched(files, limits, outputs)
    if not isinstance(own, dict):
        # characters, not bytes: an undecodable byte has become three
        cut = [len(text) > limits.output_bytes for text in (result.stdout, result.stderr)]
        if any(cut) and result.status is not Status.TIMEOUT:
            result = dataclasses.replace(result, status=Status.OUTPUT_LIMIT, return_code=None)
        return dataclasses.replace(
            result,
            stdout=result.stdout[: limits.output_bytes],
            stderr=result.stderr[: limits.output_bytes],
            stdout_truncated=cut[0],
            stderr_truncated=cut[1],
            files=contents,
            missing=missing,
        )
    status = Status(own.get("status"))
    if (status is Status.OK) != result.ok:
        raise ValueError(f"trm.status {status.value} contradicts status {result.status.value}")
    reasons = own.get("missing")
    reasons = reasons if isinstance(reasons, dict) else {}
    return dataclasses.replace(
        result,
        status=status,
        return_code=None if own.get("return_code") is None else result.return_code,
        stdout_truncated=own.get("stdout_truncated") is True,
        stderr_truncated=own.get("stderr_truncated") is True,
        state_lost=own.get("state_lost") is True,
        files=contents,
        missing={name: str(reasons.get(name, reason)) for name, reason in missing.items()},
    )


def parse(model: type[_Response], answer: Any) -> _Response:
    """Return a server's answer as the published client's model.

    Raises:
        ValueError: if it is not of the schema; it names the fields.
    """
    if not isinstance(answer, dict):
        raise ValueError(f"expected a JSON object, got {type(answer).__name__}")
    try:
        response = model.parse_obj(answer)
    except ValueError as error:
        raise ValueError(f"not of SandboxFusion's schema: {describe(error)}") from error
    return response


def describe(error: ValueError) -> str:
    """Return a validation error of the client's models in one line."""
    errors = error.errors() if hasattr(error, "errors") else []
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in errors[:5]) or str(error)


def cell_stderr(stderr: str, error: Sequence[Mapping[str, Any]]) -> str:
    """Return a cell's stderr with the traceback after it, as one stream, without colours."""
    tracebacks = [item.get("traceback") or () for item in error]
    lines = (line for lines in tracebacks if isinstance(lines, list | tuple) for line in lines)
    return stderr + _COLOUR.sub("", "".join(f"{line}\n" for line in lines))


def unpack_base64(text: str) -> bytes:
    """Return the bytes.

    Raises:
        ValueError: if it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


def _answer(status: RunStatus, message: str, result: Result | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": status.value, "message": message, "executor_pod_name": None, "files": {}}
    if result is not None:
        answer["files"] = dict(result.files)  # `answers` encodes them
        names = ("return_code", "stdout_truncated", "stderr_truncated", "state_lost", "duration_s")
        answer["trm"] = {name: getattr(result, name) for name in names}
        answer["trm"].update(status=result.status.value, missing=dict(result.missing))
    return answer


def _command(result: Result) -> dict[str, Any]:
    stopped = result.status is Status.TIMEOUT
    return_code = KILLED if result.return_code is None else result.return_code
    return {
        "status": (CommandRunStatus.TimeLimitExceeded if stopped else CommandRunStatus.Finished).value,
        "execution_time": result.duration_s,
        "cpu_time": None,
        "return_code": None if stopped else return_code,
        "stdout": result.stdout,
        "stderr": result.stderr,
    }


def _why(result: Result) -> str:
    reasons = {Status.MEMORY: "stopped at the memory limit", Status.OUTPUT_LIMIT: "stopped at the output limit"}
    return reasons.get(result.status, "")


def _error_fields(result: Result) -> dict[str, Any]:
    """Split a cell's stderr from its traceback, which a notebook holds in a field of its own."""
    if result.status not in (Status.ERROR, Status.MEMORY):
        return {"stderr": result.stderr, "error": []}
    head, found, tail = result.stderr.rpartition(TRACEBACK)
    text = (found + tail).removesuffix("\n")
    lines = text.split("\n", MOST_LINES) if found or tail else []
    name, _, value = text.rpartition("\n")[2].partition(": ")
    return {"stderr": head, "error": [{"ename": name or "SystemExit", "evalue": value, "traceback": lines}]}


def _status(stopped: bool, return_code: int | None, stderr: str) -> Status:
    if stopped:
        return Status.TIMEOUT
    if return_code == 1 and stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
        return Status.MEMORY
    return Status.OK if return_code == 0 else Status.ERROR


def _fetched(
    files: Mapping[str, str], limits: Limits, outputs: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    contents, missing = {}, {}
    for name in outputs:
        data = unpack_base64(files[name]) if name in files else None
        if data is None:
            missing[name] = "the server did not return it"
        elif len(data) > limits.file_bytes:
            missing[name] = f"{len(data)} bytes, at most {limits.file_bytes} are fetched"
        else:
            contents[name] = data
    return contents, missing
