"""How many of 1,000 modes does a GAN reach whose discriminator is too small, and what helps?

    aigc train configs/classifier/mnist.py --workdir=runs/mnist-classifier
    aigc reproduce experiments/stacked_mnist.py --scale=cpu

Three digits as the channels of one picture. Published with a discriminator a quarter as large as
the generator, modes found and reverse KL: DCGAN 78.5 and 5.21, PacDCGAN2 484.5 and 2.61, PacDCGAN4
667.4 and 1.81 (PacGAN's own runs: Lin et al. 2018, arXiv:1712.04086, section 4.2); DCGAN 30.6 and
5.99, an unrolled GAN with ten steps 327.2 and 4.66 (Metz et al. 2017, arXiv:1611.02163). A perfect
generator has 1,000 modes and a reverse KL of 0.019 among 26,000 samples.

The networks here are other ones and the schedule is a tenth, so nothing published is judged; what
must come out for the claim that helpers keep a GAN from collapse to hold is that a helper's row has
more modes than the plain one, seed by seed. The controls are packing and R3GAN's loss.
"""

ARMS = ("plain", "encoder", "feature_matching", "packing2", "packing4", "r3gan")
HELPERS = ("encoder", "feature_matching")
PUBLISHED = {"plain": (78.5, 5.21), "packing2": (484.5, 2.61), "packing4": (667.4, 1.81)}


def get_study():
    """Returns the study."""
    return {
        "title": "Modes of stacked MNIST by GANs with helpers and without",
        "question": "Do auxiliary networks keep a GAN from losing modes?",
        "paper": {
            "title": "PacGAN: The power of two samples in generative adversarial networks",
            "arxiv": "1712.04086",
            "place": "section 4.2",
        },
        "metrics": {
            "modes/found": {
                "direction": "maximize",
                "protocol": "of 1,000, by a classifier of digits, among 26,000 samples",
                "unit": "modes",
                "tolerance": 30.0,
            },
            "modes/covered": {
                "direction": "maximize",
                "protocol": "those with a fifth of an even share of the samples",
                "unit": "modes",
            },
            "modes/reverse_kl": {
                "direction": "minimize",
                "protocol": "of the samples' modes",
                "unit": "nats",
                "tolerance": 0.3,
                "ceilings": {"a perfect generator": 0.0193},
            },
        },
        "rows": [
            {
                "name": arm,
                "recipe": f"configs/gan/stacked_mnist.py:{arm}",
                "published": dict(
                    zip(("modes/found", "modes/reverse_kl"), PUBLISHED[arm], strict=True)
                )
                if arm in PUBLISHED
                else None,
                "conditions": "PacGAN's DCGAN, 50 epochs",
                "seeds": 3,
                "tags": {"arm": arm},
            }
            for arm in ARMS
        ],
        "analysis": {"name": "rows"},
        "claims": [
            {
                "says": f"{arm} finds more modes than plain",
                "quantity": f"modes/found: {arm}",
                "more_than": "modes/found: plain",
                "source": "the claim under test" if arm in HELPERS else "control",
            }
            for arm in ARMS
            if arm != "plain"
        ],
        "scales": {
            "smoke": {
                "cost": "two minutes of two CPU cores; needs MNIST and its classifier.",
                "seeds": 1,
                "rows": ("plain", "encoder"),
                "overrides": {"run.steps": 50, "evals.modes.number": 500},
            },
            "cpu": {
                "cost": "two hours of two CPU cores (estimated); needs MNIST and its classifier.",
                "judged": False,
            },
        },
        "notes": "Noise, to the classifier, is a few digits: read found with the reverse KL.",
    }
