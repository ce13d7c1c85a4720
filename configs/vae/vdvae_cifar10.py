"""A very deep hierarchical autoencoder (VDVAE) of CIFAR-10, as published.

    aigc train configs/vae/vdvae_cifar10.py
    aigc train configs/vae/vdvae_cifar10.py:tiny      # MNIST, half a million parameters, a CPU

43 stochastic layers from 1x1 to 32x32, 384 channels, 16 to a latent; 39.1 million parameters. The
likelihood is PixelCNN++'s mixture of ten logistics. AdamW at 2e-4 after 100 steps of warm-up, both
betas 0.9, weight decay 0.01 of all parameters, batches of 32, averages with a decay of 0.9999. A
gradient longer than 200 is cut, and a step with one longer than 400 is not taken. There is no
augmentation. 45,000 images are trained on, 5,000 choose the step, and the 10,000 of the test part
are judged with one sample an image.

The paper's table speaks of 45 layers; its published configuration has 43, and its 39 million
parameters. Their loss is in nats a value and ours in nats an image, 3,072 times as much: so are the
two lengths of the gradient here, and Adam's epsilon.

`:tiny` has the same parts at all five resolutions and fewer of them.

Not run at its size: no accelerator. Expected: 2.87 bits a value, over four seeds 2.842 to 2.898
(the paper and its README); there about a million steps, a little less than a week on two V100.

Source: Child 2021 (arXiv:2011.10650), table 1 and appendix; hps.py and README of
github.com/openai/vdvae.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or "tiny" to see it work on a CPU.
    """
    if arg not in (None, "tiny"):
        raise ValueError(f"no variant {arg!r} of this recipe; there is 'tiny'")
    values = 28 * 28 if arg == "tiny" else 32 * 32 * 3
    config = ConfigDict(
        {
            "task": {
                "name": "vae",
                "model": {
                    "name": "vae_top_down",
                    "width": 384,
                    "latent": 16,
                    "bottleneck": 0.25,
                    "encoder_blocks": ((1, 11), (2, 6), (4, 6), (8, 3), (32, 3)),
                    "decoder_blocks": ((32, 1), (8, 3), (4, 6), (2, 11), (1, 22)),
                    # Of the levels 0 to 255: 120.63838 and 64.16736.
                    "input_mean": 120.63838 / 127.5 - 1.0,
                    "input_std": 64.16736 / 127.5,
                },
                "likelihood": "logistic_mixture",
                "mixtures": 10,
                "binarize": "none",
                "skip_norm": 400.0 * values,
            },
            "data": {
                "name": "images",
                "path": "cifar10",
                "size": 32,
                "channels": 3,
                "train_share": 0.9,
            },
            "optim": {
                "name": "adamw",
                "schedule": "constant",
                "ema": True,
                "rules": ((".*", {"label": "all"}),),
            },
            "hyper": {
                "lr": 2e-4,
                "warmup": 100.0,
                "b1": 0.9,
                "b2": 0.9,
                "eps": 1e-8 * values,
                "weight_decay": 0.01,
                "clip_norm": 200.0 * values,
                "ema_decay": 0.9999,
            },
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "test": {"name": "mean", "split": "test"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
            },
            "run": {
                "steps": 1_000_000,
                "batch_size": 32,
                "log_every": 100,
                "eval_every": 14_060,  # 10 epochs of 1,406 batches
                "save_every": 14_060,
                "best": "validation/loss",
            },
        }
    )
    if arg == "tiny":
        config.task.model.update(
            {
                "width": 64,
                "latent": 8,
                "encoder_blocks": ((1, 1), (2, 2), (4, 2), (8, 1), (32, 1)),
                "decoder_blocks": ((32, 1), (8, 1), (4, 3), (2, 3), (1, 1)),
                "input_mean": -0.74,
                "input_std": 0.62,
            }
        )
        config.data.update({"path": "mnist", "size": 28, "channels": 1})
        config.hyper.update({"lr": 1e-3, "ema_decay": 0.99})
        config.evals.pictures.update({"number": 40})
        config.run.update({"steps": 2000, "eval_every": 1000, "save_every": 1000})
    return config
