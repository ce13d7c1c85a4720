"""The processes of one run: who is there, what they agree on, and what happens when one dies.

A star of TCP connections with process 0 in the middle, one JSON value a line. It stands before JAX
starts, so that a host that is missing or differs is named in one line: JAX's own coordination
service ends the process with a stack trace instead. A connection that closes without a last word is
a dead process; the others see it at once, and end.
"""

import contextlib
import json
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from aigc_jax.errors import LostPeer, UserError
from aigc_jax.train import whereabouts
from aigc_jax.train.progress import restore_terminal

# Seconds.
_GRACE = 10.0  # an error of one process is most often one of all: each may end by its own hand
_PING, _POLL, _VERDICT = 2.0, 0.2, 3.0


class Alone:
    """The only process of a run: it agrees with itself, at no cost.

    Attributes:
      asked: gives the signal that came to this process, or None; it is passed on to process 0.
      on_asked: what process 0 does with one, given a sentence. on_end: called with a sentence just
        before the process ends for the death of another. on_hung: what process 0 does with a
        sentence that says where all are, when nobody goes on.
      parent: the process that this one shall not outlive, if any.
    """

    index, count = 0, 1

    def __init__(self) -> None:
        self.asked: Callable[[], str | None] = lambda: None
        self.on_asked: Callable[[str], None] = lambda words: None
        self.on_end: Callable[[str], None] = lambda words: None
        self.on_hung: Callable[[str], None] = lambda words: None
        self.parent: int | None = None

    def agree(self, value: Any) -> Any:
        """Returns process 0's `value`, on every process."""
        return value

    def everyone(self, name: str, value: Any = None, within: float | None = None) -> list[Any]:
        """Returns the values of all processes, in order; nobody goes on before all are here.

        Raises:
          LostPeer: after `within` seconds (None: never); the processes that are missing are named.
        """
        return [value]

    def settle(self) -> None:
        """Waits a moment after an error: when another process has died, that is the one to tell."""

    def leave(self, words: str = "", code: int = 0) -> None:
        """Says a last word: "" when all is done, else what went wrong, and the exit code."""


class Star(Alone):
    """This process among several.

    Args:
      index, count: which of how many. address: HOST:PORT where process 0 listens.
      within: seconds in which all must have come. patience: seconds of silence after which a
        process is dead (one that is killed is noticed at once; this is for a host that vanishes).
      hung: seconds without a turn of anybody after which it is told where each one is.

    Raises:
      LostPeer: process 0 can't be reached, or others have not come.
      UserError: the port is in use, or two processes have one number.
    """

    def __init__(
        self, index: int, count: int, address: str, *, within: float = 300.0,
        patience: float = 60.0, hung: float = 600.0,
    ) -> None:  # fmt: skip
        self.index, self.count, self._address, self._patience = index, count, address, patience
        super().__init__()
        self._names = {index: f"process {index} (pid {os.getpid()} on {socket.gethostname()})"}
        self._peers: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self._heard: dict[int, float] = {}
        self._done: set[int] = set()
        self._turns: dict[str, int] = {}
        self._told: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._brought: dict[str, dict[int, Any]] = {}
        self._still = whereabouts.Standstill(hung)
        self._change, self._lock = threading.Condition(), threading.Lock()
        self._failed: tuple[str, int, float] | None = None
        self._leaving = self._passed_on = False
        self._met = 0  # of all kinds of turns
        host, _, port = address.rpartition(":")
        limit = time.monotonic() + within
        try:
            if index == 0:
                self._gather_peers(int(port), limit, within)
            else:
                self._reach(host.strip("[]"), int(port), limit, within)
        except BaseException:
            self._close()
            raise
        self._watcher = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._watcher.start()

    # --- coming together ---------------------------------------------------------------------

    def _gather_peers(self, port: int, limit: float, within: float) -> None:
        with _listen(port, self._address) as door:
            while len(self._peers) < self.count - 1:
                door.settimeout(max(0.01, limit - time.monotonic()))
                try:
                    peer, _ = door.accept()
                    hello = _first_line(peer, 5.0)
                except TimeoutError:
                    if time.monotonic() < limit:
                        continue
                    missing = set(range(1, self.count)) - set(self._peers)
                    words = (
                        f"{_list(missing)} of {self.count} did not come to {self._address} within"
                        f" {within:g} s; start all of them, or fewer"
                    )
                    self._send_all({"lost": words})
                    raise LostPeer(f"{words}.") from None
                if hello is None or not {"hello", "count", "name"} <= hello.keys():
                    peer.close()  # somebody else's
                    continue
                number = hello["hello"]
                if hello["count"] != self.count or number in self._peers or number == 0:
                    words = (
                        f"{hello['name']} says it is one of {hello['count']}; process 0 knows of"
                        f" {self.count}, {len(self._peers) + 1} of them here: each needs a number"
                        " of its own, and all the same count"
                    )
                    self._peers[-1] = peer
                    self._send_all({"lost": words})
                    raise UserError(f"{words}.")
                self._enter(number, peer, hello["name"])
        self._send_all({"all": list(self._names.items())})

    def _reach(self, host: str, port: int, limit: float, within: float) -> None:
        while True:
            try:
                peer = socket.create_connection((host, port), timeout=max(0.1, min(
                    5.0, limit - time.monotonic())))  # fmt: skip
                break
            except OSError as error:
                if time.monotonic() > limit:
                    raise LostPeer(
                        f"process {self.index} of {self.count} can't reach process 0 at"
                        f" {self._address} ({error.strerror or error}, for {within:g} s); look"
                        " whether it runs, and whether that host and port can be reached from here."
                    ) from None
                time.sleep(0.1)
        self._enter(0, peer, "process 0")
        self._send(0, {"hello": self.index, "count": self.count, "name": self._names[self.index]})
        answer = _first_line(peer, max(1.0, limit - time.monotonic()) + 5.0)
        if answer is None or "all" not in answer:
            words = (answer or {}).get("lost", f"process 0 at {self._address} has gone away")
            raise LostPeer(f"{words}.")
        self._names |= {int(number): name for number, name in answer["all"]}

    def _enter(self, number: int, peer: socket.socket, name: str) -> None:
        peer.settimeout(None)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers[number], self._names[number] = peer, name
        self._rest[number], self._heard[number] = b"", time.monotonic()

    # --- what the main thread asks -----------------------------------------------------------

    def agree(self, value: Any) -> Any:
        """Returns process 0's `value` (of JSON: a tuple comes as a list), on every process."""
        turn = self._turn("agree")
        if self.index == 0:
            self._send_all({"agree": turn, "value": value})
            return value
        while True:
            with contextlib.suppress(queue.Empty):
                told, value = self._told.get(timeout=_POLL)
                if told != turn:
                    raise RuntimeError(f"process 0 is at agreement {told}, this one at {turn}")
                return value
            self._check()

    def everyone(self, name: str, value: Any = None, within: float | None = None) -> list[Any]:
        """Returns the values of all processes, in order; nobody goes on before all are here."""
        key = f"{name}#{self._turn(name)}"
        if self.index:
            self._send(0, {"brings": key, "value": value})
            return list(self.agree(None))
        limit = None if within is None else time.monotonic() + within
        with self._change:
            here = self._brought.setdefault(key, {})
            here[0] = value
            while len(here) < self.count:
                if limit is not None and time.monotonic() > limit:
                    missing = [self._names[i] for i in range(self.count) if i not in here]
                    raise LostPeer(
                        f"{', '.join(missing)} did not come to '{name}' within {within:g} s."
                    )
                self._change.wait(_POLL)
                self._check()
            del self._brought[key]
        return list(self.agree([here[i] for i in range(self.count)]))

    def _check(self) -> None:
        if not self._watcher.is_alive() and self._told.empty():
            raise LostPeer("the other processes have ended before this one.")

    def settle(self) -> None:
        """Waits a moment after an error: the watcher ends the process if another has died."""
        time.sleep(_VERDICT)

    def leave(self, words: str = "", code: int = 0) -> None:
        """Says a last word; the others end soon after one that is not ""."""
        if self._leaving:
            return
        self._leaving = True
        self._send_all({"left": words, "code": code})
        if not words:
            return
        # Until they have read it: a closed connection may throw away what is under way. And with
        # process 0 JAX's service ends, which takes the others down before their own last word.
        limit = time.monotonic() + (2 * _POLL if self.index else _GRACE + _VERDICT)
        while self._peers.keys() - self._done and time.monotonic() < limit:
            time.sleep(_POLL / 4)

    def _turn(self, name: str) -> int:
        self._met += 1
        self._turns[name] = self._turns.setdefault(name, 0) + 1
        return self._turns[name]

    # --- what the watcher does ---------------------------------------------------------------

    def _watch(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                self._until_all_have_left(selector)
        finally:
            self._close()

    def _until_all_have_left(self, selector: selectors.BaseSelector) -> None:
        for number, peer in self._peers.items():
            selector.register(peer, selectors.EVENT_READ, number)
        pinged = 0.0
        while self._peers.keys() - self._done or (self._failed and not self._leaving):
            for key, _ in selector.select(_POLL):
                if not self._read(key.data):
                    selector.unregister(key.fileobj)
                    self._gone(key.data, "has died")
            now = time.monotonic()
            for number in self._peers.keys() - self._done:
                if now - self._heard[number] > self._patience:
                    self._gone(number, f"has been silent for {self._patience:g} s")
            if now - pinged > _PING:
                pinged = now
                met, where = self._met, whereabouts.main_thread()
                self._send_all({"turn": met, "where": where})
                self._still.note(self.index, met, where, now)
                if self.index == 0 and (words := self._still.words(self._names, self._done, now)):
                    with contextlib.suppress(Exception):  # there may be nobody to read it
                        self.on_hung(words)
            if self.index and not self._passed_on and (reason := self.asked()):
                self._passed_on = True
                self._send(0, {"asks": f"{reason} of process {self.index}"})
            if self.parent and os.getppid() != self.parent:
                self.parent = None
                os.kill(os.getpid(), signal.SIGTERM)
            if self._failed and now > self._failed[2] and not self._leaving:
                self._end(*self._failed[:2])

    def _read(self, number: int) -> bool:
        """Takes what a peer has sent; False at the end."""
        try:
            data = self._peers[number].recv(1 << 16)
        except OSError:
            data = b""
        self._heard[number] = time.monotonic()
        *lines, self._rest[number] = (self._rest[number] + data).split(b"\n")
        for line in lines:
            self._take(number, json.loads(line))
        return bool(data)

    def _take(self, number: int, message: dict[str, Any]) -> None:
        if "agree" in message:
            self._told.put((message["agree"], message["value"]))
        elif "brings" in message:
            with self._change:
                self._brought.setdefault(message["brings"], {})[number] = message["value"]
                self._change.notify_all()
        elif "turn" in message:
            self._still.note(number, message["turn"], message["where"], self._heard[number])
        elif "asks" in message:
            self.on_asked(message["asks"])
        elif "lost" in message:
            self._end(message["lost"], LostPeer.exit_code)
        elif "left" in message:
            self._done.add(number)
            if message["left"]:
                self._note(f"{self._names[number]} has ended: {message['left']}", message["code"])

    def _note(self, words: str, code: int) -> None:
        """One has failed: this process gets some time to do the same by itself."""
        # 75: the others are to go on later, as this one; anything else is the death of a peer.
        code = code if code == 75 else LostPeer.exit_code
        self._failed = self._failed or (words, code, time.monotonic() + _GRACE)
        self._send_all({"left": words, "code": code} if self.index == 0 else {})

    def _gone(self, number: int, how: str) -> None:
        if number in self._done or self._leaving:
            self._done.add(number)
            return
        self._done.add(number)
        if self._failed:  # it has ended for that reason
            self._end(*self._failed[:2])
        self._end(f"{self._names[number]} of {self.count} {how}", LostPeer.exit_code)

    def _end(self, words: str, code: int) -> NoReturn:
        """Ends the process from the watcher's thread: the main one may be held up for ever."""
        if self.index == 0:
            self._send_all({"lost": words})
        with contextlib.suppress(BaseException):
            self.on_end(words)
        with contextlib.suppress(BaseException):
            restore_terminal()
            sys.stdout.flush()
        last = "the same command goes on from the last checkpoint"
        os.write(2, f"aigc: {words}; ending here too; {last}.\n".encode())
        if self.index == 0:
            time.sleep(_POLL)
        os._exit(code)

    def _close(self) -> None:
        with self._lock:
            for peer in self._peers.values():
                peer.close()

    def _send(self, number: int, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):  # the watcher sees that it is gone
            self._peers[number].sendall(line)

    def _send_all(self, message: dict[str, Any]) -> None:
        for number in list(self._peers):
            self._send(number, message)


def _listen(port: int, address: str) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        raise UserError(
            f"process 0 can't listen at {address} ({error.strerror}); another run may hold the"
            " port: choose another one (JAX_COORDINATOR_ADDRESS or MASTER_PORT)."
        ) from None


def _first_line(peer: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Reads one line and not more; None for anything but a JSON object."""
    peer.settimeout(seconds)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 1 << 16:
            if not (byte := peer.recv(1)):
                return None
            line += byte
        found = json.loads(line)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _list(numbers: set[int]) -> str:
    return ("processes " if len(numbers) > 1 else "process ") + ", ".join(map(str, sorted(numbers)))


_here: list[Alone] = [Alone()]


def here() -> Alone:
    """The processes of this run, seen from this one."""
    return _here[-1]


def be(group: Alone) -> None:
    """From now on this process is one of `group`."""
    _here[:] = [group]
