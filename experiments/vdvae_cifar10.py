"""A very deep hierarchical autoencoder on CIFAR-10: 2.87 bits a value.

    aigc reproduce experiments/vdvae_cifar10.py --scale=full
    aigc reproduce experiments/vdvae_cifar10.py --scale=smoke --config.data.path=mnist

Child 2021 (arXiv:2011.10650), table 1, with 39 million parameters; the README of its code has the
four seeds: 2.879, 2.842, 2.898 and 2.864. The number is the evidence bound with one sample an image
by averaged weights, on the 10,000 test images. The published step is the one at which 5,000 images
kept from training cost least, between 650,000 and 1,050,000; a run here keeps that step's weights
too (`run.best`), while the table reads the last evaluation.

The scale smoke trains the recipe's small variant on MNIST, where no published value holds.

Not run: needs an accelerator for about a week, and CIFAR-10 (`aigc data`, from TFDS).
"""

METRIC = "test/bits_per_dim"


def get_study():
    """Returns the study."""
    return {
        "title": "A very deep VAE on CIFAR-10",
        "question": "Is the published bound reached?",
        "paper": {
            "title": "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on"
            " Images",
            "arxiv": "2011.10650",
            "place": "table 1",
        },
        "metrics": {
            METRIC: {
                "direction": "minimize",
                "protocol": "evidence bound, one sample, averaged weights, CIFAR-10's 10,000 test"
                " images, 8-bit values",
                "unit": "bits a value",
                "tolerance": 0.03,
                "floors": {"a uniform choice of 256 levels": 8.0},
            },
        },
        "rows": [
            {
                "name": "VDVAE",
                "recipe": "configs/vae/vdvae_cifar10.py",
                "published": {METRIC: 2.87},
                "conditions": "43 stochastic layers, no augmentation; mean of four seeds",
                "one_sided": True,
                "scales": {"full": {"run.steps": 900_000}},
            },
            {
                "name": "small, MNIST",
                "recipe": "configs/vae/vdvae_cifar10.py:tiny",
                "published": None,
                "conditions": "what the smoke run shows is that everything runs",
            },
        ],
        "scales": {
            "smoke": {
                "cost": "some minutes of two CPU cores; needs MNIST.",
                "seeds": 1,
                "rows": ("small, MNIST",),
                "overrides": {"run.steps": 60, "run.eval_every": 0, "run.save_every": 0},
            },
            "full": {
                "cost": "about a week of two V100 a seed (the paper's README).",
                "seeds": 4,
                "rows": ("VDVAE",),
            },
        },
        "notes": "Not run here: no accelerator.",
    }
