"""Any recipe, made so small that a test can train it: one helper for all tests."""

import os
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from ml_collections import ConfigDict

from aigc_jax.core import config
from aigc_jax.core.layout import layout

# Settings by pattern, the first that fits; what a recipe does not have is left out.
SHRINK = {
    "task.*layers": 2,
    "task.*heads": 2,
    "task.*width": 16,
    "task.accumulate": 1,
    "data.context": 8,
    "data.vocab_size": 270,
    "hyper.warmup": 1.0,
    "evals.*.count": 12,
    "evals.*.number": 1,
    "run.steps": 4,
    "run.batch_size": 4,
    "run.log_every": 1,
    "run.eval_every": 2,
    "run.save_every": 2,
}


def text_file() -> Path:
    """Returns a small text (4,000 characters, some of several bytes), made on the first call."""
    path = Path(os.environ.get("AIGC_CACHE") or tempfile.gettempdir()) / "tiny-text.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{i} sheep, {i % 7} goats; 羊 {i % 5}? naïve: {i * i % 11} 🐑" for i in range(125)
        ]
        text = "\n".join(lines)[:3999] + "\n"
        # In one move: another test process may be looking.
        half = path.with_suffix(f".{os.getpid()}")
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    return path


def words(recipe: str | Path, *overrides: str) -> list[str]:
    """Returns the overrides, as typed on a command line, that shrink a recipe.

    Args:
      recipe: path of the recipe. overrides: "--config.a.b=v"; they come last, and so count.
    """
    cfg = config.to_dict(config.load(str(recipe), overrides))
    small = []
    for path in layout(cfg):
        pattern = next((p for p in SHRINK if fnmatch(path, p)), None)
        if pattern:
            small.append(f"--config.{path}={SHRINK[pattern]}")
    if "path" in cfg["data"]:
        small.append(f"--config.data.path={text_file()}")
    if cfg["data"].get("tokenizer") == "gpt2":  # its vocabulary would have to be fetched
        small.append("--config.data.tokenizer=bytes")
    return [*small, *overrides]


def tiny(recipe: str | Path, *overrides: str) -> ConfigDict:
    """Loads a recipe and shrinks it: 2 layers, 16 wide, 4 rows of 8, 4 steps, a text of its own."""
    return config.load(str(recipe), words(recipe, *overrides))
