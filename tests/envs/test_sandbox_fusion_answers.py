"""Answers that a server, or a program behind it, makes as bad as it can: none raises, stalls or voids an episode."""

import asyncio
import base64
import dataclasses
import json
import time
from typing import Any

import pytest

from tests.envs.fusion_support import FakeServer, answer
from trm_envs.sandbox import Limits, Result, Status
from trm_envs.sandbox.fusion import schema as schema
from trm_envs.sandbox.fusion.answers import PIECE, pieces, whole
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.cells import run_cells
from trm_envs.sandbox.fusion.decoding import ANSWER_VALUES, TooManyValues, decode_answer
from trm_envs.sandbox.fusion.jobs import MOST, Job, read_jupyter
from trm_envs.sandbox.fusion.sandbox import FusionSandbox

TRACEBACK = "Traceback (most recent call last):\n"
OWN = {"status": "ok", "return_code": 0}


def asked(kind: str, body: bytes) -> Result:
    with FakeServer((200, body)) as fake, FusionSandbox(fake.address, retries=0, limits=Limits(wall_s=1)) as sandbox:
        return (sandbox if kind == "run" else sandbox.session()).run("1")


def told(kind: str, value: str, where: str) -> bytes:
    """An answer in which one number is the given text."""
    if kind == "run":
        body = json.loads(answer(trm=OWN)[1])
        body["run_result"]["execution_time"] = "@" if where == "execution_time" else 0.1
    else:
        cell: dict[str, Any] = {"stdout": "", "display": [], "stderr": "", "error": []}
        if where == "traceback":
            cell["error"] = [{"ename": "E", "evalue": "", "traceback": "@"}]
        driver = {"status": "Finished", "return_code": 0, "execution_time": "@" if where == "execution_time" else 0.1}
        body = {"status": "Success", "message": "", "files": {}, "driver": driver, "cells": [cell], "trm": dict(OWN)}
        body["trm"]["duration_s"] = "@" if where == "duration_s" else 0.1
        if where == "traceback":
            del body["trm"]
    return json.dumps(body).replace('"@"', value).encode()


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1" + "0" * 200, "1e999", "-5", '"inf"'])
@pytest.mark.parametrize(
    ("kind", "where"), [("run", "execution_time"), ("session", "execution_time"), ("session", "duration_s")]
)
def test_a_duration_that_cannot_be_is_a_malformed_answer(kind: str, where: str, value: str) -> None:
    result = asked(kind, told(kind, value, where))
    assert (result.status, result.duration_s) == (Status.SANDBOX_ERROR, 0.0)
    assert "malformed answer" in result.message


@pytest.mark.parametrize("value", ["5", "true", "{}", '"text"'])
def test_a_traceback_of_another_type_raises_nothing(value: str) -> None:
    assert asked("session", told("session", value, "traceback")).status is Status.ERROR


def test_what_a_server_says_controls_no_terminal() -> None:
    words = {"status": "SandboxError", "message": "\x1b[2J\u202e\x07 no pod", "files": {}}
    for status, body in ((200, json.dumps(words).encode()), (500, b"\x1b[2J no pod"), (200, b"\x1b[2J no pod")):
        with FakeServer((status, body)) as fake, FusionSandbox(fake.address, retries=0) as sandbox:
            message = sandbox.run("1").message
        assert "no pod" in message
        assert message.isprintable()


def test_an_answer_of_more_values_than_a_program_needs_has_printed_too_much() -> None:
    body = json.dumps(json.loads(answer()[1])).encode()
    many = body[:-1] + b', "x": [' + b"{}," * ANSWER_VALUES + b"1]}"
    assert asked("run", many).status is Status.OUTPUT_LIMIT
    # commas and brackets in what a program prints are no values
    printed = decode_answer(json.dumps({"stdout": '[,\\":{' * ANSWER_VALUES}).encode())
    assert len(printed["stdout"]) == 6 * ANSWER_VALUES
    with pytest.raises(TooManyValues, match="nested deeper than 100"):
        decode_answer(b"[" * 101 + b'"' + b"," * ANSWER_VALUES + b'"' + b"]" * 101)


@pytest.mark.parametrize("line", ["", "x", "é", "\x1b[31mred"])
def test_a_traceback_of_very_many_lines_is_a_short_list_and_the_same_text(line: str) -> None:
    text = TRACEBACK + (line + "\n") * (1 << 16) + "Error: it\n"
    started = time.process_time()
    told = schema.to_jupyter_answer([Result(Status.ERROR, stderr=f"before\n{text}", return_code=1)], 1)
    ((error,),) = (cell["error"] for cell in told["cells"])
    assert len(error["traceback"]) == schema.MOST_LINES + 1
    assert (error["ename"], error["evalue"]) == ("Error", "it")
    assert schema.cell_stderr("before\n", [error]) == f"before\n{text}".replace("\x1b[31m", "")
    # an earlier server told each line apart
    assert schema.cell_stderr("", [{"traceback": text.split("\n")[:-1]}]) == text.replace("\x1b[31m", "")
    assert time.process_time() - started < 5


def test_pauses_between_cells_count_as_the_sessions_time() -> None:
    class Slow:
        """A session whose cells take no time, and whose pauses take long."""

        async def arun(self, *_: Any, **__: Any) -> Result:
            await asyncio.sleep(0.05)
            return Result(Status.OK, return_code=0, duration_s=0.001)

        def close(self) -> None:
            pass

        def session(self) -> "Slow":
            return self

    job: Job = read_jupyter({"cells": ["1"] * 50, "total_timeout": 0.3}, Limits(), MOST, Bounds())
    results = asyncio.run(run_cells(Slow(), job, 1000))  # type: ignore[arg-type]
    assert len(results) <= 8
    assert (results[-1].status, results[-1].state_lost) == (Status.TIMEOUT, True)
    # the start of a session costs nobody
    one = dataclasses.replace(job, cells=job.cells[:1], total_s=0.02)
    assert asyncio.run(run_cells(Slow(), one, 1000))[0].ok  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 1, 2, (3 << 16) - 1, 3 << 16, (3 << 16) + 1, 5 * PIECE + 2])
def test_files_are_encoded_in_pieces_that_join(length: int) -> None:
    files = {"a": bytes(range(256)) * (length // 256 + 1), "b\n": b"\xff"}
    files["a"] = files["a"][:length]
    told = schema.to_run_answer(Result(Status.OK, stdout="\u2028", return_code=0, files=files))
    parts = list(pieces(told))
    assert max(map(len, parts)) < 3 * PIECE
    for text in (b"".join(parts).decode(), whole(told)):
        found = json.loads(text)
        assert {name: base64.b64decode(data) for name, data in found["files"].items()} == files
        assert found["run_result"]["stdout"] == "\u2028"
