"""A process that outlives this one: in version 1 nobody can kill a frozen process, so somebody must thaw it."""

import os
import subprocess
from pathlib import Path

from trm_envs.sandbox.local.descriptors import known

_SCRIPT = 'while read -r _; do :; done; for state in "$1"/*/freezer.state; do echo THAWED > "$state"; done'


class Keeper:
    """Waits for the end of this process, also by a kill, and thaws the groups beneath a folder.

    Args:
        folder: the group of this process in the freezer's hierarchy.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        reading, self._writing = os.pipe()
        known.add(self)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "trm-keeper", str(folder)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,  # an interrupt from the keyboard is not for it
            )
        finally:
            os.close(reading)

    def forget(self) -> None:
        """Close the descriptor that tells it of this process, as a child that was forked off."""
        if self._writing >= 0:
            os.close(self._writing)
        self._writing = -1

    def close(self) -> None:
        """Let it end; in a child that was forked off, do nothing."""
        if self._writing >= 0:
            self.forget()
            self._process.wait()
