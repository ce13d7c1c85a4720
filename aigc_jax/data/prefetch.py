"""The next batches, computed by a thread while the device is busy with this one."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

T = TypeVar("T")
JOIN_SECONDS = 10.0  # a fetch that hangs longer (a dead network disk) doesn't hold up the exit


class Prefetcher(Generic[T]):
    """Calls `fetch(start)`, `fetch(start + 1)`, ... ahead of `get`, one after another.

    What `fetch` raises for i is raised by `get(i)`. `fetch` must be a pure function of its
    argument: then the order of the results depends on nothing else.
    """

    def __init__(self, fetch: Callable[[int], T], start: int, depth: int = 2) -> None:
        """Starts the thread.

        Args:
          fetch: gives the batch of a step; called in the thread only.
          start: the first step.
          depth: how many results are kept ready, at least 1.
        """
        if depth < 1:
            raise ValueError(f"depth is {depth}, expected at least 1")
        self._fetch = fetch
        self._depth = depth
        self._changed = threading.Condition()
        self._ready: deque[tuple[int, T | None, BaseException | None]] = deque()
        self._next = start  # what the thread computes next
        self._era = 0  # counts the jumps; a result of an earlier era is thrown away
        self._failed = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def get(self, index: int) -> T:
        """Returns `fetch(index)`, waiting for it; jumps where `index` is not the next in line.

        Raises:
          RuntimeError: after `close`.
          Exception: whatever `fetch(index)` raised.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the prefetcher is closed")
            if (self._ready[0][0] if self._ready else self._next) != index or (
                self._failed and not self._ready
            ):
                self._jump(index)
            while not self._ready:
                self._changed.wait()
                if self._closed:
                    raise RuntimeError("the prefetcher was closed while it was waited for")
            _, value, error = self._ready.popleft()
            self._changed.notify_all()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # a T wherever there is no error

    def seek(self, index: int) -> None:
        """Goes on from `index`: what was computed ahead is dropped."""
        with self._changed:
            self._jump(index)

    def close(self) -> None:
        """Stops the thread after the call it is in. May be called twice."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(JOIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _jump(self, index: int) -> None:
        self._ready.clear()
        self._next = index
        self._era += 1
        self._failed = False
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (self._failed or len(self._ready) >= self._depth):
                    self._changed.wait()
                if self._closed:
                    return
                index, era = self._next, self._era
            value, error = None, None
            try:
                value = self._fetch(index)
            except BaseException as raised:  # handed to the caller, whatever it is
                error = raised
            with self._changed:
                if era == self._era:
                    self._ready.append((index, value, error))
                    self._next = index + 1
                    self._failed = error is not None
                    self._changed.notify_all()
