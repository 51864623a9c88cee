"""Shared memory of dead runs goes, that of living ones stays."""

import mmap
from pathlib import Path

from trm_agent.runs.leftovers import remove_stale_weights


def test_only_unmapped_weight_buffers_are_removed(tmp_path: Path) -> None:
    for name in ("verl_weights_dead", "verl_weights_alive", "somebody_elses"):
        (tmp_path / name).write_bytes(b"x" * 4096)
    with (tmp_path / "verl_weights_alive").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert remove_stale_weights(tmp_path) == ["verl_weights_dead"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["somebody_elses", "verl_weights_alive"]
