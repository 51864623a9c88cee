"""Bounds of the server on all that a client sends, whether it is known yet or not."""

import dataclasses

KIB, MIB = 1 << 10, 1 << 20


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The server's own limits; those of a program are `Limits`.

    Raises:
        ValueError: if a value is not allowed.
    """

    head_s: float = 5.0
    """Seconds for the head of a request, its first line and its headers"""
    idle_s: float = 60.0
    """Seconds without a request before a connection is closed"""
    body_s: float = 30.0
    """Seconds for a body, without the waits of the server's making"""
    slow_s: float = 5.0
    """Seconds in which a body or an answer may be slower than `rate`"""
    rate: int = 64 * KIB
    """Bytes per second at which a client sends a body and takes an answer, on average"""
    head_bytes: int = 32 * KIB
    """Bytes of a head, and of what is sent ahead while an earlier request runs"""
    body_bytes: int = 32 * MIB
    """Bytes of one body"""
    all_body_bytes: int = 64 * MIB
    """Bytes of complete bodies in memory, until their programs end; as many of incomplete ones come on top"""
    all_answer_bytes: int = 256 * MIB
    """Bytes of answers that wait for their clients; beyond it programs keep their places until theirs is taken"""
    connections: int = 4096
    """Connections; fewer if the process may open fewer than four times as many descriptors"""
    address_connections: int = 2048
    """Connections of one address (of IPv6: of a /64 network); at most half of all"""
    silent: int = 512
    """Connections without a complete head; the oldest makes way for the next one"""
    address_silent: int = 128
    """The same of one address"""
    waiting: int = 1000
    """Requests that wait for a place; a further one is answered with HTTP 503"""
    address_waiting: int = 800
    """The same of one address"""
    cells: int = 1000
    """Cells of a notebook"""
    cells_bytes: int = 64 * MIB
    """Bytes that all cells of a notebook print; the one that exceeds it has status `output_limit` and is the last"""
    files: int = 4096
    """Files of a request"""
    fetched: int = 256
    """Files to fetch"""
    fetched_bytes: int = 128 * MIB
    """Bytes that files to fetch may have together, by `file_bytes` and `disk_bytes` of the request"""
    name_bytes: int = 1000
    """Bytes of a file's name with its folders"""
    folders: int = 32
    """Folders in a file's name"""
    values: int = 20_000
    """Values of a body's JSON, with names and brackets"""
    depth: int = 16
    """Nesting of a body's JSON"""
    digits: int = 40
    """Characters of a number"""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds = (int, float) if field.name.endswith("_s") else (int,)
            if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value <= 1 << 40:
                raise ValueError(f"bounds.{field.name} = {value!r}: expected a number over 0; e.g. {field.default}")
        if self.all_body_bytes < self.body_bytes:
            raise ValueError(
                f"bounds.all_body_bytes = {self.all_body_bytes}: expected at least one body, {self.body_bytes} bytes"
            )

    def for_descriptors(self, number: int) -> "Bounds":
        """Return the bounds for a process that may open so many descriptors: programs need them, too."""
        connections = max(16, min(self.connections, number // 4))
        return dataclasses.replace(
            self,
            connections=connections,
            address_connections=min(self.address_connections, connections // 2),
            silent=min(self.silent, connections // 4),
            address_silent=min(self.address_silent, connections // 8),
        )

    def lines(self) -> list[str]:
        """Return the limits as lines of text."""
        return [f"  {field.name:<20}{_shown(field.name, getattr(self, field.name))}" for field in _FIELDS]


_FIELDS = dataclasses.fields(Bounds)


def _shown(name: str, value: float) -> str:
    if name.endswith("_s"):
        return f"{value:g} s"
    if not name.endswith("bytes") and name != "rate":
        return f"{value:,}"
    text = (
        f"{value // MIB} MiB" if value % MIB == 0 else f"{value // KIB} KiB" if value % KIB == 0 else f"{value} bytes"
    )
    return f"{text} per second" if name == "rate" else text
