"""One process, one run folder."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from aigc_jax.errors import UserError
from aigc_jax.train.storage import storage_errors


class Lock:
    """Holds RUN/.lock for as long as the process lives; the system lets go when it dies.

    Raises:
      UserError: another process holds it. StorageError: the folder can't be written.
    """

    def __init__(self, workdir: Path) -> None:
        path = workdir / ".lock"
        with storage_errors(path):
            self._file = open(path, "a+")  # noqa: SIM115  (held open: that is the lock)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"{workdir} is in use by {holder}; wait for it, stop it, or choose another"
                " --workdir."
            ) from error
        with storage_errors(path):
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Lets one process at a time change a file that others change too, whoever has the run's lock.

    The lock is on the folder itself, for a moment. Where the file system knows none, there is none.
    """
    with storage_errors(workdir):
        handle = os.open(workdir, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
