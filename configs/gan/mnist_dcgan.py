"""DCGAN on MNIST, 28x28 pixels.

    aigc train configs/gan/mnist_dcgan.py

    aigc train configs/classifier/mnist.py --workdir=runs/mnist-classifier
    aigc train configs/gan/mnist_dcgan.py:judged    # and scored by that classifier at the end

    aigc train configs/gan/mnist_dcgan.py:conditional
    aigc augment configs/classifier/mnist.py --with=runs/mnist_dcgan-conditional

The last says what samples are worth beside real digits; with little of these,
`--config.data.train_share=0.01 --config.evals.validation.split=test`, they may be worth something.

Generator 7x7x64 - 14x14x32 - 28x28x1, discriminator its mirror, batch normalization in both.

Machine and time: two CPU cores, 18 to 24 minutes with other work on them. Expected of
`:judged`, three seeds: all ten classes, cfd 52 (46 to 58; real digits 1.4, noise 685), precision
0.50, recall 0.76. 600 digits and samples of `:conditional`, trained on the same: 94.7 % for 94.1 %.
See experiments/results/gan_mnist.

Source: Radford et al. 2016 (arXiv:1511.06434) for layers and optimizer (Adam, beta_1 0.5; they have
a learning rate of 2e-4, which is slower here); the sizes are ours. There is no published score.
"""

from ml_collections import ConfigDict

from configs.gan.mnist_mlp import JUDGES


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, "judged" to have a classifier score it, or "conditional" to draw by class:
        conditional batch normalization and a projection discriminator.
    """
    if arg not in (None, "judged", "conditional"):
        raise ValueError(f"no variant {arg!r}; there are 'judged' and 'conditional'")
    labels = {"generator_labels": "norm", "discriminator_labels": "projection"}
    return ConfigDict(
        {
            "task": {
                "name": "gan",
                "model": {
                    "name": "dcgan",
                    "latents": 64,
                    "generator_width": 32,
                    "discriminator_width": 32,
                    **(labels if arg == "conditional" else {}),
                },
            },
            "data": {"name": "images", "path": "mnist"},
            # Averaged at 0.999 from the first step, 1,500 steps gave empty pictures (cfd 795; 163
            # at 0.99), so the average begins short.
            "optim": {
                "name": "adam",
                "schedule": "constant",
                "ema": True,
                "burn_in": ("ema_decay",),
            },
            "hyper": {
                "lr": 6e-4,
                "b1": 0.5,
                "burn_in": 2000.0,
                "ema_decay_first": 0.5,
                "ema_decay": 0.999,
            },
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
                **(JUDGES if arg == "judged" else {}),
            },
            "run": {
                "steps": 14_070,  # 15 epochs
                "batch_size": 64,
                "eval_every": 2814,
                "save_every": 2814,
                "best": "",
            },
        }
    )
