"""Real processes of `aigc`, for the tests that signal and kill them.

Each is forked from one process that has done the imports (four seconds of work) and nothing else:
a process of its own, with its own pid, folder, streams and environment.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent
PATIENCE = 500.0  # seconds; far beyond what is needed, so that only a hang reaches it


def devices(count: int) -> str:
    """XLA_FLAGS that make a process see so many devices; what else stands there stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    return f"{flags} --xla_force_host_platform_device_count={count}".strip()


_NURSERY = """
import gc, importlib, json, os, signal, sys, traceback, warnings
for name in ("jax", "optax", "flax.linen", "orbax.checkpoint"):
    importlib.import_module(name)
for name in ("train.loop", "tasks.lm", "models.transformer", "data.text", "data.prefetch",
             "report.html", "evals.mean", "evals.samples", "train.evaluation", "cli.train"):
    importlib.import_module("aigc_jax." + name)
from aigc_jax.cli.main import main
warnings.filterwarnings("ignore", message=r"os\\.fork", category=RuntimeWarning)
assert len(os.listdir("/proc/self/task")) == 1 if os.path.isdir("/proc/self/task") else True
print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    order = json.loads(line)
    if "wait" in order:
        pid, code = os.waitpid(order["wait"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(code) if pid else None), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.setsid()
    for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, number)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    sys.argv = ["aigc", *order["words"]]
    code = 1
    try:
        exec(order["first"], {})
        code = main(order["words"])
        sys.stdout.flush()
        sys.stderr.flush()
        # As at the end of any Python: what runs at exit is part of what is tested.
        import atexit, threading
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
"""

_nursery: list[subprocess.Popen[str]] = []


def _ask(order: dict[str, Any]) -> Any:
    if not _nursery:
        environment = {**os.environ, "PYTHONPATH": str(HOUSE), "OPENBLAS_NUM_THREADS": "1",
                       "JAX_COMPILATION_CACHE_DIR": f"{os.environ['XDG_CACHE_HOME']}/xla-cli",
                       "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                       "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}  # fmt: skip
        started = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip
        assert started.stdout is not None
        assert started.stdout.readline().strip() == "ready"
        _nursery.append(started)
        atexit.register(_end)
    child = _nursery[0]
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(order) + "\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def _end() -> None:
    for child in _nursery:
        child.stdin.close()  # type: ignore[union-attr]
        child.stdout.close()  # type: ignore[union-attr]
        child.wait(10)
    _nursery.clear()


class Process:
    """One `aigc WORDS...`.

    Args:
      words: the command line. folder: the working directory; the streams go to files there.
      first: Python code that the process runs before, to plant a fault or a signal.
    """

    count = 0

    def __init__(self, *words: Any, folder: Path, first: str = "", **env: str) -> None:
        Process.count += 1
        self._out, self._err = (folder / f".{kind}-{Process.count}" for kind in ("out", "err"))
        order = {"words": [str(word) for word in words], "cwd": str(folder), "env": env,
                 "out": str(self._out), "err": str(self._err), "first": first}  # fmt: skip
        self.pid: int = _ask(order)
        self.code: int | None = None

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        """What it has complained of so far."""
        return self._err.read_text() if self._err.exists() else ""

    def poll(self) -> int | None:
        """Its exit code (minus the signal that killed it), or None while it runs."""
        if self.code is None:
            self.code = _ask({"wait": self.pid})
        return self.code

    def send(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def until(self, met: Callable[[], Any], pause: float = 0.001) -> bool:
        """Waits until `met()`; returns False if the process ended before."""
        limit = time.monotonic() + PATIENCE
        while not met():
            if self.poll() is not None:
                return bool(met())
            if time.monotonic() > limit:
                self.send(signal.SIGKILL)
                raise AssertionError(f"waited in vain\n{self.out}\n{self.err}")
            time.sleep(pause)
        return True

    def end(self) -> int:
        """Waits for its end and returns the exit code."""
        self.until(lambda: False, pause=0.005)
        assert self.code is not None
        return self.code


def aigc(*words: Any, folder: Path, first: str = "", **env: str) -> Process:
    """Runs a command to its end."""
    process = Process(*words, folder=folder, first=first, **env)
    process.end()
    return process


RECIPE = """
from ml_collections import ConfigDict


def get_config(arg=None):
    return ConfigDict({
        "task": {
            "name": "lm",
            "model": {"name": "transformer", "layers": 1, "heads": 2, "width": 8},
        },
        "data": {"name": "text", "path": "text.txt", "context": 8},
        "optim": {"ema": True},
        "hyper": {"lr": 0.01, "warmup": 2.0},
        "evals": {
            "validation": {"name": "mean", "limit": 3},
            "samples": {"name": "samples", "prompt": "a", "count": 6, "number": 1},
        },
        "run": {"steps": 12, "batch_size": 4, "log_every": 3, "eval_every": 4, "save_every": 4,
                "steps_per_call": 2, "tensorboard": False},
    })
"""


def recipe(folder: Path, samples: bool = True) -> Path:
    """Writes a recipe and its text into a folder; without samples there is less to compile."""
    (folder / "text.txt").write_text("a bird in the hand is worth two in the bush, they say\n" * 60)
    path = folder / "recipe.py"
    lines = RECIPE.splitlines(keepends=True)
    path.write_text("".join(line for line in lines if samples or '"samples": {' not in line))
    return path
