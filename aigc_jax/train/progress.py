"""What a run shows while it goes: a bar on a terminal, plain lines anywhere else."""

import math
import os
import sys
from collections.abc import Mapping
from typing import Any, Self

from aigc_jax.core.units import clock, figure, human

_BAR_ONLY_WIDE = ("grad", "lr")
_WIDE = 110  # columns; on a narrower terminal the bar leaves these two fields out
_MEMORY = 100  # steps over which the time of a step is averaged


def field(name: str, value: Any) -> str:
    """Returns one field as a person reads it: "loss 2.1034", "152k tokens/s", "mfu 11 %".

    Args:
      name: what it is. "lr" is written with an exponent, "grad" with two decimals, "mfu" (a
        fraction of 1) in percent, and what ends in "/s" as a count.
      value: a number, or a text that is taken as it is.
    """
    if isinstance(value, str):
        return f"{name} {value}"
    number = float(value)
    if name.endswith("/s"):
        return f"{human(number)} {name}"
    if not math.isfinite(number):
        return f"{name} {number}"
    if name == "mfu":
        return f"mfu {100 * number:.{0 if number >= 0.0995 else 1}f} %"
    if name == "lr":
        return f"lr {number:.1e}"
    if name == "grad":
        return f"grad {number:.2f}"
    return f"{name} {figure(number)}"


def restore_terminal() -> None:
    """Shows the cursor again at once, for an exit that runs no clean-up; safe in a handler."""
    if sys.__stdout__ is not None and sys.__stdout__.isatty():
        os.write(sys.__stdout__.fileno(), b"\x1b[?25h\n")


class Progress:
    """The bar of a run, or its plain lines; a context manager that restores the terminal.

    Args:
      total: the step at which the run ends.
      start: the step it starts from (not 0 after a resume).
      unit: what one step is called when the speed is given without a field of its own, "steps".
      plain: True for lines, False for the bar, None to look whether stdout is a terminal.
    """

    def __init__(
        self, total: int, start: int, *, unit: str = "steps", plain: bool | None = None
    ) -> None:
        self.total = int(total)
        self.step = int(start)
        self.unit = unit
        if plain is None:
            plain = not sys.stdout.isatty() or os.environ.get("TERM", "") in ("dumb", "")
        self.plain = plain
        self._counted = int(start)  # the step of the last `update`
        self._step_seconds: float | None = None
        self._bar: Any = None
        self._task: Any = None
        self._fields: dict[str, Any] = {}
        self._doing = "starting"

    def __enter__(self) -> Self:
        if not self.plain:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            self._bar = Bar(
                BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
                TextColumn(
                    "{task.completed}/{task.total}",
                    style="bold",
                    table_column=Column(no_wrap=True),
                ),
                TextColumn(
                    "{task.description}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis"),
                ),
                refresh_per_second=2,  # each refresh takes time from the run
                expand=True,
            )
            self._task = self._bar.add_task(
                self._doing, total=self.total, completed=self.step, start=True
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar down and gives the terminal back; a second call does nothing."""
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.stop()

    @property
    def eta(self) -> float | None:
        """Seconds of pure training left; None until the time of a step is known."""
        if self._step_seconds is None:
            return None
        return max(0, self.total - self.step) * self._step_seconds

    def update(self, step: int, fields: Mapping[str, Any], step_seconds: float) -> None:
        """Shows the state of the run: a new plain line, or the bar's new text.

        Args:
          step: how many updates were done.
          fields: short name to number, in the order of showing: loss, grad, lr, "tokens/s", mfu.
          step_seconds: seconds that ONE step took, the mean since the last update, without
            compilation, evaluation, sampling or saving; 0 or nan where it is not known.
        """
        steps = max(0, step - self._counted)
        self._counted = self.step = int(step)
        if steps and math.isfinite(step_seconds) and step_seconds > 0:
            old = self._step_seconds
            share = 1.0 if old is None else 1 - math.exp(-steps / _MEMORY)
            self._step_seconds = step_seconds if old is None else old + share * (step_seconds - old)
        self._fields = dict(fields)
        self._doing = ""
        if self.plain:
            print(f"step {step}/{self.total}  {self._line(self._fields)}", flush=True)
        else:
            self._draw()

    def advance(self, step: int) -> None:
        """Moves the bar on between two updates; prints no line."""
        self.step = int(step)
        if self._bar is not None:
            self._draw()

    def doing(self, what: str) -> None:
        """Shows on the bar what happens meanwhile ("compiling", "evaluating"); "" ends it."""
        self._doing = what
        if self._bar is not None:
            self._draw()

    def note(self, text: str) -> None:
        """Prints a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def _line(self, fields: Mapping[str, Any]) -> str:
        words = [field(name, value) for name, value in fields.items()]
        if self._step_seconds and not any(name.endswith("/s") for name in fields):
            words.append(f"{human(1 / self._step_seconds)} {self.unit}/s")
        return "  ".join([*words, f"eta {clock(self.eta)}"])

    def _draw(self) -> None:
        fields = self._fields
        if self._bar.console.width < _WIDE:
            fields = {k: v for k, v in fields.items() if k not in _BAR_ONLY_WIDE}
        text = self._doing or self._line(fields)
        self._bar.update(self._task, completed=self.step, description=text)
