"""The prior of a VQ-VAE: a small GPT over the codes of MNIST's digits, 49 a picture.

    aigc train configs/vae/vq_prior.py
    aigc train configs/vae/vq_prior.py:labels    # a row begins with its label

It reads `train.npy` and `validation.npy` (with `:labels` also `train_labels.npy` and
`validation_labels.npy`) of the folder `data.path`: the codes of a run of configs/vae/vq_mnist.py.

Source: van den Oord et al. 2017 (arXiv:1711.00937), section 3.3, with a transformer for their
PixelCNN; the sizes are nanoGPT's for a CPU. The loss is in nats per code; 49 times it, beside
"reconstruction" of the VQ-VAE's run, makes the bound on -log p(x).

Expected of `:labels` after 1,500 steps, one seed: 1.942 nats a code (by place 3.477, uniform
4.852).
See experiments/results/vq_mnist. Not run to its end here.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or "labels" for a prior of each class.
    """
    if arg not in (None, "labels"):
        raise ValueError(f"no variant {arg!r} of this recipe; there is 'labels'")
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "model": {
                    "name": "transformer",
                    "layers": 4,
                    "heads": 4,
                    "width": 128,
                    "dropout": 0.1,
                    "init_std": 0.06,
                },
            },
            "data": {
                "name": "codes",
                "path": "runs/vq_mnist/codes",
                "codes": 128,
                "labels": arg == "labels",
            },
            "optim": {"name": "adamw", "schedule": "cosine"},
            "hyper": {
                "lr": 1e-3,
                "warmup": 100.0,
                "b2": 0.99,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evals": {"validation": {"name": "mean", "split": "validation"}},
            "run": {
                "steps": 5000,
                "batch_size": 64,
                "eval_every": 500,
                "save_every": 1000,
                "best": "validation/loss",
            },
        }
    )
