"""Folders that hold what was fetched or computed once: whole or not there at all.

A folder is filled under a temporary name and renamed when complete, under a lock that the system
drops when its process dies. So Ctrl-C, a kill or a full disk leaves no half entry, and two
processes that want the same entry make it once.
"""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from aigc_jax.errors import StorageError, UserError


def cache_root() -> Path:
    """Where recomputable things are kept: $AIGC_CACHE, else aigc_jax in the user's cache."""
    if chosen := os.environ.get("AIGC_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "aigc_jax"


def data_root() -> Path:
    """Where data sets are kept: $AIGC_DATA, else $AIGC_CACHE/data, else the user's data folder."""
    if chosen := os.environ.get("AIGC_DATA"):
        return Path(chosen).expanduser()
    if os.environ.get("AIGC_CACHE"):
        return cache_root() / "data"
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "aigc_jax"


def sha256_of(path: Path) -> str:
    """Returns the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: Path) -> bytes:
    """Returns a file's bytes, unzipped when it is gzipped.

    Raises:
      UserError: it can't be read or the gzip is cut off.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be read whole: {error}. Copy it again.") from None


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns a full, read-only or forbidden disk into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        raise StorageError(
            f"Can't write below {path}: {error.strerror}. Nothing half-made was kept. Free some "
            "space, or name another folder by the environment variable AIGC_CACHE (tokens) or "
            "AIGC_DATA (data sets)."
        ) from None


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Holds the lock file `path`; waits for its holder, and says so on stderr."""
    with storage(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is {doing}; waiting for it.", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def filling(final: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes `final` when the block ends well, else vanishes.

    Call it under a lock of `final`: what a killed process left there is removed, and an old
    `final` is replaced.
    """
    with storage(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.parent / f".{final.name}.part"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _sync(path)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            _sync(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _sync(path: Path) -> None:
    """Brings a file or a folder's list of names to the disk, so that a power cut can't halve it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
