"""A GPT on the characters of Shakespeare: nanoGPT's recipe for a GPU.

    aigc train configs/lm/shakespeare_char_full.py --config.data.path=tiny_shakespeare

Source: github.com/karpathy/nanoGPT, config/train_shakespeare_char.py: 6 layers, 6 heads, 384 wide,
256 characters of context, batches of 64, dropout 0.2, 5,000 steps; AdamW with a cosine from 1e-3 to
1e-4 after 100 steps of warm-up. Its README reports a best validation loss of 1.4697 nats a
character after about three minutes on one A100.

Not run here: some 12 s a step on two cores, by its FLOPs. What we expect, not what we measured
(nats a character): 1.8 to 2.1 at step 250, 1.5 to 1.6 at 1,000, and the best, 1.46 to 1.49, near
2,000; after that it rises, since the model knows the text by heart, and `run.best` keeps the best.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise ValueError(f"this recipe has no variants, so no {arg!r}")
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "model": {
                    "name": "transformer",
                    "layers": 6,
                    "heads": 6,
                    "width": 384,
                    "dropout": 0.2,
                },
            },
            "data": {"name": "text", "path": "shakespeare", "tokenizer": "char", "context": 256},
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
            "run": {
                "steps": 5000,
                "batch_size": 64,
                "eval_every": 250,
                "best": "validation/loss",
            },
        }
    )
