"""A file of lines that grows, and holds whole lines only, whatever happens."""

import os
from pathlib import Path

from aigc_jax.train.storage import storage_errors


class Lines:
    """Appends lines to a file, which need not exist.

    Raises:
      StorageError: the disk is full, read-only or gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            # Unbuffered: a line goes to the system in one call, so kill -9 can't tear it in two.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed in `close`)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._file.closed

    def append(self, lines: bytes) -> None:
        """Appends whole lines, each with its newline; other processes read them from then on.

        Raises:
          StorageError: the disk is full or gone. The file ends as it did before.
        """
        with storage_errors(self.path):
            start = os.fstat(self._file.fileno()).st_size
            written = 0
            try:
                while written < len(lines):
                    written += self._file.write(lines[written:]) or 0
            except BaseException:
                if written:  # a full disk takes part of a line: cutting it off needs no room
                    os.ftruncate(self._file.fileno(), start)
                raise

    def flush(self) -> None:
        """Waits until every line is on the disk.

        Raises:
          StorageError: the disk is full or gone.
        """
        with storage_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()
