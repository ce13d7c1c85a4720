"""DCGAN on MNIST, 28x28 pixels.

    aigc train configs/gan/mnist_dcgan.py

Generator 7x7x64 - 14x14x32 - 28x28x1, discriminator its mirror, batch normalization in both.

Not run to its end here.

Source: Radford et al. 2016 (arXiv:1511.06434) for layers and optimizer (Adam, 2e-4, beta_1 0.5);
the sizes are ours. There is no published score to compare with.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code."""
    return ConfigDict(
        {
            "task": {
                "name": "gan",
                "model": {
                    "name": "dcgan",
                    "latents": 64,
                    "generator_width": 32,
                    "discriminator_width": 32,
                },
            },
            "data": {"name": "images", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "constant", "ema": True},
            "hyper": {"lr": 2e-4, "b1": 0.5, "ema_decay": 0.999},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
            },
            "run": {
                "steps": 9380,
                "batch_size": 64,
                "eval_every": 938,
                "save_every": 938,
                "best": "",
            },
        }
    )
