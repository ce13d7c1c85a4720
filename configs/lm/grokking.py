"""Grokking: a small transformer knows its half of a table by heart, and long after it understands.

    aigc train configs/lm/grokking.py
    aigc train configs/lm/grokking.py --config.hyper.weight_decay=0

Source: Power et al. 2022, arXiv:2201.02177, appendix A.1: the table of a + b modulo 97, half of it
trained on in batches of 512, a transformer of 2 layers, 128 wide, 4 heads, the answer alone in the
loss; AdamW, learning rate 1e-3 after 10 steps of warm-up, betas 0.9 and 0.98, weight decay 1.

The delay hangs on the first weights: with embeddings of standard deviation 0.02 and norms before
the layers this model understands as fast as it learns by heart, with any weight decay or none
(both parts above 99 % after 300 to 400 steps). So the norms stand after the sums and embeddings
begin with a standard deviation of 1, as PyTorch's do; matrices with 0.05, PyTorch's for a width of
128.

Machine and time: two CPU cores, 0.1 s a step on idle ones, seven minutes in all. Measured with
seeds 0 and 1: training accuracy above 99 % at step 500, where validation has 16 and 4 %; validation
above 99 % at step 1,900 and 2,200. Without weight decay (seed 0) validation has 12 % at step 3,000.
Both accuracies may fall back for some steps. Guessing has 1/97. The delay is the distance between
"train_exact/accuracy" and "validation/accuracy".
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
                    "layers": 2,
                    "heads": 4,
                    "width": 128,
                    "norm_place": "post",
                    "tied": False,
                    "init_std": 0.05,
                    "embed_std": 1.0,
                },
            },
            "data": {"name": "modular", "operation": "add", "modulus": 97, "train_share": 0.5},
            "optim": {"name": "adamw", "schedule": "constant"},
            "hyper": {"lr": 1e-3, "warmup": 10.0, "b2": 0.98, "weight_decay": 1.0},
            "evals": {
                "train": {"name": "mean", "split": "train"},
                "validation": {"name": "mean", "split": "validation"},
                "floors": {"name": "chance"},
            },
            "run": {
                "steps": 4000,
                "batch_size": 512,
                "eval_every": 100,
                "save_every": 1000,
                "best": "validation/loss",
            },
        }
    )
