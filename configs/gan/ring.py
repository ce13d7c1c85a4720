"""A GAN on the ring of eight Gaussians, and what is said to keep it from collapse.

    aigc train configs/gan/ring.py
    aigc train configs/gan/ring.py:packing2

Variants: `plain`, `encoder`, `info`, `feature_matching`, `packing2`, `packing4`, `unrolled`,
`r3gan`; `grid.py` has the same on 25 Gaussians. Networks of two hidden layers of 128, the
discriminator's with leaky ReLU, two latents, batches of 100.

Machine and time: ten seeds as one program, 2 to 5 minutes on one of two busy CPU cores. Expected:
all variants but `packing4` find nearly all eight modes; see experiments/results/mode_collapse.

Source: ours, smaller than PacGAN's (Lin et al. 2018, arXiv:1712.04086, section 4.1), whose data
and whose way to count modes these are.
"""

from ml_collections import ConfigDict

VARIANTS: dict[str, dict] = {
    "plain": {},
    "encoder": {"name": "assisted_gan", "auxiliaries": ("encoder",)},
    "info": {"name": "assisted_gan", "auxiliaries": ("info",), "codes": 2},
    "feature_matching": {"name": "assisted_gan", "auxiliaries": ("feature_matching",)},
    "packing2": {"packing": 2},
    "packing4": {"packing": 4},
    "unrolled": {"unroll": 5},
    "r3gan": {"loss": "relativistic_pairing", "penalties": ("r1", "r2")},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: one of VARIANTS; None is "plain".
    """
    variant = arg or "plain"
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of this recipe; there are {', '.join(VARIANTS)}")
    return ConfigDict(
        {
            "task": {
                "name": "gan",
                "model": {
                    "name": "gan_mlp",
                    "latents": 2,
                    "generator_widths": (128, 128),
                    "discriminator_widths": (128, 128),
                    "generator_activation": "relu",
                    "norm": False,
                    "output": "linear",
                },
                **VARIANTS[variant],
            },
            "data": {"name": "mixtures", "mixture": "ring"},
            # The gradient of an unrolled GAN goes through Adam's root, which needs a slope at 0.
            "optim": {
                "name": "adam",
                "schedule": "constant",
                "args": (("eps_root", 1e-12),) if variant == "unrolled" else (),
            },
            "hyper": {"lr": 1e-3, "b1": 0.5, "r1": 0.1, "r2": 0.1},
            "evals": {
                "validation": {"name": "mean", "split": "validation", "limit": 10},
                "modes": {"name": "modes", "number": 2500, "every": 1},
            },
            "run": {
                "steps": 10000,
                "batch_size": 100,
                "log_every": 500,
                "eval_every": 2500,
                "save_every": 5000,
                "best": "",
            },
        }
    )
