"""A GAN on the grid of 25 Gaussians, and what is said to keep it from collapse.

    aigc train configs/gan/grid.py
    aigc train configs/gan/grid.py:packing2

The variants are those of `ring.py`.

Machine and time: ten seeds as one program, 2 to 5 minutes on one of two busy CPU cores. Expected:
plain finds 22.0 of 25 modes (95 %: 20.5 to 23.5), `r3gan` 24.2; see
experiments/results/mode_collapse.

Source: ours, smaller than PacGAN's (Lin et al. 2018, arXiv:1712.04086, section 4.1), whose data
and whose way to count modes these are.
"""

from ml_collections import ConfigDict

from configs.gan import ring


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: one of ring.VARIANTS; None is "plain".
    """
    config = ring.get_config(arg)
    config.data.mixture = "grid"
    return config
