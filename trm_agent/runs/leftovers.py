"""Leftovers of a killed run outside its folder."""

from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
WEIGHTS_PATTERN = "verl_weights_*"


def remove_stale_weights(directory: Path = SHARED_MEMORY, processes: Path = Path("/proc")) -> list[str]:
    """Remove verl's weight buffers in shared memory that no living process has mapped.

    Returns:
        The names of the removed files.
    """
    candidates = {str(path): path for path in directory.glob(WEIGHTS_PATTERN)}
    if not candidates:
        return []
    for maps in processes.glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:  # another user's process, or one that has just ended
            continue
        for name in [name for name in candidates if name in text]:
            del candidates[name]
    for path in candidates.values():
        path.unlink(missing_ok=True)
    return sorted(path.name for path in candidates.values())
