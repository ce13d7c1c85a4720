"""The classic GAN on MNIST: two multilayer perceptrons, Adam at 2e-4.

    aigc train configs/gan/mnist_mlp.py

Generator 100-256-512-784 with tanh, discriminator 784-512-256-1, leaky ReLU of slope 0.2, the
non-saturating loss, batches of 64. `:logistic` has two dense layers each, 100-784-784 and
784-512-1, and gray values from a logistic function.

Not run to its end here.

Source: Goodfellow et al. 2014 (arXiv:1406.2661) for the game; the sizes are those that tutorials
have settled on. There is no published score to compare with.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or "logistic" for the smaller pair.
    """
    if arg not in (None, "logistic"):
        raise ValueError(f"no variant {arg!r} of this recipe; there is 'logistic'")
    model = {"name": "gan_mlp", "latents": 100}
    if arg == "logistic":
        model |= {
            "generator_widths": (784,),
            "discriminator_widths": (512,),
            "generator_activation": "relu",
            "output": "logistic",
        }
    return ConfigDict(
        {
            "task": {"name": "gan", "model": model},
            "data": {"name": "images", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "constant", "ema": True},
            "hyper": {"lr": 2e-4, "b1": 0.5, "ema_decay": 0.999},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
            },
            "run": {
                "steps": 46900,
                "batch_size": 64,
                "eval_every": 9380,
                "save_every": 9380,
                "best": "",
            },
        }
    )
