"""Where a process is: the line of code, and which of several processes does not go on."""

import inspect
import sys
import sysconfig
import threading
from collections.abc import Container, Mapping
from pathlib import Path
from types import FrameType

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")})


def line(frame: FrameType | None) -> str:
    """The innermost line of code that is ours or the user's, as FILE:LINE; "" without one."""
    while frame is not None:
        path = frame.f_code.co_filename
        file = Path(path)
        if file.is_relative_to(_PACKAGE):
            return f"{file.relative_to(_PACKAGE.parent)}:{frame.f_lineno}"
        if not path.startswith((*_LIBRARIES, "<frozen", sys.prefix)):
            return f"{file.name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def caller() -> str:
    """`line` of who called the function that calls this."""
    frame = inspect.currentframe()
    return line(frame.f_back.f_back if frame and frame.f_back else None)


def main_thread() -> str:
    """`line` of what this process's main thread does at this moment."""
    return line(sys._current_frames().get(threading.main_thread().ident or 0))


class Standstill:
    """Notices that no process of a run has gone on for a while, and says where each one is.

    A process that is alive and yet never comes (its data hang, its disk) holds up all others in an
    exchange which nobody can look into. Where they are tells them apart.

    Args:
      patience: seconds without a turn of anybody; it is told again after as many more.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._at: dict[int, tuple[int, str]] = {}
        self._since = 0.0

    def note(self, number: int, turn: int, where: str, now: float) -> None:
        """Takes what a process says of itself: how often it has met the others, and its line."""
        if turn != self._at.get(number, (-1, ""))[0]:
            self._since = now
        self._at[number] = turn, where

    def words(self, names: Mapping[int, str], done: Container[int], now: float) -> str:
        """Says who is where, but for those that are done, if it is time to; else ""."""
        if now - self._since < self._patience:
            return ""
        self._since = now
        places = "; ".join(
            f"{names[number]} is at {where or 'no line of ours'}"
            for number, (_, where) in sorted(self._at.items())
            if number not in done
        )
        return (
            f"the processes have not met for {self._patience:g} s: {places}. One that is not where"
            " the others wait holds them up (AIGC_HUNG_SECONDS sets when this is said)."
        )
