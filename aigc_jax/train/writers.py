"""What writes and reads the files of a checkpoint: orbax's handlers, its log, its threads."""

import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

_NICE = 10  # a tenth of a core where steps take all of them; 19 would be a sixtieth


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _say_unless_late(before: Callable[[Any], None], unraisable: Any) -> None:
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        before(unraisable)


# What goes wrong in orbax comes here as an exception too, and is said in one line. Its own log says
# it again in several tracebacks, one for each of its threads; and when one write fails, the others
# that were under way report to an event loop that is gone, each with a traceback.
logging.getLogger("absl").addFilter(_not_from_orbax)
sys.unraisablehook = functools.partial(_say_unless_late, sys.unraisablehook)


def handlers(group: Any) -> Any:
    """Makes what writes the items of a checkpoint, "state" and "notes", and reads the notes.

    Without compression: the numbers of a trained network hardly shrink (by a twelfth), and making
    and undoing it took twice to three times the processor time that the rest takes.
    """
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=group)
    notes = ocp.JsonCheckpointHandler(multiprocessing_options=group)
    registry = ocp.DefaultCheckpointHandlerRegistry()
    for name, kind, handler in (
        ("state", ocp.args.PyTreeSave, arrays),
        ("notes", ocp.args.JsonSave, notes),
        ("notes", ocp.args.JsonRestore, notes),
    ):
        registry.add(name, kind, handler)
    return registry


def _name(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a thread that has ended
        return ""


def give_way(threads: str = "") -> None:
    """Lets threads have the processor time that the steps beside them leave (Linux).

    A step waits for its slowest core, and writing is a core's work, nearly all of it in the kernel.

    Args:
      threads: what their names begin with; "" for this thread alone.
    """
    if sys.platform != "linux":
        return
    tasks = [str(threading.get_native_id())]
    if threads:
        tasks = [
            path.parent.name
            for path in Path("/proc/self/task").glob("*/comm")
            if _name(path).startswith(threads)
        ]
    for task in tasks:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(task), _NICE)
