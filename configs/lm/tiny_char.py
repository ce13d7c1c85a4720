"""A transformer of two layers, 64 wide, on the characters of Shakespeare: what studies vary.

    aigc train configs/lm/tiny_char.py --config.data.path=tiny_shakespeare
    aigc sweep configs/lm/tiny_char.py --sweep=lr,seed --config.data.path=tiny_shakespeare

The data, context, batch and optimizer are those of `shakespeare_char.py` (nanoGPT's recipe for a
CPU); the network is a tenth of it, with rotary positions and an output layer of its own. It samples
nothing and fits no n-grams, so that hundreds of runs cost what their training costs.
`tiny_shakespeare.py`, which studies of the width vary, has heads of 16, learned positions and tied
outputs.

Machine and time: two CPU cores, half a minute. Expected: see experiments/results/lr_sensitivity and
experiments/results/scaling_law, which are made of this recipe.

Source: ours; github.com/karpathy/nanoGPT, README, for data, context and batch.
"""

from ml_collections import ConfigDict


def get_sweep(h):
    """Returns its sweeps: six learning rates, three seeds; both together are 18 trials."""
    return {
        "lr": h.grid("hyper.lr", (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
        "seed": h.grid("run.seed", range(3)),
    }


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code."""
    if arg is not None:
        raise ValueError(f"this recipe has no variants, so no {arg!r}")
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "model": {
                    "name": "transformer",
                    "layers": 2,
                    "heads": 2,
                    "width": 64,
                    "positions": "rope",
                    "tied": False,
                    "init_std": 0.06,
                },
            },
            "data": {"name": "text", "path": "shakespeare", "tokenizer": "char", "context": 64},
            "optim": {"name": "adamw", "schedule": "cosine"},
            "hyper": {
                "lr": 3e-3,
                "warmup": 20.0,
                "end_ratio": 0.05,
                "b2": 0.95,
                "clip_norm": 1.0,
            },
            "evals": {"validation": {"name": "mean", "split": "validation"}},
            "run": {
                "steps": 500,
                "batch_size": 12,
                "log_every": 10,
                "eval_every": 500,
                "save_every": 500,
                "best": "validation/loss",
            },
        }
    )
