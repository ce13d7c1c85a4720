"""SIGTERM and Ctrl-C: the first asks for a saved stop, the second ends the process at once."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from aigc_jax.train import peers
from aigc_jax.train.progress import restore_terminal

T = TypeVar("T")


class Interrupted(Exception):
    """A signal came while something was running that can be given up, such as an evaluation."""


class Early(BaseException):
    """A signal came before there was anything to save; nothing that catches errors may hold it."""


class Signals:
    """Records the first signal; the loop polls `asked` wherever it may stop.

    A context manager: the handlers that stood before come back at the end. XLA compiles without
    looking at Python, so a signal that comes then is seen right after.

    Attributes:
      asked: the name of the signal that came, or what `ask` was given; None while there is none.
      saves: whether a first signal waits for a saved stop. While it is False (data is prepared,
        nothing runs yet), a signal raises `Early` at once.
    """

    def __init__(self, *, saves: bool = True) -> None:
        self.asked: str | None = None
        self.saves = saves
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: it was not set from Python, and can't be put back from there.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked:
            restore_terminal()
            # write, not print: a handler may interrupt a print half-way.
            os.write(2, b"\naigc: stopped at once; the last checkpoint is whole.\n")
            os._exit(130)
        self.asked = name
        if not self.saves:
            raise Early(name)
        os.write(2, f"\naigc: {name}: saving, then stopping (again to stop at once).\n".encode())

    def ask(self, reason: str) -> None:
        """Asks for a saved stop, as a first signal does; of two requests the first counts."""
        self.asked = self.asked or reason

    def raise_if_asked(self) -> None:
        """Raises Interrupted when a signal has come; on all processes of a run, or on none."""
        if asked := peers.here().agree(self.asked):
            raise Interrupted(asked)

    def interruptible(self, function: Callable[..., T]) -> Callable[..., T]:
        """Wraps what an evaluator calls again and again, so that it can be given up between."""

        def wrapped(*args: Any, **kwargs: Any) -> T:
            self.raise_if_asked()
            return function(*args, **kwargs)

        return wrapped
