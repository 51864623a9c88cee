"""Who may come into the server, where its token stands, and what strangers can write into its log."""

import ast
import inspect
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.envs.fusion_process import PROGRAM, read_all, request
from tests.envs.fusion_support import FakeSandbox, running_server
from trm_envs.sandbox.fusion import bounds, connections
from trm_envs.sandbox.fusion.bounds import Bounds
from trm_envs.sandbox.fusion.door import VARIABLE, find_token, shown


def ask(url: str, data: bytes, most: int = 99) -> bytes:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(data)
        return connection.recv(1 << 16) if most == 1 else read_all(connection)


@pytest.fixture
def fake() -> Any:
    return FakeSandbox()


def test_a_stranger_is_refused_before_its_body_comes(fake: Any) -> None:
    with running_server(fake, token="hush") as url:
        for header in (
            b"",
            b"Authorization: Bearer no\r\n",
            b"Expect: 100-continue\r\n",
            b"Content-Encoding: gzip\r\n",
        ):
            head = b"POST /run_code HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n" + header + b"\r\n"
            assert ask(url, head, most=1).startswith(b"HTTP/1.1 401 ")
    assert fake.asked == []


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Authorization: Bearer hush", 200),
        ("Authorization: bearer hush", 200),
        ("Authorization: Basic Omh1c2g=", 200),
        ("Authorization: Basic bmFtZTpodXNo", 200),
        ("Authorization: Bearer hus", 401),
        ("Authorization: Bearer hushh", 401),
        ("Authorization: Bearer \xff", 401),
        ("Authorization: Basic ????", 401),
        ("Authorization: hush", 401),
        ("Authorization: Bearer no\r\nAuthorization: Bearer hush", 401),
        ("X-Authorization: Bearer hush", 401),
    ],
)
def test_the_token_is_needed_whole_and_once(fake: Any, header: str, status: int) -> None:
    with running_server(fake, token="hush") as url:
        data = request(PROGRAM).replace(
            b"\r\n\r\n", b"\r\nConnection: close\r\n" + header.encode("latin-1") + b"\r\n\r\n", 1
        )
        assert int(ask(url, data).split()[1]) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Transfer-Encoding: gzip, chunked", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 99999999999999999999", 400),
        ("Content-Length: 40000000", 413),
        ("Content-Encoding: gzip\r\nContent-Length: 5", 415),
        ("Expect: 200-ok\r\nContent-Length: 5", 417),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5", 400),
        ("X: " + "a" * 9000, 400),
        ("X: " + "a" * 40_000, 431),
        ("\r\n".join(f"X{i}: a" for i in range(2000)), 400),
        (" folded: x\r\nContent-Length: 5", 400),
    ],
)
def test_a_request_with_two_meanings_or_too_much_of_a_head_is_refused_and_nothing_runs(
    fake: Any, headers: str, status: int
) -> None:
    with running_server(fake) as url:
        smuggled = request(PROGRAM)
        data = f"POST /run_code HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n".encode("latin-1") + b"0\r\n\r\n" + smuggled
        answers = ask(url, data, most=1 if status == 413 else 99)  # the rest of a long body is waited for
        assert (int(answers.split()[1]), answers.count(b"Date: ")) in ((status, 1), (431, 0))
    assert fake.asked == []


def test_a_client_may_wait_for_leave_to_send_and_speak_http_1_0(fake: Any) -> None:
    with running_server(fake) as url:
        assert ask(url, request(PROGRAM).replace(b"/1.1", b"/1.0", 1)).startswith(b"HTTP/1.0 200")
        head, _, body = request(PROGRAM, headers="Expect: 100-continue\r\nConnection: close\r\n").partition(b"\r\n\r\n")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5) as connection:
            connection.sendall(head + b"\r\n\r\n")
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_what_strangers_write_is_escaped_in_the_log() -> None:
    lines: list[str] = []
    hostile = "\x1b]0;x\x07\x9b31m\u202e\u2028\u2029\r\n\t\x7f\u200b\ufeff"
    with running_server(FakeSandbox(), log=lines.append) as url:  # type: ignore[arg-type]
        requests.get(f"{url}/{requests.utils.quote(hostile)}", timeout=5)
        requests.post(f"{url}/run_code", json={**PROGRAM, "files": {hostile: "?"}}, timeout=5)
        requests.post(f"{url}/run_code", json={**PROGRAM, "files": {"a" * 5000: "?"}}, timeout=5)
        for junk in (
            b"GET /\x1b[31m HTTP/1.1\r\n\r\n",
            b"\x1b[31m\x9b / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\x1b[2J: a\r\n\r\n",
        ):
            ask(url, junk)
    assert len(lines) >= 5
    assert all(line.isprintable() and len(line) < 2000 for line in lines)
    assert "\\x1b" in lines[0]


@pytest.mark.parametrize(
    "char", ["\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u061c", "\u200f", "\u202e", "\u2066", "\u2028", "\ud800", "\\"]
)
def test_no_character_that_moves_a_terminal_is_shown(char: str) -> None:
    text = shown(f"a{char}b")
    assert (text.isprintable(), text[0], text[-1], "\\" in text) == (True, "a", "b", True)
    assert shown("caf\u00e9 \u4e2d /run_code") == "caf\u00e9 \u4e2d /run_code"


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("hush\n")
    file.chmod(0o600)
    assert find_token(None, str(file)) == ("hush", None)
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        assert "chmod 600" in str(find_token(None, str(file))[1])
    assert find_token(None, None) == (None, None)
    monkeypatch.setenv(VARIABLE, "word")
    assert find_token(None, None) == ("word", None)
    assert find_token(None, str(file))[0] == "hush"
    token, warned = find_token("given", None)
    assert (token, "ps" in str(warned)) == ("given", True)
    with pytest.raises(ValueError, match="one of them"):
        find_token("given", str(file))
    for content in ("", "\n", "a" * 5000):
        file.write_text(content)
        with pytest.raises(ValueError, match="--token-file"):
            find_token(None, str(file))
    with pytest.raises(OSError, match="token2"):
        find_token(None, f"{file}2")
    assert os.environ[VARIABLE] == "word"


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_a_client_is_counted_under_its_network(host: str, network: str) -> None:
    assert connections.network_of(host) == network


def test_bounds_are_checked_shown_and_fit_the_descriptors() -> None:
    for field, value in (("head_s", 0), ("connections", -1), ("cells", 1.5), ("rate", True), ("all_body_bytes", 1)):
        with pytest.raises(ValueError, match=rf"bounds\.{field} = .*expected"):
            Bounds(**{field: value})
    lines = "\n".join(Bounds().lines())
    assert "all_body_bytes      64 MiB" in lines
    assert "head_s              5 s" in lines
    few = Bounds().for_descriptors(1024)
    assert (few.connections, few.address_connections, few.silent, few.address_silent) == (256, 128, 64, 32)
    assert Bounds().for_descriptors(1 << 20) == Bounds()


def test_the_page_has_every_limit_with_its_meaning() -> None:
    page = (Path(__file__).parents[2] / "docs/sandbox_server.md").read_text(encoding="utf-8")
    rows = "\n".join(limit_rows())
    assert rows in page, f"docs/sandbox_server.md: the table of limits is\n{rows}"


def limit_rows() -> list[str]:
    """The rows of the page: a field, its default, its docstring."""
    (definition,) = (each for each in ast.parse(inspect.getsource(bounds)).body if isinstance(each, ast.ClassDef))
    values = dict(line.split(maxsplit=1) for line in Bounds().lines())  # type: ignore[arg-type]
    rows = []
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            name = ast.unparse(field.target)
            rows.append(f"| `{name}` | {values[name]} | {' '.join(str(text.value.value).split())} |")
    assert len(rows) == len(values)
    return rows
