"""R3GAN on CIFAR-10, conditional on the class, as published.

    aigc train configs/gan/cifar10_r3gan.py
    aigc train configs/gan/cifar10_r3gan.py:tiny --config.data.path=FOLDER

Four sizes of 768 channels, two blocks each, 96 groups; 64 latents; 20.8 million parameters in the
generator, 21.3 in the discriminator. Each player takes a step on 512 rows of its own. Adam without
momentum. Over the first 20 million images, along half a cosine: learning rate 2e-4 to 5e-5, penalty
0.05 to 0.005, beta_2 0.9 to 0.99, the average's half-life 0 to 5 million images, augmentation 0 to
0.55 (colour half as often, cutout too). Products at all sizes but 4x4 are bfloat16.

`:tiny` is the same game with a few thousand parameters, on any folder of labelled pictures.

Not run at its size: no accelerator. Expected: FID 1.96 (the paper), 50,000 samples against the
training images. How long it is trained is ours, 100 million images: the paper's code stops by hand.

Source: Huang et al. 2024 (arXiv:2501.05441), "Config E", and the preset CIFAR10 of
github.com/brownvc/R3GAN.
"""

from ml_collections import ConfigDict

ROWS = 512  # of each player's step
BURN_IN = 20_000_000 / ROWS  # steps
HALF_LIFE = 5_000_000 / ROWS  # steps of the average, in the end


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or "tiny" to see it work on a CPU.
    """
    if arg not in (None, "tiny"):
        raise ValueError(f"no variant {arg!r} of this recipe; there is 'tiny'")
    config = ConfigDict(
        {
            "task": {
                "name": "gan",
                "model": {
                    "name": "r3gan",
                    "latents": 64,
                    "widths": (768, 768, 768, 768),
                    "blocks": (2,),
                    "groups": (96,),
                    "label_widths": (64, 768),
                    "generator_labels": "concat",
                    "discriminator_labels": "projection",
                    "dtype": "bfloat16",
                },
                "loss": "relativistic_pairing",
                "penalties": ("r1", "r2"),
                "augment": "fixed",
                "own_rows": True,
            },
            "data": {"name": "images", "path": "cifar10", "size": 32, "channels": 3, "flip": True},
            "optim": {
                "name": "adam",
                "schedule": "constant",
                "ema": True,
                "burn_in": ("lr", "r1", "r2", "b2", "ema_decay", "augment_p"),
            },
            "hyper": {
                "burn_in": BURN_IN,
                **{"lr_first": 2e-4, "lr": 5e-5},
                **{"r1_first": 0.05, "r1": 0.005, "r2_first": 0.05, "r2": 0.005},
                **{"b1": 0.0, "b2_first": 0.9, "b2": 0.99, "eps": 1e-8},
                **{"ema_decay_first": 0.0, "ema_decay": 0.5 ** (1.0 / HALF_LIFE)},
                **{"augment_p_first": 0.0, "augment_p": 0.55},
                **{"augment_colour": 0.5, "augment_cutout": 1.0},
            },
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
            },
            "run": {
                "steps": 195_312,  # 100 million images
                "batch_size": 2 * ROWS,
                "eval_every": 5000,
                "save_every": 5000,
                "best": "",
            },
        }
    )
    if arg == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.task.model.update(
        {"widths": (16, 16), "blocks": (1,), "groups": (4,), "label_widths": (8, 16)}
    )
    config.task.model.dtype = "float32"
    config.data.update({"path": "pictures", "size": 8, "channels": 0})
    config.hyper.update({"burn_in": 100.0, "ema_decay": 0.9})
    config.run.update({"steps": 200, "batch_size": 16, "eval_every": 100, "save_every": 100})
