"""aigc_jax: a JAX research codebase for generative models."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from aigc_jax.generate.model import Model

__version__ = "0.1.0"


def load(run: "str | Path", step: int | None = None) -> "Model":
    """Reads a language model back from its run folder; the run may go on meanwhile.

        import aigc_jax
        model = aigc_jax.load("runs/shakespeare_char")
        print(model.generate("ROMEO:", n=2, max_tokens=200)[0].text)

    Args:
      run: the folder. step: which checkpoint; None is the newest. The moving average of the
        weights where the run keeps one.

    Returns:
      What writes text: `generate`, `each` and `stream`.

    Raises:
      UserError: no run folder, no such checkpoint, other data than it was trained on, or a task
        that does not write text.
    """
    # Only now: this imports JAX, and the package's version must not.
    from pathlib import Path

    from aigc_jax.cli import wire
    from aigc_jax.errors import UserError

    done = wire.trained(Path(run), step)
    from aigc_jax.generate.model import Model
    from aigc_jax.generate.sampler import Sampler

    sample, tokenizer = done.parts.task.sample, done.parts.data.tokenizer
    if not isinstance(sample, Sampler) or tokenizer is None:
        name = done.parts.config["task"]["name"]
        raise UserError(f"{run}: the task '{name}' does not write text; see `aigc draw`.")
    return Model(sample.programs, done.weights.params["model"], tokenizer, step=done.step)
