"""The checked request of one run."""

import dataclasses
from typing import Any

from trm_envs.sandbox.guest import wire
from trm_envs.sandbox.interface import Limits, as_bytes, check_file_name, check_language
from trm_fields import refuse

SESSION_CPU_FACTOR = 100


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of a run; see `Runner.run`."""

    code: str
    """The program, or the cell of a session; bytes that are not UTF-8 are surrogates."""
    language: str
    """One of `LANGUAGES`."""
    stdin: bytes
    """The program's input."""
    files: dict[str, bytes]
    """Files to write first, by relative name."""
    limits: Limits
    """Its limits."""
    outputs: list[str]
    """Names of files to fetch afterwards."""
    session: bool
    """True if it shares its state with others."""

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time of a process."""
        return self.limits.cpu_s * (SESSION_CPU_FACTOR if self.session else 1)

    @property
    def kind(self) -> bytes:
        """Return the kind of code: one of `wire.CALL`, `wire.CELL` and `wire.SCRIPT`."""
        return wire.CELL if self.session else wire.SCRIPT if self.language == "bash" else wire.CALL

    def order(self, kind: bytes, is_last: bool, has_share: bool, has_memory: bool) -> wire.Order:
        """Return the order to a supervisor, which sees no more of the request than this; see `wire.Order`."""
        limits = self.limits
        return wire.Order(
            kind,
            is_session=self.session,
            is_last=is_last,
            wall_s=limits.wall_s,
            cpu_s=self.cpu_s,
            memory_bytes=limits.memory_bytes,
            stack_bytes=limits.stack_bytes,
            processes=limits.processes,
            file_bytes=limits.file_bytes,
            disk_bytes=limits.disk_bytes,
            num_files=limits.num_files,
            has_share=has_share,
            has_memory=has_memory,
        )

    def packed_files(self) -> dict[str, str]:
        """Return the files, as a message holds them."""
        return {name: wire.pack(data) for name, data in self.files.items()}


def make_request(
    code: str, language: str, stdin: Any, files: Any, limits: Limits, outputs: Any, session: bool
) -> Request:
    """Check the arguments of a run.

    Raises:
        ValueError: if one is not allowed.
    """
    check_language(language)
    if session and (language != "python" or stdin):
        field, value = ("stdin", stdin) if language == "python" else ("language", language)
        refuse(field, value, "Python cells without stdin in a session", "use the sandbox's own run()")
    if not isinstance(limits, Limits):
        refuse("limits", limits, "Limits", "pass e.g. Limits(wall_s=5)")
    if isinstance(outputs, str):
        refuse("outputs", outputs, "a list of file names", f"pass [{outputs!r}]")
    contents = {check_file_name("files", name): as_bytes(f"files[{name!r}]", files[name]) for name in files or {}}
    size = sum(map(len, contents.values()))
    if size > limits.disk_bytes:
        refuse("files", f"{size} bytes", f"at most limits.disk_bytes = {limits.disk_bytes}", "raise it")
    return Request(
        code=as_bytes("code", code).decode("utf-8", "surrogateescape"),
        language=language,
        stdin=as_bytes("stdin", stdin),
        files=contents,
        limits=limits,
        outputs=[check_file_name("outputs", name) for name in outputs],
        session=session,
    )
