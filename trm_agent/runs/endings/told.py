"""Read exceptions out of text: a traceback of this process, Ray's words on another one, the lines of a log."""

import re
from dataclasses import dataclass

MAX_MESSAGE_CHARS = 400
MAX_READ_CHARS = 4000
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# what Ray, vLLM and logging put before a line: `(EngineCore_0 pid=12) `, `ERROR 11-28 22:01:02 [core.py:8] `
_PREFIX = re.compile(
    r"^(?:\([\w .:-]+ pid=\d+[^)]*\) ?|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]+\] ?)+"
)
_PROCESS = re.compile(r"pid=(\d+)")
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<name>.+))?$')
_RAISED = re.compile(r"^(?P<type>[A-Za-z_][\w.]*(?:\([\w.]+\))?)(?:: ?(?P<message>.*))?$")
_LINK = re.compile(r"^(?:During handling of the above exception|The above exception was the direct cause)")
_INSTALLED = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ", "<string>")


@dataclass(frozen=True)
class Raised:
    """An exception as a traceback tells it."""

    type: str
    """Name of its type, without the module."""
    message: str
    """Message in one line."""
    place: str
    """`FILE:LINE in FUNCTION` of the innermost frame, one outside of installed packages if there is any; else ""."""
    functions: tuple[str, ...] = ()
    """Functions on its stack, the innermost last."""


def plain(text: str) -> str:
    """Return a text without colours, and without the prefixes of Ray, vLLM and logging."""
    return "\n".join(line for _, line in _plain_lines(text))


def raised_in(text: str) -> list[Raised]:
    """Return the exceptions that a text tells, in its order; Ray's envelopes around them are left out.

    The lines of several processes may be mixed, as in a log.
    """
    processes: dict[str, list[tuple[int, str]]] = {}
    for number, (process, line) in enumerate(_plain_lines(text)):
        processes.setdefault(process, []).append((number, line))
    found = [each for lines in processes.values() for each in _raised_by_one(lines)]
    return [raised for _, raised in sorted(found, key=lambda each: each[0])]


def _plain_lines(text: str) -> list[tuple[str, str]]:
    """Return the lines, each with the process that wrote it; "" where no prefix tells."""
    lines = []
    for line in _COLOUR.sub("", text).splitlines():
        prefix = _PREFIX.match(line)
        process = _PROCESS.search(prefix[0]) if prefix else None
        lines.append((process[1] if process else "", line[prefix.end() if prefix else 0 :].rstrip()))
    return lines


def _raised_by_one(lines: list[tuple[int, str]]) -> list[tuple[int, Raised]]:
    found: list[tuple[int, Raised]] = []
    frames: list[re.Match[str]] = []
    message: list[str] | None = None
    name, at = "", 0
    for number, line in [*lines, (len(lines), "Traceback")]:
        frame, starts = _FRAME.match(line), line.startswith("Traceback") or bool(_LINK.match(line))
        if message is not None and (frame or starts or not line):
            _add(found, at, name, message, frames)
            frames, message = [], None
        if frame:
            frames.append(frame)
        elif starts:
            frames = []
        elif message is not None:
            message.append(line)
        elif frames and (raised := _RAISED.match(line)):
            name, message, at = raised["type"], [raised["message"] or ""], number
    return found


def one_line(text: str, most: int = MAX_MESSAGE_CHARS) -> str:
    """Return a text in one line, cut to fit a screen."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _add(found: list[tuple[int, Raised]], at: int, name: str, message: list[str], frames: list[re.Match[str]]) -> None:
    if "RayTaskError" in name or (name.endswith("ActorDiedError") and "ray::" in message[0]):
        return
    own = [frame for frame in frames if not any(part in frame["file"] for part in _INSTALLED)]
    place = ""
    if frames:
        innermost = (own or frames)[-1]
        place = f"{innermost['file']}:{innermost['line']}" + (f" in {innermost['name']}" if innermost["name"] else "")
    functions = tuple(frame["name"] for frame in frames if frame["name"])
    found.append((at, Raised(name.rpartition(".")[2], one_line(" ".join(message), MAX_READ_CHARS), place, functions)))
