"""A VQ-VAE of MNIST's digits: 7x7 codes out of 128, whose prior is configs/vae/vq_prior.py.

    aigc train configs/vae/vq_mnist.py

Source: van den Oord et al. 2017 (arXiv:1711.00937): the codebook by moving averages with a decay of
0.99 (appendix A.1), a commitment of 0.25, residual blocks of 3x3 and 1x1 convolutions. Unused codes
are replaced by vectors of the batch (Dhariwal et al. 2020, arXiv:2005.00341). The paper has no
MNIST: sizes and the learning rate are ours. The likelihood is of all 256 gray levels, with one
learned scale.

"validation/loss" is a bound with a uniform prior over the codes, 49 ln 128 = 237.8 nats of it; the
prior lowers that part to 49 times its own loss.

Expected, one seed: 725.1 nats for the pixels, 87 of 128 codes in use; with the prior 1.51 bits a
pixel. See experiments/results/vq_mnist.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code."""
    return ConfigDict(
        {
            "task": {
                "name": "vqvae",
                "model": {
                    "name": "vq_conv",
                    "patch": 4,
                    "code_width": 16,
                    "width": 64,
                    "layers": 2,
                },
                "codes": 128,
                "likelihood": "discretized_logistic",
                "scale": "shared",
            },
            "data": {"name": "images", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "cosine"},
            "hyper": {"lr": 1e-3, "warmup": 100.0, "clip_norm": 100.0},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "latents": {"name": "latents", "split": "validation"},
            },
            "run": {
                "steps": 4680,  # 10 epochs
                "batch_size": 128,
                "log_every": 117,
                "eval_every": 468,
                "save_every": 1560,
                "best": "validation/loss",
            },
        }
    )
