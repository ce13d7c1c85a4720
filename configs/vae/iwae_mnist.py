"""Importance-weighted and plain autoencoders of MNIST, with k samples of the latents in training.

    aigc train configs/vae/iwae_mnist.py:iwae_k50     # one stochastic layer, the 50-sample bound
    aigc train configs/vae/iwae_mnist.py:vae_k5       # the mean of 5 evidence bounds
    aigc train configs/vae/iwae_mnist.py:iwae_k5_two  # two stochastic layers
    aigc train configs/vae/iwae_mnist.py              # iwae_k5

Each of vae and iwae goes with k1, k5 and k50, with or without `_two`.

Source: Burda et al. 2016 (arXiv:1509.00519), section 5: x, 200-200 tanh, 50 latents, and the same
back; with `_two` x, 200-200, 100, 100-100, 50. Batches of 20, Adam with betas 0.9 and 0.999 and
epsilon 1e-4. Their schedule has 3^i epochs at a learning rate of 1e-3 * 10^(-i/7) for i = 0 .. 7,
which is 3,280 epochs from 1e-3 down to 1e-4. Here it is 30 epochs along a cosine between the same
two ends, so the results are the published order, not the published values.

A rerun of the long schedule (github.com/xqding/Importance_Weighted_Autoencoders, README) has, for k
= 1/5/50, VAE 87.78/87.15/87.47 and IWAE 87.75/85.46/84.59 nats by 5,000 samples on the test part.

The split "validation" is MNIST's test part, and all of the training part is trained on. While
training, the bound is by 500 samples of 1,000 rows; the one that compares is
`--config.evals.bound.samples=5000 --config.evals.bound.rows=0`.

Not run to its end here; three of the 30 epochs are in experiments/results/iwae_mnist.
"""

from ml_collections import ConfigDict

VARIANTS = tuple(
    f"{kind}_k{samples}{layers}"
    for kind in ("vae", "iwae")
    for samples in (1, 5, 50)
    for layers in ("", "_two")
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: one of VARIANTS; None is "iwae_k5".
    """
    arg = arg or "iwae_k5"
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r} of this recipe; there are {', '.join(VARIANTS)}")
    kind, samples, *two = arg.split("_")
    model = {"name": "vae_mlp", "width": 200, "layers": 2, "latent": 50, "activation": "tanh"}
    if two:
        model = {"name": "vae_two_layers", "width": 200, "upper_width": 100, "layers": 2}
        model |= {"latent": 100, "upper_latent": 50, "activation": "tanh"}
    return ConfigDict(
        {
            "task": {
                "name": "vae",
                "model": model,
                "objective": "iwae" if kind == "iwae" else "elbo",
                "samples": int(samples.removeprefix("k")),
                "likelihood": "bernoulli",
                "binarize": "dynamic",
            },
            "data": {"name": "images", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "cosine"},
            "hyper": {"lr": 1e-3, "end_ratio": 0.1, "eps": 1e-4},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "floors": {"name": "pixels", "split": "validation"},
                "units": {"name": "active_units", "split": "validation"},
                "bound": {
                    "name": "bound",
                    "split": "validation",
                    "samples": 500,
                    "rows": 1000,
                    "binarize": "dynamic",
                },
                "pictures": {"name": "pictures"},
                "latents": {"name": "latents", "split": "validation"},
            },
            "run": {
                "steps": 90_000,  # 30 epochs
                "batch_size": 20,
                "log_every": 500,
                "eval_every": 9000,
                "save_every": 9000,
                "best": "validation/loss",
            },
        }
    )
