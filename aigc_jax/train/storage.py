"""Writing files so that a full disk or a kill at any moment loses nothing that was there before."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aigc_jax.errors import StorageError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_GONE = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ENOENT}


def _code(error: BaseException) -> int | None:
    """Returns the errno behind an exception, or None when the disk has nothing to do with it.

    Libraries that write through C++ (tensorstore under orbax) raise ValueError with the system's
    words in the text, so those words are looked for as well, down the chain of causes.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL | _READ_ONLY | _GONE:
            return seen.errno
        if not isinstance(seen, OSError):
            for code in sorted(_FULL | _READ_ONLY):
                if os.strerror(code) in str(seen):
                    return code
        seen = seen.__cause__
    return None


@contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turns a failure of the disk under `path` into StorageError; other errors pass unchanged.

    Args:
      path: what was being written; it is named in the message.

    Raises:
      StorageError: the disk is full, read-only, not ours to write to, or gone.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        if code in _FULL:
            what = "the disk is full; make room and start the same command again"
        elif code in _READ_ONLY:
            what = "no permission to write there, or a read-only disk; choose another --workdir"
        else:
            what = "the folder or its disk is gone; bring it back and start the same command again"
        raise StorageError(f"can't write {path}: {os.strerror(code)} ({what})") from error


def write_atomic(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Replaces the file `path` in one move: a reader sees the old content or the new, whole.

    Args:
      path: the file; its folder must exist.
      content: what it shall hold; text is written as UTF-8.
      sync: wait for the disk, so that the new content also survives a loss of power.

    Raises:
      StorageError: the disk is full or read-only; the old file is then still whole.
    """
    path = Path(path)
    # Of this thread: trials that are evaluated at the same time may keep the same thing.
    fresh = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    with storage_errors(path):
        try:
            with open(fresh, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            with suppress(OSError):
                fresh.unlink()
            raise
        if sync:
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a loss of power, where the file system can."""
    with suppress(OSError):  # some network file systems refuse to sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
