"""The background thread: order, errors, jumps, and an end without a hang."""

import threading
import time
from collections.abc import Callable

import pytest

from aigc_jax.data.prefetch import Prefetcher


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited ten seconds in vain"
        time.sleep(0.001)


def test_results_come_in_order_and_ahead_of_time() -> None:
    called: list[int] = []

    def fetch(index: int) -> int:
        called.append(index)
        return index * index

    with Prefetcher(fetch, 3, depth=2) as ahead:
        wait_for(lambda: len(called) == 2)
        time.sleep(0.02)
        assert called == [3, 4]  # not further ahead than asked
        assert [ahead.get(i) for i in range(3, 40)] == [i * i for i in range(3, 40)]
        assert called[:37] == list(range(3, 40))


def test_fetch_runs_beside_the_caller() -> None:
    with Prefetcher(lambda i: threading.current_thread().name, 0) as ahead:
        assert ahead.get(0) == "prefetch"


def test_an_error_reaches_the_caller_of_that_index_and_a_retry_works() -> None:
    broken = {5}

    def fetch(index: int) -> int:
        if index in broken:
            raise OSError(f"no {index}")
        return index

    with Prefetcher(fetch, 4, depth=3) as ahead:
        assert ahead.get(4) == 4
        for _ in range(2):
            with pytest.raises(OSError, match="no 5"):
                ahead.get(5)
        broken.clear()
        assert [ahead.get(i) for i in (5, 6, 7)] == [5, 6, 7]


def test_jumps_drop_what_was_ahead() -> None:
    gate = threading.Event()

    def fetch(index: int) -> int:
        if index == 0:
            gate.wait(10)
        return index

    with Prefetcher(fetch, 0) as ahead:
        ahead.seek(100)  # while fetch(0) is still under way: its result belongs to nobody
        gate.set()
        assert ahead.get(100) == 100
        assert ahead.get(50) == 50
        assert [ahead.get(i) for i in (51, 52, 51, 7)] == [51, 52, 51, 7]


def test_close_ends_the_thread_and_is_final() -> None:
    ahead = Prefetcher(lambda i: i, 0)
    ahead.get(0)
    ahead.close()
    ahead.close()
    assert not any(t.name == "prefetch" for t in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        ahead.get(1)
    with pytest.raises(ValueError, match="depth"):
        Prefetcher(lambda i: i, 0, depth=0)
