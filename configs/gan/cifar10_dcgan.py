"""DCGAN on CIFAR-10, 32x32 pixels.

    aigc train configs/gan/cifar10_dcgan.py
    aigc train configs/gan/cifar10_dcgan.py:tiny --config.data.path=FOLDER

The paper's network with the size above 32x32 left out: 100 uniform latents, 4x4x512 - 8x8x256 -
16x16x128 - 32x32x3, the discriminator its mirror; batch normalization in both, leaky ReLU of slope
0.2, weights of standard deviation 0.02, Adam at 2e-4 with beta_1 0.5, batches of 128, pixels in
[-1, 1] and nothing else done to them.

`:tiny` is the same with a few thousand parameters, on any folder of pictures.

Not run at its size: no accelerator. There is no published FID to compare with. The number of steps
is ours.

Source: Radford et al. 2016 (arXiv:1511.06434), section 4 and figure 1.
"""

from ml_collections import ConfigDict


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
                    "name": "dcgan",
                    "latents": 100,
                    "generator_width": 128,
                    "discriminator_width": 128,
                },
                "latent": "uniform",
            },
            "data": {"name": "images", "path": "cifar10", "size": 32, "channels": 3},
            "optim": {"name": "adam", "schedule": "constant"},
            "hyper": {"lr": 2e-4, "b1": 0.5},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
            },
            "run": {
                "steps": 39_063,  # 100 epochs
                "batch_size": 128,
                "eval_every": 3906,
                "save_every": 3906,
                "best": "",
            },
        }
    )
    if arg == "tiny":
        config.task.model.update({"generator_width": 8, "discriminator_width": 8})
        config.data.update({"path": "pictures", "size": 8, "channels": 0})
        config.run.update({"steps": 200, "batch_size": 16, "eval_every": 100, "save_every": 100})
    return config
