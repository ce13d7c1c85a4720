"""DCGAN at 64x64 on a folder of pictures.

    aigc train configs/gan/folder_dcgan.py --config.data.path=FOLDER
    aigc train configs/gan/folder_dcgan.py:spectral --config.data.path=FOLDER

PyTorch's example, but for the start of its batch normalizations' scales (1 here, drawn around 1
there) and a bias in the discriminator's last layer: 100 latents, 64 channels next to the picture,
weights of standard deviation 0.02, Adam at 2e-4 with beta_1 0.5, batches of 64. Crop the
pictures first where they need it (`--config.data.crop=160` for aligned CelebA).

`:spectral` has the hinge loss, spectral normalization in place of batch normalization, and 6e-4.

Not run here at this width. A quarter of the channels gave noise in three short runs, and digits as
`:spectral`: see experiments/results/gan_mnist.

Source: Radford et al. 2016 (arXiv:1511.06434); PyTorch's examples/dcgan. There is no published
score to compare with.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or "spectral" for the game that trained at a quarter of the width.
    """
    if arg not in (None, "spectral"):
        raise ValueError(f"no variant {arg!r} of this recipe; there is spectral")
    game, network = {}, {}
    if arg:
        game, network = {"loss": "hinge"}, {"norm": False, "spectral_norm": True}
    return ConfigDict(
        {
            "task": {"name": "gan", **game, "model": {"name": "dcgan", **network}},
            "data": {"name": "images", "path": "pictures", "size": 64, "channels": 3},
            "optim": {"name": "adam", "schedule": "constant"},
            "hyper": {"lr": 6e-4 if arg else 2e-4, "b1": 0.5},
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
