"""A variational autoencoder of MNIST's digits, as bits drawn anew each time they are seen.

    aigc train configs/vae/mnist.py                 # 784-500-20, flax's example
    aigc train configs/vae/mnist.py:400             # 784-400-20, PyTorch's example
    aigc train configs/vae/mnist.py:beta            # the cost of the latents times 4
    aigc train configs/vae/mnist.py:conditional     # told the label

Source: github.com/google/flax, examples/vae (500 hidden units with ReLU, 20 latents, batches of
128, Adam with 1e-3, 10 epochs); its README has a test -ELBO of about 104 nats. `:400` has the sizes
of github.com/pytorch/examples, vae. `:beta` is Higgins et al. 2017 (beta-VAE), `:conditional` is
Sohn et al. 2015, with the label beside the image and beside the latents.

The split "validation" is MNIST's own test part, and all its 60,000 training images are trained on;
nothing is chosen by it but `run.best`. Digits that were binarized once and for all
(`--config.task.binarize=fixed`) give other numbers, by about two nats, and gray values
(`--config.task.binarize=none`) numbers that compare with nothing.

Machine and time: two CPU cores, two minutes. Expected -ELBO on the test part: 117.2 after an epoch,
106.0 after four, 102.2 at the end (three seeds, 95 %: 101.8 to 102.6). The variants were not run.
"""

from ml_collections import ConfigDict

VARIANTS = (None, "400", "beta", "conditional")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or one of "400", "beta", "conditional".
    """
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r} of this recipe; there are {VARIANTS[1:]}")
    return ConfigDict(
        {
            "task": {
                "name": "vae",
                "model": {
                    "name": "vae_mlp",
                    "width": 400 if arg == "400" else 500,
                    "layers": 1,
                    "latent": 20,
                    "activation": "relu",
                },
                "likelihood": "bernoulli",
                "binarize": "dynamic",
                "conditional": arg == "conditional",
            },
            "data": {"name": "images", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "constant"},
            "hyper": {"lr": 1e-3, "beta": 4.0 if arg == "beta" else 1.0},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "floors": {"name": "pixels", "split": "validation"},
                "units": {"name": "active_units", "split": "validation"},
                "bound": {
                    "name": "bound",
                    "split": "validation",
                    "samples": 200,
                    "rows": 1000,
                    "binarize": "dynamic",
                },
                "pictures": {"name": "pictures"},
                "latents": {"name": "latents", "split": "validation"},
            },
            "run": {
                "steps": 4680,  # 10 epochs of 468 batches
                "batch_size": 128,
                "log_every": 117,
                "eval_every": 468,
                "save_every": 1560,
                "best": "validation/loss",
            },
        }
    )
