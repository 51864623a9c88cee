"""Files of the working folder by relative name; no link is followed on the way."""

import os
import stat

from .isolation import WORK


def write(name: str, data: bytes) -> None:
    """Write `data` to `name`, making the folders on the way."""
    folder = _open_folder(name, make=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(os.path.basename(name), flags, 0o644, dir_fd=folder)
        with open(fd, "wb") as file:
            file.write(data)
    finally:
        os.close(folder)


def read(name: str, max_bytes: int) -> bytes:
    """Return the bytes of the regular file `name`.

    Raises:
        OSError: if it is absent, a link, no regular file, or longer than `max_bytes`.
    """
    folder = _open_folder(name, make=False)
    try:
        fd = os.open(os.path.basename(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if status.st_size > max_bytes:
                raise OSError(f"{status.st_size} bytes, at most {max_bytes} are fetched")
            return file.read(max_bytes)
    finally:
        os.close(folder)


def _open_folder(name: str, make: bool) -> int:
    folder = os.open(WORK, os.O_PATH | os.O_DIRECTORY)
    for part in name.split("/")[:-1]:
        if make and not _is_there(part, folder):
            os.mkdir(part, 0o755, dir_fd=folder)
        try:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _is_there(part: str, folder: int) -> bool:
    try:
        os.stat(part, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
