"""DCGAN at 64x64 on a folder of pictures.

    aigc train configs/gan/folder_dcgan.py --config.data.path=FOLDER

PyTorch's example, but for the start of its batch normalizations' scales (1 here, drawn around 1
there) and a bias in the discriminator's last layer: 100 latents, 64 channels next to the picture,
weights of standard deviation 0.02, Adam at 2e-4 with beta_1 0.5, batches of 64. Crop the
pictures first where they need it (`--config.data.crop=160` for aligned CelebA).

Not run here. A quarter of the channels gave noise in three short runs, and digits with hinge loss,
spectral normalization and a higher learning rate: see experiments/results/gan_mnist.

Source: Radford et al. 2016 (arXiv:1511.06434); PyTorch's examples/dcgan. There is no published
score to compare with.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code."""
    return ConfigDict(
        {
            "task": {"name": "gan", "model": {"name": "dcgan"}},
            "data": {"name": "images", "path": "pictures", "size": 64, "channels": 3},
            "optim": {"name": "adam", "schedule": "constant"},
            "hyper": {"lr": 2e-4, "b1": 0.5},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures"},
            },
            "run": {
                "steps": 25000,
                "batch_size": 64,
                "eval_every": 1000,
                "save_every": 1000,
                "best": "",
            },
        }
    )
