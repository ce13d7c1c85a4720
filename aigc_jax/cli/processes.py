"""`aigc train ... --processes=N`: N processes of this machine, each with its own CPU device."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

from aigc_jax.cli import wire
from aigc_jax.errors import LostPeer, UserError

STOPPED = 75
_POLL, _LAST = 0.05, 20.0  # seconds; the second for the others to end by themselves
_MOST = 256
_LINES = 12  # of a dead process's last words


def launch(count: int, words: Sequence[str]) -> int:
    """Runs `aigc WORDS` as `count` processes that make up one run.

    The first one's output is this process's. SIGINT and SIGTERM go on to all.

    Returns:
      The exit code: theirs where they agree, else that of the one that failed first by its own
      hand; 5 where one was killed.
    """
    if not 1 < count <= _MOST:
        raise UserError(f"--processes={count}: expected 1 to {_MOST}, or 0 for what the environment"
                        " says.")  # fmt: skip
    address = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        streams = [open(f"{folder}/{i}", "w+b") for i in range(1, count)]  # noqa: SIM115
        children: list[subprocess.Popen[bytes]] = []
        before = {}

        def forward(number: int, _: Any) -> None:
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, forward)
        try:
            for i in range(count):
                children.append(_start(i, count, address, words, [None, *streams][i]))
            return _watch(children, streams)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
            for stream in streams:
                stream.close()


def _start(
    i: int, count: int, address: str, words: Sequence[str], stream: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Starts one; its session is its own, so that a terminal's Ctrl-C comes once, from here."""
    variables = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(i),
        "JAX_PLATFORMS": "cpu",
        # Threads of XLA's pool: with more than there are cores, gloo waits for one.
        "NPROC": os.environ.get("NPROC") or str(max(1, wire.cores() // count)),
        "AIGC_COMMAND": shlex.join(["aigc", *words]),
        "AIGC_PARENT": str(os.getpid()),
    }
    return subprocess.Popen(
        # The last one counts: the children themselves go by their variables.
        [sys.executable, "-m", "aigc_jax.cli.main", *words, "--processes=0"],
        env={**os.environ, **variables}, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=stream, stderr=stream,
    )  # fmt: skip


def _watch(children: Sequence[subprocess.Popen[bytes]], streams: Sequence[IO[bytes]]) -> int:
    """Waits until all have ended; the exit code of the whole."""
    order: list[int] = []  # as they ended
    limit = None
    while len(order) < len(children):
        for i, child in enumerate(children):
            if i not in order and child.poll() is not None:
                order.append(i)
                if child.returncode not in (0, STOPPED) and limit is None:
                    limit = time.monotonic() + _LAST
        if limit is not None and time.monotonic() > limit:
            for i, child in enumerate(children):
                if i not in order:
                    print(f"aigc: process {i} did not end by itself; killed.", file=sys.stderr)
                    child.kill()
                    child.wait()
                    order.append(i)
        time.sleep(_POLL)
    codes = [child.returncode for child in children]
    killed = [i for i in order if codes[i] < 0]
    own = [codes[i] for i in order if codes[i] not in (0, STOPPED, LostPeer.exit_code)]
    for i in killed:
        print(
            f"aigc: process {i} of {len(children)} (pid {children[i].pid}) was ended by"
            f" {signal.Signals(-codes[i]).name}; the same command, with as many processes or"
            " another number, goes on from the last checkpoint.",
            file=sys.stderr,
        )
    for i in order:
        if i and (i in killed or codes[i] not in (0, STOPPED, LostPeer.exit_code, codes[0])):
            streams[i - 1].seek(0)
            for line in streams[i - 1].read().decode(errors="replace").splitlines()[-_LINES:]:
                print(f"process {i}: {line}", file=sys.stderr)
    if killed:
        return LostPeer.exit_code
    return next(iter(own), max(codes))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])
