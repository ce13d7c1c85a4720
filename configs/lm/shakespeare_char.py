"""A small GPT on the characters of Shakespeare: nanoGPT's recipe for a CPU.

    aigc train configs/lm/shakespeare_char.py

Source: github.com/karpathy/nanoGPT, README, "I only have a macbook": 4 layers, 4 heads, 128 wide,
64 characters of context, batches of 12, no dropout, 2,000 steps; AdamW with a cosine from 1e-3 to
1e-4 after 100 steps of warm-up. Its README reports a validation loss of 1.88 nats a character,
estimated on 20 batches of tinyshakespeare.

By default the text is Shakespeare's plays from a hash-checked package (5.4 MB); the published
figure is for tinyshakespeare: `--config.data.path=tiny_shakespeare` (from TFDS), or the path of
its `input.txt`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code."""
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "model": {
                    "name": "transformer",
                    "layers": 4,
                    "heads": 4,
                    "width": 128,
                    "dropout": 0.0,
                },
            },
            "data": {"name": "text", "path": "shakespeare", "tokenizer": "char", "context": 64},
            "optim": {"name": "adamw", "schedule": "cosine"},
            "hyper": {
                "lr": 1e-3,
                "warmup": 100.0,
                "end_ratio": 0.1,
                "b2": 0.99,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "samples": {"name": "samples"},
            },
            "run": {"steps": 2000, "batch_size": 12, "best": "validation/loss"},
        }
    )
