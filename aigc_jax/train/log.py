"""What a run writes down: metrics.jsonl (the truth), TensorBoard, W&B, and status.json."""

import contextlib
import json
import math
import netrc
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.errors import UserError
from aigc_jax.train import peers
from aigc_jax.train.lines import Lines
from aigc_jax.train.storage import storage_errors, write_atomic

_AXES = ("step", "wall")


def warn(line: str) -> None:
    """Prints a warning for the person who watches; of several processes, one does."""
    if peers.here().index == 0:
        print(f"aigc: warning: {line}", file=sys.stderr, flush=True)


def strict(value: Any) -> Any:
    """Returns `value` as strict JSON can hold it: nan and infinities become "nan", "inf", "-inf".

    Scalars of NumPy or JAX become Python numbers, tuples lists, paths strings.

    Raises:
      TypeError: the value is none of these.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):  # a scalar of NumPy or JAX
        value = value.item()
        if isinstance(value, bool | int | str):
            return value
    if not isinstance(value, float):
        raise TypeError(f"{value!r} of type {type(value).__name__} has no place in a JSON file")
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _is_evaluation(name: str) -> bool:
    return name not in _AXES and not name.startswith(LOOP_METRICS)


def _kept(line: bytes, keep_to: int, keep_evaluation: bool) -> bytes:
    """Returns what is to stay of one line of metrics.jsonl, b"" for nothing."""
    try:
        row = json.loads(line)
        step = row["step"]
    except (ValueError, KeyError, TypeError):
        return b""  # half a line: the process died while it wrote
    if not isinstance(step, int) or step > keep_to:
        return b""
    if step == keep_to and not keep_evaluation:
        rest = {name: value for name, value in row.items() if not _is_evaluation(name)}
        if len(rest) < len(row):
            return json.dumps(rest).encode() + b"\n" if set(rest) - set(_AXES) else b""
    return line + b"\n"


def rewind(path: Path, keep_to: int | None, *, keep_evaluation: bool = True) -> int:
    """Drops from a metrics.jsonl what came after the restored step, in one atomic move.

    A last line that was only half written is dropped too; one that lacks just its newline stays.

    Args:
      path: the file; it need not exist.
      keep_to: the step that was restored. Rows of later steps go. None: nothing was, all rows go.
      keep_evaluation: False also drops evaluation metrics AT `keep_to`, for a loop that is about
        to evaluate there once more. What the loop itself wrote at that step always stays.

    Returns:
      How many rows were dropped or changed.

    Raises:
      StorageError: the disk is full or read-only; the old file is then still whole.
    """
    with storage_errors(path):
        if not path.exists():
            return 0
        before = path.read_bytes()
        lines = [line for line in before.split(b"\n") if line.strip()]
        after = [
            b"" if keep_to is None else _kept(line, keep_to, keep_evaluation) for line in lines
        ]
        joined = b"".join(after)
        if joined != before:
            write_atomic(path, joined)
    return sum(new != old + b"\n" for new, old in zip(after, lines, strict=True))


def history(path: Path, metric: str) -> list[float]:
    """Returns the values of a metric in a metrics.jsonl, in order; none where there is no file.

    A line that is only half written, by a process that died, has none.
    """
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            found += [float(row[metric])] if metric in row else []
    return found


class MetricsLog:
    """Appends rows of metrics to a run folder, and passes them on to TensorBoard and W&B.

    metrics.jsonl holds one strict-JSON object a line: "step" (int), "wall" (seconds of training
    over all starts) and one number per metric. A row is written whole or not at all.

    Args:
      workdir: the run folder; it must exist.
      keep_to: the step that was restored; later rows are dropped. None: a fresh start.
      tensorboard: also write event files to `workdir`/tb, by tensorboardX.
      wandb: also log to Weights & Biases; offline where nobody is logged in.
      config: the run's complete configuration, for W&B and TensorBoard.
      run_name: what the run is called there.
      keep_evaluation: False drops evaluation metrics at step `keep_to` too: see `rewind`.

    Raises:
      StorageError: the disk is full, read-only or gone.
      UserError: tensorboardX or wandb is asked for and not installed.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep_to: int | None,
        tensorboard: bool,
        wandb: bool,
        config: Mapping[str, Any],
        run_name: str,
        keep_evaluation: bool = True,
    ) -> None:
        self.path = Path(workdir) / "metrics.jsonl"
        self.dropped = rewind(self.path, keep_to, keep_evaluation=keep_evaluation)
        self._board = _open_tensorboard(workdir, keep_to) if tensorboard else None
        self._wandb = _open_wandb(workdir, config, run_name) if wandb else None
        self._file = Lines(self.path)
        if self._board is not None and keep_to is None:
            self._board.add_text("config", _as_markdown(config), 0)

    def write(self, step: int, values: Mapping[str, Any], wall: float) -> None:
        """Appends one row, which other processes can read from then on.

        Args:
          step: how many updates were done.
          values: metric name (like "train/loss") to number; nan and inf are allowed.
          wall: seconds of training so far, over all starts.

        Raises:
          StorageError: the disk is full or gone. The file ends with the last whole row.
        """
        row = strict({"step": int(step), "wall": round(float(wall), 3), **values})
        self._file.append(json.dumps(row, allow_nan=False).encode() + b"\n")
        numbers = {name: float(row[name]) for name in values}
        if self._board is not None:
            with storage_errors(self.path.parent / "tb"):
                for name, number in numbers.items():
                    if math.isfinite(number):  # tensorboardX warns of each other one on stderr
                        self._board.add_scalar(name, number, int(step))
        if self._wandb is not None:
            self._wandb.log({"step": int(step), "wall": float(wall), **numbers})

    def text(self, step: int, name: str, text: str) -> None:
        """Shows a text (a sample) in TensorBoard and W&B; files in samples/ are the evaluator's."""
        if self._board is not None:
            with storage_errors(self.path.parent / "tb"):
                indented = "    " + text.replace("\n", "\n    ")  # markdown for "as it is"
                self._board.add_text(name, indented, int(step))
        if self._wandb is not None:
            import wandb

            shown = wandb.Html(f"<pre>{_escape(text)}</pre>")
            self._wandb.log({"step": int(step), name: shown})

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Shows a picture, uint8 [H, W] or [H, W, 3], in TensorBoard and W&B."""
        if self._board is not None:
            with storage_errors(self.path.parent / "tb"):
                layout = "HW" if pixels.ndim == 2 else "HWC"
                self._board.add_image(name, pixels, int(step), dataformats=layout)
        if self._wandb is not None:
            import wandb

            self._wandb.log({"step": int(step), name: wandb.Image(pixels)})

    def flush(self) -> None:
        """Waits until every row is on the disk. Call it before a checkpoint is committed.

        Raises:
          StorageError: the disk is full or gone.
        """
        self._file.flush()
        if self._board is not None:
            with storage_errors(self.path.parent / "tb"):
                self._board.flush()

    def close(self) -> None:
        """Flushes and closes everything; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()
            if self._board is not None:
                self._board.close()
            if self._wandb is not None:
                self._wandb.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NoLog:
    """Stands for the log on every process but the one that writes."""

    def write(self, step: int, values: Mapping[str, Any], wall: float) -> None:
        """Does nothing, as all of these."""

    def text(self, step: int, name: str, text: str) -> None:
        """See `MetricsLog`."""

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """See `MetricsLog`."""

    def flush(self) -> None:
        """See `MetricsLog`."""

    def close(self) -> None:
        """See `MetricsLog`."""


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _as_markdown(config: Mapping[str, Any]) -> str:
    text = json.dumps(strict(config), indent=2)
    return "    " + text.replace("\n", "\n    ")


def _missing(package: str, install: str, knob: str) -> UserError:
    return UserError(
        f"{knob}=True needs the package {package}, which is not installed: "
        f"pip install {install}, or set --{knob}=False"
    )


def _open_tensorboard(workdir: Path, keep_to: int | None) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise _missing("tensorboardX", "tensorboardX", "config.run.tensorboard") from error
    folder = Path(workdir) / "tb"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        # TensorBoard hides events of an earlier start from this step on: the redone ones count.
        return SummaryWriter(
            logdir=str(folder), purge_step=0 if keep_to is None else keep_to + 1, flush_secs=30
        )


def _open_wandb(workdir: Path, config: Mapping[str, Any], run_name: str) -> Any:
    """Starts or resumes the W&B run whose id stands in `workdir`/wandb_id."""
    try:
        import wandb
    except ImportError as error:
        raise _missing("wandb", '"aigc-jax[wandb]"', "config.run.wandb") from error
    note = Path(workdir) / "wandb_id"
    with storage_errors(note):
        if not note.exists():
            write_atomic(note, uuid.uuid4().hex[:12] + "\n")
        identity = note.read_text(encoding="utf-8").strip()
    asked = os.environ.get("WANDB_MODE")
    online = asked == "online" if asked else _logged_in()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "aigc_jax"),
        id=identity,
        name=run_name,
        dir=str(workdir),
        config=strict(config),
        mode=None if asked else "online" if online else "offline",
        # Offline there is no server to ask; `wandb sync` joins the pieces by their common id.
        resume="allow" if online else None,
    )
    # W&B's own step may never go back, ours does after a resume: so ours is the x-axis.
    run.define_metric("*", step_metric="step")
    return run


def _logged_in() -> bool:
    """Whether W&B finds a key without asking a question on a terminal that nobody watches."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Status:
    """status.json: one small file that says how a run is doing, replaced whole at every write.

    It also keeps the list of the run's starts, over all of them.

    Args:
      workdir: the run folder; it must exist.
    """

    def __init__(self, workdir: Path) -> None:
        self.path = Path(workdir) / "status.json"
        self._fields: dict[str, Any] = {"command": list(sys.argv)}
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        self._before = before if isinstance(before, dict) else {}
        self._starts = list(self._before.get("starts", []))

    @property
    def starts(self) -> int:
        """How often the run was started, this time included."""
        return len(self._starts)

    def start(self, step: int) -> None:
        """Notes a start of the run, from `step` on; the next `write` puts it in the file.

        What had ended the run before is noted with it: "stopped (SIGTERM) at step 812", or "died
        at step 812" where the last start left no word.
        """
        entry = {"from step": int(step), "time": _now(), "host": socket.gethostname()}
        if self._before:
            state = self._before.get("state", "")
            reason = self._before.get("reason") or ""
            word = "died" if state == "running" else f"{state} ({reason})" if reason else state
            entry["after"] = f"{word} at step {self._before.get('step', '?')}"
        self._starts.append(entry)

    def write(self, state: str, **fields: Any) -> None:
        """Replaces the file; fields of earlier writes of this object stay unless given again.

        Args:
          state: "running", "finished", "stopped" or "failed".
          **fields: anything JSON can hold: reason, step, steps, wall and eta_s (seconds), last
            (the latest metrics), command (list of words), next (what to type next).

        Raises:
          StorageError: the disk is full or read-only; the old file is then still whole.
        """
        self._fields.update(fields)
        row = {"state": state, **self._fields}
        row |= {"updated": _now(), "pid": os.getpid(), "host": socket.gethostname()}
        row["starts"] = self._starts
        text = json.dumps(strict(row), indent=2, allow_nan=False) + "\n"
        # While it runs, the next write comes in seconds: only a last word is worth the wait.
        write_atomic(self.path, text, sync=state != "running")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
