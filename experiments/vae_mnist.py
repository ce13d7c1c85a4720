"""flax's example of a VAE on MNIST: about 104 nats after ten epochs.

    aigc reproduce experiments/vae_mnist.py --scale=cpu
    aigc reproduce experiments/vae_mnist.py --scale=bound

github.com/google/flax, examples/vae: 500 hidden units, 20 latents, batches of 128, Adam with 1e-3,
ten epochs, bits drawn anew each time an image is seen; its README has a test -ELBO of about 104
nats, by the last epoch's log. How much of it is the encoder's gap, the bound with 5,000 importance
samples says (Burda et al. 2016, arXiv:1509.00519), on all 10,000 test images, at the scale `bound`.
All 60,000 training images are trained on; the other 10,000 are the test part. Binarization is a
part of the protocol: digits binarized once and for all give numbers that are some two nats away.
"""


def get_study():
    """Returns the study."""
    return {
        "title": "A VAE of MNIST's digits",
        "question": "Is the test bound of flax's example reached?",
        "paper": {
            "title": "flax, examples/vae",
            "url": "https://github.com/google/flax/tree/main/examples/vae",
            "place": "README",
        },
        "metrics": {
            "validation/loss": {
                "direction": "minimize",
                "protocol": "-ELBO on MNIST's 10,000 test images, dynamic binarization, one sample",
                "unit": "nats an image",
                "tolerance": 2.0,
                "floors": {"independent pixels": 205.8},
                "ceilings": {"entropy of the bits given the gray picture": 45.53},
            },
            "validation_first_2000_rows_dynamic/iwae_5000": {
                "direction": "minimize",
                "protocol": "bound on -log p of 2,000 of them, 5,000 importance samples each",
                "unit": "nats an image",
                "ceilings": {"entropy of the bits given the gray picture": 45.53},
            },
        },
        "rows": [
            {
                "name": "784-500-20",
                "recipe": "configs/vae/mnist.py",
                "published": {"validation/loss": 104.0},
                "conditions": "ten epochs, dynamic binarization; the README says 'about'",
                "one_sided": True,
                "seeds": 3,
            },
        ],
        "scales": {
            "smoke": {
                "cost": "a minute or two of two CPU cores; needs MNIST.",
                "seeds": 1,
                "overrides": {
                    "run.steps": 50,
                    "run.eval_every": 0,
                    "evals.bound.samples": 2,
                    "evals.bound.rows": 100,
                },
            },
            "cpu": {
                "cost": "about 6 minutes of two CPU cores (two a run, measured with other work).",
            },
            "bound": {
                "cost": "about 15 minutes of two CPU cores (estimated).",
                "overrides": {
                    "run.eval_every": 0,
                    "evals.bound.samples": 5000,
                    "evals.bound.rows": 2000,
                },
            },
        },
    }
