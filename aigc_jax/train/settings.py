"""The section `run` of a config."""

import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple

from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.errors import UserError, nearest
from aigc_jax.train.guard import POLICIES

_CALL_SECONDS = 0.25  # a dispatch lasts about this long: a signal is answered that soon


class Settings(NamedTuple):
    """How long a run is, what it writes down and when, and what it does on bad numbers.

    Attributes:
      steps: how many updates. batch_size: rows of one global batch. seed: of everything random.
      steps_per_call: the most steps of one dispatch; 0 chooses.
      log_every, eval_every, save_every: in steps; 0 never (the end is always evaluated and saved).
      save_minutes: also save when this long has passed; 0 never.
      keep: newest checkpoints that stay. best: a metric whose `keep_best` lowest checkpoints stay
        too ("-" in front: highest); "" for none.
      on_bad: what a NaN or a spike does: "stop", "skip" the step, or "rollback" to the last
        checkpoint and go on with the data after it. max_bad: after this many, stop.
      spike: a loss this many standard deviations above its running mean is bad; 0 never.
      tensorboard, wandb: also write there.
      fingerprint: true, or an interval in steps: write down a hash of the batch, the key and every
        parameter that go into a step (`aigc bisect` compares two runs by them).
    """

    steps: int = 2000
    batch_size: int = 12
    seed: int = 0
    steps_per_call: int = 0
    log_every: int = 50
    eval_every: int = 250
    save_every: int = 500
    save_minutes: float = 15.0
    keep: int = 2
    best: str = ""
    keep_best: int = 1
    on_bad: Literal["stop", "skip", "rollback"] = "stop"
    max_bad: int = 10
    spike: float = 0.0
    tensorboard: bool = True
    wandb: bool = False
    fingerprint: bool | int = False

    def check(self) -> None:
        """Raises UserError for values out of range."""
        if self.on_bad not in POLICIES:
            raise UserError(
                f"run.on_bad='{self.on_bad}': expected {', '.join(POLICIES)}."
                f"{nearest(self.on_bad, POLICIES)}"
            )
        for name in ("steps", "batch_size", "keep", "keep_best"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name}={getattr(self, name)}: expected 1 or more.")
        for name in ("seed", "steps_per_call", "log_every", "eval_every", "save_every",
                     "save_minutes", "max_bad", "spike", "fingerprint"):  # fmt: skip
            if getattr(self, name) < 0:
                raise UserError(f"run.{name}={getattr(self, name)}: expected 0 or more.")

    def ahead(self, step: int, most: int, seconds: float | None) -> int:
        """Returns the steps of the next dispatch: to the next boundary, and not for too long.

        Args:
          step: where the run is. most: that one dispatch can take. seconds: of a step, if known.
        """
        marks = [e - step % e for e in (self.log_every, self.eval_every, self.save_every) if e]
        quick = int(_CALL_SECONDS / seconds) if seconds else 1
        return max(1, min(most, self.steps - step, quick, *marks))

    def check_best(self, row: Mapping[str, float], *, begins: bool) -> None:
        """Checks that `best` names a metric, which only an evaluation's row can tell.

        Raises:
          UserError: it doesn't, and the run only begins. Later it is a warning: no work is lost for
            the sake of a name.
        """
        name = self.best.removeprefix("-")
        if not name or name in row or name.startswith(LOOP_METRICS):
            return
        line = f"run.best='{name}': the evaluations give {', '.join(row)}.{nearest(name, row)}"
        if begins:
            raise UserError(line)
        print(f"aigc: warning: {line}", file=sys.stderr)
