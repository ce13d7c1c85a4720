"""DCGAN on MNIST, 28x28 pixels.

    aigc train configs/gan/mnist_dcgan.py

    aigc train configs/classifier/mnist.py --workdir=runs/mnist-classifier
    aigc train configs/gan/mnist_dcgan.py:judged    # and scored by that classifier at the end

    aigc train configs/gan/mnist_dcgan.py:conditional
    aigc augment configs/classifier/mnist.py --with=runs/mnist_dcgan-conditional

The last says what samples are worth beside real digits; with little of these,
`--config.data.train_share=0.01 --config.evals.validation.split=test`, they may be worth something.

Generator 1024 - 7x7x64 - 14x14x32 - 28x28x1, discriminator its mirror, batch normalization in
both. Without the dense layer of 1,024 the discriminator sees ten pixels at once and adds up what it
found: a third of the samples are then good strokes and no digits (after five epochs cfd 70, with it
4).

Machine and time: two CPU cores with AVX-512, 45 ms a step, 7 minutes; twice that with other work on
them. Expected of `:judged`: all ten classes, cfd 2.25 (1.52 to 2.98, three seeds; real digits 1.4,
noise 683), precision 0.80, recall 0.79; see
experiments/results/gan_mnist. `:conditional` was not run with its dense layers.

Source: InfoGAN's networks for MNIST (Chen et al. 2016, arXiv:1606.03657, appendix C.1) at half of
their width, without codes; Adam with beta_1 0.5, 1e-3 for the generator and 2e-4 for the
discriminator are theirs. There is no published score.
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
                    "hidden": 1024,
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
                "lr": 1e-3,
                "discriminator_lr": 0.2,
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
                "steps": 9380,  # 10 epochs
                "batch_size": 64,
                "eval_every": 1876,
                "save_every": 1876,
                "best": "",
            },
        }
    )
