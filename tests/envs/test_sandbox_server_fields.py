"""Bodies that are not requests: every field is refused by its name, and none is the server's error."""

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import time
from typing import Any

import pytest
import requests

from tests.envs.fusion_support import FakeSandbox, running_server
from trm_envs.sandbox import Limits
from trm_envs.sandbox.fusion import workbench
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.decoding import BadField, decode
from trm_envs.sandbox.fusion.jobs import MOST, Job, read_job

RUN = {"code": "1", "language": "python"}
CELLS = {"cells": ["1"]}
HUGE = "1" + "0" * 400


def read(body: Any, path: str = "/run_code", **bounds: int) -> Job:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_job(path, data, Limits(), MOST, Bounds(**bounds))


def refused(body: Any, path: str = "/run_code", **bounds: int) -> str:
    with pytest.raises(BadField) as caught:
        read(body, path, **bounds)
    assert len(caught.value.message) < 310
    return caught.value.field


@pytest.mark.parametrize("field", ["compile_timeout", "run_timeout", "memory_limit_MB"])
@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}", "9" * 5000, "1e999", "NaN", "-Infinity", "1." + "0" * 99, "true"])
def test_a_number_that_cannot_be_is_refused_by_its_field(field: str, number: str) -> None:
    assert refused(json.dumps(RUN)[:-1].encode() + f', "{field}": {number}}}'.encode()) == field


@pytest.mark.parametrize("name", Limits.__dataclass_fields__)
@pytest.mark.parametrize("number", [HUGE, "1e999", "NaN", "-1", "true", '"1"', "[]", "null"])
def test_a_limit_that_cannot_be_is_refused_by_its_field(name: str, number: str) -> None:
    if name == "wall_s" and number == "-1":
        return  # run_timeout holds instead
    for path, body in (("/run_code", RUN), ("/run_jupyter", CELLS)):
        data = json.dumps(body)[:-1] + f', "trm_limits": {{"{name}": {number}}}}}'
        assert refused(data.encode(), path).startswith("trm_limits")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", 5),
        ("code", None),
        ("code", ["1"]),
        ("stdin", 5),
        ("language", 5),
        ("language", "Python"),
        ("files", []),
        ("files", None),
        ("files", {"a": 5}),
        ("fetch_files", "a"),
        ("fetch_files", [5]),
        ("fetch_files", None),
        ("run_timeout", "10"),
        ("run_timeout", True),
        ("run_timeout", None),
        ("compile_timeout", []),
        ("memory_limit_MB", 1.5),
        ("trm_limits", []),
        ("trm_limits", 0),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_field(field: str, value: Any) -> None:
    assert refused({**RUN, field: value}).partition(".")[0] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cells", "1"),
        ("cells", [1]),
        ("cells", [None]),
        ("cells", None),
        ("kernel", None),
        ("total_timeout", "5"),
        ("cell_timeout", False),
        ("trm_replayed", math.nan),
        ("trm_replayed", -(10**400)),
    ],
)
def test_a_value_of_another_type_in_a_notebook_is_refused_by_its_field(field: str, value: Any) -> None:
    data = json.dumps({**CELLS, field: HUGE if isinstance(value, int) and abs(value) > 9 else value})
    assert refused(data.replace(f'"{HUGE}"', f"-{HUGE}").encode(), "/run_jupyter") == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"code": "1", "code": "2", "language": "python"}', "code"),
        (b'{"code": "1", "language": "python", "files": {"a": "", "a": ""}}', "a"),
        (b'{"code": "1", "language": "python", "trm_limits": {"wall_s": 1, "wall_s": 2}}', "wall_s"),
        (b'{"code": "\\ud800", "language": "python"}', "code"),
        (b'{"code": "1", "language": "python", "stdin": "\\ud800"}', "stdin"),
        (b'{"code": "1", "language": "python", "files": {"\\ud800": ""}}', "files.\ud800"),
        (b'{"code": "1", "language": "python", "fetch_files": ["\\ud800"]}', "fetch_files"),
        (b'{"code": "\xff", "language": "python"}', "body"),
        (json.dumps(RUN).encode("utf-16"), "body"),
        (b"\xef\xbb\xbf" + json.dumps(RUN).encode(), "body"),
        (b"[" * 17 + b"]" * 17, "body"),
        (b'{"a":' * 100_000, "body"),
        (b"[" + b"1," * 20_001 + b"1]", "body"),
        (b'"\\\\"' * 50_000, "body"),
    ],
)
def test_json_that_says_two_things_or_too_much_is_refused(body: bytes, field: str) -> None:
    assert refused(body) == field


def test_what_looks_like_values_inside_of_a_text_is_no_value() -> None:
    code = '{"' * 50_000 + "\\" * 30_001 + "[,:" * 50_000 + '\\"'
    assert read({**RUN, "code": code}).cells == [code.encode()]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/run_jupyter", {"cells": ["1"] * 1001}, "cells"),
        ("/run_code", {**RUN, "files": {f"f{i}": "" for i in range(4097)}}, "files"),
        ("/run_code", {**RUN, "fetch_files": [f"f{i}" for i in range(257)]}, "fetch_files"),
        ("/run_code", {**RUN, "fetch_files": ["/".join(["a" * 99] * 11)]}, "fetch_files"),
        ("/run_code", {**RUN, "fetch_files": ["a" * 256]}, "fetch_files"),
        ("/run_code", {**RUN, "files": {"a": "", "a/.": ""}}, "files.a/."),
        ("/run_code", {**RUN, "files": {"a\0b": ""}}, "files.a\0b"),
        ("/run_code", {**RUN, "fetch_files": ["a/" * 33 + "a"]}, "fetch_files"),
        ("/run_code", {**RUN, "files": {"a": "", "a/b": ""}}, "files.a"),
        ("/run_code", {**RUN, "files": {"a/b/c": "", "a/b": ""}}, "files.a/b"),
        ("/run_code", {**RUN, "files": {f"{i}/f": "" for i in range(9)}, "trm_limits": {"num_files": 16}}, "files"),
        (
            "/run_code",
            {**RUN, "files": {f"f{i}": "QQ==" for i in range(17)}, "trm_limits": {"disk_bytes": 1 << 16}},
            "files",
        ),
        ("/run_code", {**RUN, "files": {"a/../../b": ""}}, "files.a/../../b"),
        ("/run_code", {**RUN, "files": {"a": "A" * 180_000}, "trm_limits": {"disk_bytes": 1 << 16}}, "files"),
        (
            "/run_code",
            {**RUN, "fetch_files": ["a", "b", "c"], "trm_limits": {"disk_bytes": 1 << 28, "file_bytes": 1 << 26}},
            "fetch_files",
        ),
    ],
)
def test_counts_lengths_and_names_have_stated_limits(path: str, body: Any, field: str) -> None:
    assert refused(body, path) == field


def test_counts_at_their_limits_are_allowed() -> None:
    assert len(read({"cells": ["1"] * 1000}, "/run_jupyter").cells) == 1000
    job = read({**RUN, "files": {f"f{i}": "QQ==" for i in range(4096)}, "fetch_files": ["f"] * 256})
    assert (len(job.files), job.files["f7"], job.outputs) == (4096, b"A", ["f"])


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Draw a JSON value of any kind."""
    kinds = [None, True, False, 0, -1, 1, 10**30, 1.5, 1e300, math.nan, math.inf, "", "1", "a" * 300, "\0", "\ud800"]
    kinds += ["../x", "/etc/passwd", "python", "\x9b\u202e\u2028", {}, []]
    if depth < 3 and rng.random() < 0.3:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(3))]
    if depth < 3 and rng.random() < 0.3:
        return {str(anything(rng, 3)): anything(rng, depth + 1) for _ in range(rng.randrange(3))}
    return rng.choice(kinds)


FIELDS = ["code", "cells", "language", "stdin", "files", "fetch_files", "run_timeout", "compile_timeout", "kernel"]
FIELDS += ["cell_timeout", "total_timeout", "memory_limit_MB", "trm_limits", "trm_replayed", "x"]


def test_every_field_may_hold_anything_and_the_answer_is_a_job_or_the_fields_name() -> None:
    rng = random.Random(5)
    num_jobs, fields = 0, list[str]()
    for number in range(4000):
        path, body = (("/run_code", dict(RUN)), ("/run_jupyter", dict(CELLS)))[number % 2]
        for name in rng.sample(FIELDS, rng.randrange(1, 4)):
            body[name] = anything(rng)
        if rng.random() < 0.3:
            body["trm_limits"] = {rng.choice(list(Limits.__dataclass_fields__)): anything(rng)}
        try:
            num_jobs += isinstance(read(body, path), Job)
        except BadField as error:
            fields.append(error.field)
    assert all(fields)
    assert num_jobs > 100


@pytest.mark.slow
def test_no_body_ends_in_an_error_of_the_server() -> None:
    rng = random.Random(6)
    good = json.dumps({**RUN, "files": {"a": "QQ=="}, "trm_limits": {"wall_s": 1.5}}).encode()
    with running_server(FakeSandbox()) as url, requests.Session() as session:  # type: ignore[arg-type]
        for number in range(600):
            data = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.choice(b'"\\{}[],:0e-\x00\xff\x80 ')
            path = "/run_jupyter" if number % 4 == 0 else "/run_code"
            answer = session.post(f"{url}{path}", data=bytes(data), timeout=5)
            assert answer.status_code in (200, 422), (data, answer.text)


@pytest.mark.slow
async def test_a_long_body_is_read_by_another_process_which_is_replaced_if_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workbench, "read_job", lambda *_: pytest.fail("read by this process"))
    bench = workbench.Workbench(Limits(), MOST, Bounds())
    code = "#" * workbench.SHORT_BYTES
    for number in range(3):
        body = json.dumps({**RUN, "code": f"{code}{number}\u00e9", "files": {"a": "/w=="}}).encode()
        job = await bench.read("/run_code", body)
        assert (job.cells[0][-3:].decode(), job.files) == (f"{number}\u00e9", {"a": b"\xff"})
        if number == 0:
            os.kill(bench._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(BadField, match="run_timeout: got -1"):
        await bench.read("/run_code", json.dumps({**RUN, "code": code, "run_timeout": -1}).encode())
    calls = [asyncio.create_task(bench.read("/run_code", body)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    assert [isinstance(await call, Job) for call in calls[1:]] == [True, True]
    bench.close()


@pytest.mark.parametrize(
    "body",
    [
        {**RUN, "files": {"/".join(["a"] * 32 + [f"{i}"]): "" for i in range(700)}},
        {**RUN, "files": {"/".join([f"{i:x}", *["a"] * 31]): "" for i in range(800)}},
        {**RUN, "files": {f"{i:x}": "" for i in range(4000)}},
        {**CELLS, "cells": [""] * 19_000},
        {**RUN, "fetch_files": [f"{i:x}" for i in range(7000)]},
        {**RUN, "trm_limits": {f"{i:x}": [] for i in range(5000)}},
    ],
)
def test_no_short_body_takes_long_to_read(body: Any) -> None:
    data = json.dumps(body, separators=(",", ":")).encode()
    assert len(data) < workbench.SHORT_BYTES + 2000
    started = time.process_time()
    with contextlib.suppress(BadField):
        read(data, "/run_jupyter" if "cells" in body else "/run_code")
    assert time.process_time() - started < 0.5  # 0.1 s on an idle machine


@pytest.mark.parametrize("body", [b"[" + b"[]," * (1 << 20) + b"[]]", b"]" * (1 << 23)])
def test_looking_a_body_over_costs_no_object_for_each_value(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(BadField):
        decode(body, Bounds())
    assert time.process_time() - started < 0.5  # decoding it would take half a second and 70 MiB


def test_what_reads_long_bodies_is_not_started_again_once_it_was_closed() -> None:
    bench = workbench.Workbench(Limits(), MOST, Bounds())
    bench.prepare()
    bench.close()
    assert bench._ask("/run_code", b"{}")[0] == "body"
    assert bench._process is None
