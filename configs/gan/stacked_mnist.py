"""Stacked MNIST: three digits as red, green and blue, 1,000 modes, and a discriminator too small to
see them all.

    aigc train configs/classifier/mnist.py --workdir=runs/mnist-classifier
    aigc train configs/gan/stacked_mnist.py
    aigc train configs/gan/stacked_mnist.py:packing2

Variants: `plain`, `encoder`, `feature_matching`, `packing2`, `packing4`, `r3gan` (which has no
batch normalization in its discriminator). DCGAN at 28x28, the discriminator's layers a quarter as
wide as the generator's, batches of 64. At the end 26,000 samples are counted by the classifier,
each channel by itself.

Machine and time: see experiments/results/stacked_mnist.

Source: ours, after Metz et al. 2017 (arXiv:1611.02163, section 3.3.1), who made the discriminator
so small, and PacGAN (Lin et al. 2018, arXiv:1712.04086, section 4.2), whose networks are others,
with 32x32 pixels, and whose schedule is ten times as long.
"""

from ml_collections import ConfigDict

from configs.gan.mnist_mlp import CLASSIFIER
from configs.gan.ring import VARIANTS

ARMS = ("plain", "encoder", "feature_matching", "packing2", "packing4", "r3gan")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: one of ARMS; None is "plain".
    """
    arm = arg or "plain"
    if arm not in ARMS:
        raise ValueError(f"no variant {arm!r} of this recipe; there are {', '.join(ARMS)}")
    return ConfigDict(
        {
            "task": {
                "name": "gan",
                "model": {
                    "name": "dcgan",
                    "latents": 100,
                    "generator_width": 32,
                    "discriminator_width": 8,
                    "norm": arm != "r3gan",  # its penalties look at each example by itself
                },
                **VARIANTS[arm],
            },
            "data": {"name": "stacked", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "constant"},
            "hyper": {"lr": 2e-4, "b1": 0.5, "r1": 1.0, "r2": 1.0},
            "evals": {
                "validation": {"name": "mean", "split": "validation", "limit": 10},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
                "modes": {"name": "modes", "number": 26_000, "classifier": CLASSIFIER},
            },
            "run": {
                "steps": 10_000,
                "batch_size": 64,
                "log_every": 500,
                "eval_every": 0,
                "save_every": 2500,
                "best": "",
            },
        }
    )
