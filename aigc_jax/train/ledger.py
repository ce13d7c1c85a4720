"""The compile ledger: what JAX compiled in a run, why, how long it took, what the cache saved.

JAX tells of it through `jax.monitoring`: how long tracing, lowering and compiling took, and whether
the persistent cache had the program. The shapes are in the line that it writes to its log for
`jax_log_compiles`; the ledger reads that line at the level at which nobody else sees it. Nothing
of this runs while nothing compiles.
"""

import contextlib
import json
import logging
import re
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax.monitoring

from aigc_jax.core import compiles
from aigc_jax.core.fingerprint import kind
from aigc_jax.errors import StorageError
from aigc_jax.train import whereabouts
from aigc_jax.train.lines import Lines

_COMPILE = "/jax/core/compile/"
_PARTS = {
    f"{_COMPILE}jaxpr_trace_duration": "trace_s",
    f"{_COMPILE}jaxpr_to_mlir_module_duration": "lower_s",
    f"{_COMPILE}backend_compile_duration": "compile_s",
}
_CACHE = "/jax/compilation_cache/"
_LOGGER = "jax._src.interpreters.pxla"  # "Compiling NAME with global shapes and types ..."
_MOST = 5  # warnings of one process; the file has all


class Ledger:
    """Notes every compilation while it is entered, from any thread.

    A function that was compiled at one step and is compiled once more at a later one, from the same
    line of code, is told as a warning: something changes its shape, or makes it anew.

    Args:
      at: gives the step that the run is at.
      warn: takes a warning, one line.
    """

    def __init__(self, at: Callable[[], int], warn: Callable[[str], None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._at, self._warn = at, warn
        self._lock, self._thread = threading.Lock(), threading.local()
        self._last: dict[tuple[str, str], dict[str, Any]] = {}
        self._files: list[Lines] = []
        self._written, self._warned, self._start = 0, 0, 0
        self._log = logging.getLogger(_LOGGER)

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        self._level, self._shown = self._log.level, self._log.getEffectiveLevel()
        self._log.setLevel(min(logging.DEBUG, self._shown))
        self._log.addFilter(self._on_log)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)
        self._log.removeFilter(self._on_log)
        self._log.setLevel(self._level)
        with contextlib.suppress(StorageError):
            self.write()
        for file in self._files:
            with contextlib.suppress(StorageError):
                file.close()

    @property
    def is_open(self) -> bool:
        """Whether rows are written."""
        return bool(self._files)

    def open(self, *folders: Path, start: int) -> None:
        """Begins to write RUN/compiles.jsonl; what was compiled before is written now.

        Args:
          folders: run folders; more than one where several runs share their programs.
          start: which start of the run this is, 1 for the first.
        """
        self._start = start
        self._files = [Lines(folder / "compiles.jsonl") for folder in folders]
        self.write()

    def write(self) -> None:
        """Writes the rows that are new; the files may be read from then on.

        Raises:
          StorageError: the disk is full or gone.
        """
        if not self._files:
            return
        with self._lock:
            new, self._written = self.rows[self._written :], len(self.rows)
        text = "".join(json.dumps({**row, "start": self._start}) + "\n" for row in new)
        for file in self._files if new else []:
            file.append(text.encode())

    def sentence(self) -> str:
        """What this process has compiled, in one line; "" for nothing."""
        return compiles.sentence(self.rows)

    # --- what JAX tells, in the thread that compiles -----------------------------------------

    def _on_log(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Compiling %s with global shapes"):
            with contextlib.suppress(Exception):  # another release may put other things there
                name, arrays, *placement = record.args  # type: ignore[misc]
                shapes = [kind(a) + (" weak" if a.weak_type else "") for a in arrays]  # type: ignore[union-attr]
                self._thread.arrays = (str(name), shapes, str(placement))
        return record.levelno >= self._shown

    def _on_event(self, event: str, **_: str | int) -> None:
        if event == f"{_CACHE}compile_requests_use_cache":
            self._thread.cache = "miss"
        elif event == f"{_CACHE}cache_hits":
            self._thread.cache = "hit"

    def _on_duration(self, event: str, duration_secs: float, **about: str | int) -> None:
        mine = self._thread.__dict__
        if event == f"{_CACHE}compile_time_saved_sec":
            mine["saved_s"] = duration_secs
        if event not in _PARTS or "fun_name" not in about:
            return
        module = str(about["fun_name"])
        name = re.sub(r"^\w+\((.*)\)$", r"\1", module)
        times = mine.setdefault("times", {}).setdefault(name, {})
        times[_PARTS[event]] = duration_secs
        if _PARTS[event] != "compile_s":
            return
        whole, arrays, placement = mine.pop("arrays", ("", [], ""))
        if whole != module:  # lowered before, and only compiled now
            arrays, placement = [], ""
        del mine["times"][name]
        row = {
            "step": self._at(),
            "name": name,
            "by": whereabouts.caller(),
            **{part: round(times.get(part, 0.0), 4) for part in _PARTS.values()},
            "cache": mine.pop("cache", "off"),
            "saved_s": round(mine.pop("saved_s", 0.0), 4),
            "arrays": arrays,
            "placement": f"{zlib.crc32(placement.encode()):08x}",
        }
        self._add(row)

    def _add(self, row: dict[str, Any]) -> None:
        with self._lock:
            before = self._last.get((row["name"], row["by"]))
            self._last[row["name"], row["by"]] = row
            row["why"] = compiles.reason(before, row)
            row["again"] = before is not None and before["step"] < row["step"]
            self.rows.append(row)
            self._warned += row["again"]
        if row["again"] and self._warned <= _MOST:
            seconds = row["trace_s"] + row["lower_s"] + row["compile_s"]
            last = " (the last warning; more are in compiles.jsonl)"
            self._warn(
                f"step {row['step']}: {row['name']} at {row['by']} was compiled once more,"
                f" {seconds:.2f} s: {row['why']}{last if self._warned == _MOST else ''}"
            )
