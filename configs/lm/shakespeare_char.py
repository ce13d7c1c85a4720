"""A small GPT on the characters of Shakespeare: nanoGPT's recipe for a CPU.

    aigc train configs/lm/shakespeare_char.py            # better initial weights, see below
    aigc train configs/lm/shakespeare_char.py:nanogpt    # nanoGPT's, to the letter

Source: github.com/karpathy/nanoGPT, README, "I only have a macbook": 4 layers, 4 heads, 128 wide,
64 characters of context, batches of 12, no dropout, 2,000 steps; AdamW with a cosine from 1e-3 to
1e-4 after 100 steps of warm-up. Its README reports a validation loss of 1.88 nats a character,
estimated on 20 batches of tinyshakespeare.

One thing is ours: dense layers begin with a standard deviation of 0.06 instead of GPT-2's 0.02,
which is too small for a width of 128. Nothing else differs, no step costs more, and it is worth
more than a tenth of a nat; README.md has both results.

Measured on tinyshakespeare, two cores, two to five minutes, three seeds: validation loss 1.753 to
1.760 at step 2,000 (`:nanogpt` 1.902 to 1.909). See experiments/results/shakespeare_char.

By default the text is Shakespeare's plays from a hash-checked package (5 MB); the published figure
is for tinyshakespeare: `--config.data.path=tiny_shakespeare` (from TFDS), or the path of its
`input.txt`.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or "nanogpt" for nanoGPT's initial weights.
    """
    if arg not in (None, "nanogpt"):
        raise ValueError(f"no variant {arg!r} of this recipe; there is 'nanogpt'")
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
                    "init_std": 0.02 if arg == "nanogpt" else 0.06,
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
                "floors": {"name": "ngram"},
            },
            "run": {"steps": 2000, "batch_size": 12, "best": "validation/loss"},
        }
    )
