"""The errors that are the user's to mend, and the nearest right name for a wrong one."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for.

    The message is one line: what came, what was expected, what to do. The command line prints it
    without a traceback and exits with 2.
    """

    exit_code = 2


class StorageError(UserError):
    """The disk is full, read-only or gone. Nothing already saved is lost; the exit code is 4."""

    exit_code = 4


class LostPeer(UserError):
    """Another process of the run is gone or never came; the exit code is 5.

    The same command, on the same or another number of processes, goes on from the last checkpoint.
    """

    exit_code = 5


def nearest(word: str, options: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the option closest to `word`, or "" when none is close."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
