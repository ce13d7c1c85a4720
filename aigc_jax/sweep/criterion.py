"""What trials are judged by, and whether their evaluations give it."""

from collections.abc import Mapping
from pathlib import Path

from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.errors import UserError, nearest
from aigc_jax.report.folder import Run


class NoMetricError(UserError):
    """The evaluations don't give what trials are to be judged by: true of all of them."""


def check(metric: str, scores: Mapping[str, float], workdir: Path) -> None:
    """Checks what one evaluation of a trial gave, or all that it gave in the end.

    Args:
      metric: that trials are judged by. scores: name -> value.
      workdir: the trial's run folder; its protocols.json, written before the first step, says what
        comes at the last step only, such as the judgement of samples.

    Raises:
      NoMetricError: no evaluation will give the metric.
    """
    if metric in scores:
        return
    if metric.startswith(LOOP_METRICS) and not any(n.startswith(LOOP_METRICS) for n in scores):
        return  # the loop's own numbers come beside the evaluations'
    later = Run(workdir).protocols
    if metric in later:
        return
    names = [*scores, *(name for name in later if name not in scores)]
    raise NoMetricError(
        f"trials are to be judged by '{metric}', and the evaluations give"
        f" {', '.join(names) or 'nothing'}."
        f"{nearest(metric, names)}"
    )
