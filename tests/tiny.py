"""Any recipe, made so small that a test can train it: one helper for all tests."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from aigc_jax.core import config
from aigc_jax.core.layout import layout

# Settings by pattern, the first that fits; what a recipe does not have is left out.
SHRINK = {
    "task.*base_*": 0,
    "task.*layers": 2,
    "task.*heads": 2,
    "task.*widths": (4, 4),
    "task.model.groups": (2,),
    "task.model.blocks": (1,),
    "task.model.encoder_blocks": ((1, 1), (2, 1)),
    "task.model.decoder_blocks": ((2, 1), (1, 2)),
    "task.*width": 16,
    "task.*hidden": 16,
    "task.samples": 2,
    "task.codes": 8,
    "data.codes": 8,
    "task.accumulate": 1,
    "data.context": 8,
    "data.modulus": 5,
    "data.vocab_size": 270,
    "hyper.warmup": 1.0,
    "evals.*.count": 12,
    "evals.pictures.number": 2,
    "evals.modes.number": 8,
    "evals.*.number": 1,
    "data.number": 200,
    "data.held_out": 40,
    "data.size": 8,
    "evals.*.samples": 3,
    "evals.*.rows": 3,
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


def codes_folder() -> Path:
    """Returns a folder with rows of codes and their labels, made on the first call."""
    folder = Path(os.environ.get("AIGC_CACHE") or tempfile.gettempdir()) / "tiny-codes"
    rng = np.random.default_rng(0)
    for part, rows in (("train", 12), ("validation", 6)):
        made = {part: rng.integers(0, 8, (rows, 2, 3)), f"{part}_labels": np.arange(rows) % 3}
        for name, array in made.items():
            path = folder / f"{name}.npy"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                half = path.with_suffix(f".{os.getpid()}.npy")
                np.save(half, array)
                half.replace(path)
    return folder


def images_folder() -> Path:
    """Returns a folder with MNIST's four files, of few images in ten classes, made on the first
    call.
    """
    folder = Path(os.environ.get("AIGC_CACHE") or tempfile.gettempdir()) / "tiny-images"
    rng = np.random.default_rng(0)
    for part, rows in (("train", 20), ("t10k", 10)):
        labels = (np.arange(rows) % 10).astype(np.uint8)
        images = rng.integers(0, 256, (rows, 28, 28)).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{name}-ubyte"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
                half = path.with_suffix(f".{os.getpid()}")
                half.write_bytes(head + array.tobytes())
                half.replace(path)
    return folder


def classifier_run() -> Path:
    """Returns the folder of a run of the tiny classifier of digits, made on the first call."""
    folder = Path(os.environ.get("AIGC_CACHE") or tempfile.gettempdir()) / "tiny-classifier"
    if not folder.exists():
        recipe, half = "configs/classifier/mnist.py", folder.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [sys.executable, "-m", "aigc_jax.cli.main", "train", recipe, f"--workdir={half}",
             *words(recipe)],
            check=True, capture_output=True,
        )  # fmt: skip
        try:
            half.rename(folder)
        except OSError:  # another test process was first
            shutil.rmtree(half)
    return folder


# What data of each name is made of; text of those that are not here.
SOURCES = {"codes": codes_folder, "images": images_folder, "stacked": images_folder}


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
        source = SOURCES.get(cfg["data"]["name"], text_file)
        small.append(f"--config.data.path={source()}")
    small += [
        f"--config.evals.{name}.classifier={classifier_run()}"
        for name, section in cfg["evals"].items()
        if section.get("classifier")
    ]
    if cfg["data"].get("tokenizer") == "gpt2":  # its vocabulary would have to be fetched
        small.append("--config.data.tokenizer=bytes")
    return [*small, *overrides]


def tiny(recipe: str | Path, *overrides: str) -> ConfigDict:
    """Loads a recipe and shrinks it: 2 layers, 16 wide, 4 rows of 8, 4 steps, a text of its own."""
    return config.load(str(recipe), words(recipe, *overrides))
