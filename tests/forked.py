"""Workers of a sweep, forked from a process that has done the imports (three seconds of work each).

What `sweep.local` starts is as `subprocess.Popen` would start it: a process with its own session,
streams and environment, that has the files which are passed on and no others of the driver's.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from types import SimpleNamespace
from typing import Any

_MOST = 1 << 18  # bytes of an order


def install(first: str) -> None:
    """Lets this process, a driver that has not begun, fork its workers; each runs `first` before.

    They come from a copy of this process as it is now: without threads, open databases or locks.
    """
    import aigc_jax.cli.sweep_worker
    import aigc_jax.sweep.local
    import aigc_jax.sweep.worker

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        os.setsid()  # what a terminal sends is the driver's
        _serve(theirs, first)
        os._exit(0)
    theirs.close()
    made: Any = SimpleNamespace(Popen=partial(Popen, ours), PIPE=subprocess.PIPE)
    aigc_jax.sweep.local.subprocess = made
    aigc_jax.sweep.local.PROGRAM = ("aigc",)  # type: ignore[assignment]


class Popen:
    """As much of `subprocess.Popen` as the driver uses."""

    def __init__(self, link: socket.socket, words: list[str], **asked: Any) -> None:
        reader, writer = os.pipe()
        order = json.dumps({"words": words[1:], "env": asked["env"]}).encode()
        socket.send_fds(link, [order], [reader, asked["stdout"].fileno(), *asked["pass_fds"]])
        os.close(reader)
        self._link, self.pid = link, int(link.recv(_MOST))
        self.stdin, self._code = os.fdopen(writer, "wb"), None

    def poll(self) -> int | None:
        """The exit code, minus the signal that killed it; None while it runs."""
        if self._code is None:
            self._link.send(json.dumps({"wait": self.pid}).encode())
            self._code = json.loads(self._link.recv(_MOST))
        return self._code

    def wait(self) -> None:
        """Waits for its end."""
        while self.poll() is None:
            time.sleep(0.01)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        if self.poll() is None:
            os.kill(self.pid, 15)


def _serve(link: socket.socket, first: str) -> None:
    """Forks and waits as it is told, until the driver is gone."""
    while True:
        said, files, *_ = socket.recv_fds(link, _MOST, 8)
        if not said:
            return
        order = json.loads(said)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if pid else None
            link.send(json.dumps(code).encode())
            continue
        pid = os.fork()
        if pid == 0:
            link.close()
            _work(files, order["words"], order["env"], first)
        for file in files:
            os.close(file)
        link.send(str(pid).encode())


def _work(files: list[int], words: list[str], env: dict[str, str], first: str) -> None:
    os.setsid()
    for number, file in ((0, files[0]), (1, files[1]), (2, files[1])):
        os.dup2(file, number)
    for file in files[:2]:
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["aigc", *words]
    code = 1
    try:
        exec(first, {})
        from aigc_jax.cli.main import main

        code = main(words)
        sys.stdout.flush()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
