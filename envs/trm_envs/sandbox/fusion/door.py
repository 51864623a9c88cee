"""Who may come in: the token, refusals, and what of a stranger's words may be shown."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import os
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from trm_envs.sandbox.fusion.bounds import Bounds

VARIABLE = "TRM_SANDBOX_TOKEN"
"""Environment variable with the token."""
LONGEST_SHOWN = 300
"""Characters of a line of the log; the rest is cut."""
MOST_TOKEN_BYTES = 4096


class Door:
    """Decides from the head of a request whether its body will be read.

    Args:
        token: the token that a request needs; None lets everybody in.
        bounds: the server's limits.

    Raises:
        ValueError: if the token is not allowed.
    """

    def __init__(self, token: str | None, bounds: "Bounds") -> None:
        if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
            raise ValueError("token: expected printable ASCII characters without a space")
        self._digest = None if token is None else _digest(token.encode())
        self._bounds = bounds

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer to a request that may not come in; None if it may."""
        headers = request.headers
        if "Origin" in headers:
            # any page that a browser on this machine shows could send programs here
            return failure(403, "requests from a browser are refused")
        if self._digest is not None and not _holds(headers.get("Authorization", ""), self._digest):
            response = failure(401, "this server needs its token; the address is http://:TOKEN@host:port")
            response.headers["WWW-Authenticate"] = 'Basic realm="sandbox"'
            return response
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            return failure(415, "Content-Encoding: a body is taken as it is; send it without compression")
        if headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
            return failure(400, "Transfer-Encoding: this server knows chunked")
        if headers.get("Upgrade", "h2c").lower() != "h2c":  # which may be ignored
            return failure(400, "Upgrade: this server speaks HTTP/1.1 and nothing else")
        if headers.get("Expect", "100-continue").lower() != "100-continue":
            return failure(417, "Expect: this server knows 100-continue")
        if (request.content_length or 0) > self._bounds.body_bytes:
            return too_long(self._bounds)
        return None


def too_long(bounds: "Bounds") -> web.Response:
    """Return the answer to a body that is too long."""
    return failure(413, f"the request's body is too long: this server takes {bounds.body_bytes} bytes")


def failure(status: int, detail: Any) -> web.Response:
    """Return an answer that says why there is no result."""
    return web.json_response({"detail": detail}, status=status)


def shown(text: str) -> str:
    """Return a line that can be shown: control characters, marks of direction and line ends are written as escapes."""
    cut = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode() for char in cut
    )


def log_to_stderr(line: str) -> None:
    """Print a line of the log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", file=sys.stderr, flush=True)


def find_token(given: str | None, file: str | None) -> tuple[str | None, str | None]:
    """Return the token and a warning about where it stands, each None if there is none.

    Args:
        given: the token of the command line.
        file: the name of a file that holds it, and nothing else but a line end; with neither, the environment
            variable TRM_SANDBOX_TOKEN is read.

    Raises:
        ValueError: if both are given, or the file or the variable does not hold a token.
        OSError: if the file cannot be read.
    """
    if given is not None and file is not None:
        raise ValueError("--token: got a token and --token-file; allowed: one of them; leave --token out")
    if given is not None:
        return given, "WARNING: --token is visible to everyone on this machine (ps); use --token-file FILE"
    if file is None:
        token = os.environ.get(VARIABLE)
        if token == "":
            raise ValueError(f"{VARIABLE}: is empty; allowed: a token; set one, or unset it to serve without")
        return token, None
    with Path(file).open("rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        content = opened.read(MOST_TOKEN_BYTES + 1)
    token = content.decode("latin-1").strip()
    if not token or len(content) > MOST_TOKEN_BYTES:
        raise ValueError(f"--token-file: {file} holds {len(content)} bytes; allowed: a token on one line; write one")
    is_open = stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO)
    return token, f"WARNING: {file} is readable or writable by others; chmod 600 {file}" if is_open else None


def warning(host: str, token: str | None) -> str | None:
    """Return a warning to the operator about this address; None if only this machine reaches it."""
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return None
    if token is not None:
        return f"WARNING: {host} is reached from other machines, and the token travels unencrypted"
    return (
        f"WARNING: {host} is reached from other machines and there is no authentication: whoever can reach it runs "
        "programs here; pass --token-file, or bind 127.0.0.1"
    )


def _holds(header: str, digest: bytes) -> bool:
    """Return whether a header holds the token; the time that this takes tells neither its length nor a part of it."""
    kind, _, value = header.partition(" ")
    given = value.strip().encode("utf-8", "surrogateescape")
    if kind.lower() == "basic":
        try:
            given = base64.b64decode(given).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(_digest(given), digest)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
