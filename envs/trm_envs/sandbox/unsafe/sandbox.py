"""Programs as plain subprocesses: nothing is isolated. For a user who asks for it by name, and for nobody else."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

from trm_envs.packages import Packages
from trm_envs.sandbox import package_folder
from trm_envs.sandbox.interface import Limits
from trm_envs.sandbox.runner import BlockingSandbox, BlockingSession
from trm_envs.sandbox.slots import Slots
from trm_envs.sandbox.unsafe.process import Folder

WARNING = (
    "sandbox=unsafe: programs run as plain subprocesses with your rights, your files and your network; nothing is "
    "isolated. Use it only for code that you would run by hand."
)


class UnsafeSandbox(BlockingSandbox):
    """Runs programs without isolation; see `Runner` for `run`, `arun` and `close`.

    Of the limits, those on time, output, the size of a file and the memory of one process hold. Those on the number of
    processes and files and on the disk do not, and a program that leaves its process group outlives its call.

    Args:
        limits: default limits of a call.
        packages: what programs can import beside the standard library.
    """

    def __init__(self, limits: Limits | None = None, *, packages: Packages | None = None) -> None:
        warnings.warn(WARNING, RuntimeWarning, stacklevel=2)
        number = 4 * (os.cpu_count() or 1)
        super().__init__(limits, ThreadPoolExecutor(number, "trm-unsafe"))
        self._packages = package_folder.linked(packages or Packages())
        self._slots = Slots(number)
        self._folders: set[Folder] = set()

    def session(self) -> "UnsafeSession":
        """Open a session; see `Sandbox.session`."""
        return UnsafeSession(self)

    def close(self) -> None:
        """Stop all calls and sessions; may be called again."""
        self._closed = True
        for folder in tuple(self._folders):
            folder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._packages.cleanup()

    def _open(self) -> Folder:
        self._check_open()
        return Folder(self._slots, self._folders, self._packages.name)


class UnsafeSession(BlockingSession):
    """A session in a folder of its own; see `BlockingSession`."""
