"""Do auxiliary networks keep a GAN from collapse? Ring and grid, each variant with ten seeds.

    aigc reproduce experiments/mode_collapse.py --scale=cpu

The claim that an encoder, a code to be recovered or matched features keep a GAN from losing modes
is tested on data whose modes can be counted, against the plain GAN and against controls without
helpers: packing (Lin et al. 2018, arXiv:1712.04086), unrolling (Metz et al. 2017, arXiv:1611.02163)
and R3GAN's loss (Huang et al. 2024, arXiv:2501.05441).

Published, PacGAN's section 4.1 (4 layers of 400 and maxout, 400 epochs; ours are two hidden layers
of 128 and a hundredth of the steps): modes found of 8 on the ring, 25 on the grid, with standard
errors. GAN 6.3 +- .5 and 17.3 +- .8; ALI, which has an encoder, 6.6 +- .3 and 24.1 +- .4; PacGAN2
7.9 +- .1 and 23.8 +- .7; PacGAN4 7.8 +- .1 and 24.8 +- .2. These hold for networks that are not
built here, and judge nothing at the scale `cpu`; what must come out for the claim to hold is that a
helper's row has more modes than the plain one, seed by seed. Read modes with quality: noise hits
many modes with few good samples.
"""

ARMS = ("plain", "encoder", "info", "feature_matching", "packing2", "packing4", "unrolled", "r3gan")
HELPERS = ("encoder", "info", "feature_matching")
PUBLISHED = {
    "ring": {"plain": 6.3, "packing2": 7.9, "packing4": 7.8},
    "grid": {"plain": 17.3, "packing2": 23.8, "packing4": 24.8},
}


def get_study():
    """Returns the study."""
    rows = [
        {
            "name": f"{mixture}, {arm}",
            "recipe": f"configs/gan/{mixture}.py:{arm}",
            "published": {"modes/found": PUBLISHED[mixture][arm]}
            if arm in PUBLISHED[mixture]
            else None,
            "conditions": "PacGAN's networks, 400 epochs",
            "tolerance": 1.0,
            "seeds": 10,
            "tags": {"mixture": mixture, "arm": arm},
        }
        for mixture in ("ring", "grid")
        for arm in ARMS
    ]
    return {
        "title": "Modes found by GANs with helpers and without",
        "question": "Do auxiliary networks keep a GAN from losing modes?",
        "paper": {
            "title": "PacGAN: The power of two samples in generative adversarial networks",
            "arxiv": "1712.04086",
            "place": "section 4.1, ring and grid",
        },
        "metrics": {
            "modes/found": {
                "direction": "maximize",
                "protocol": "modes with a sample within 3 sigma among 2,500 samples; 8 on the ring,"
                " 25 on the grid",
                "unit": "modes",
                "tolerance": 1.0,
            },
            "modes/quality": {
                "direction": "maximize",
                "protocol": "share of 2,500 samples within 3 sigma of a centre",
                "unit": "share",
                "ceilings": {"real data, in theory": 0.9889},
            },
            "modes/reverse_kl": {
                "direction": "minimize",
                "protocol": "of the frequencies of modes, each sample counted for its nearest one",
                "unit": "nats",
            },
        },
        "rows": rows,
        "analysis": {"name": "rows"},
        "claims": [
            {
                "says": f"{mixture}: {arm} finds more modes than plain",
                "quantity": f"modes/found: {mixture}, {arm}",
                "more_than": f"modes/found: {mixture}, plain",
                "source": "the claim under test" if arm in HELPERS else "control",
            }
            for mixture in ("ring", "grid")
            for arm in ARMS
            if arm != "plain"
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "rows": ("ring, plain", "ring, encoder"),
                "overrides": {"run.steps": 100, "run.eval_every": 0, "evals.modes.number": 500},
            },
            "cpu": {
                "cost": "about 90 minutes of two CPU cores: 2 to 5 minutes a row (measured on one"
                " of two busy ones), 19 for each of the two unrolled.",
                "overrides": {"evals.modes.every": 0},  # as the recorded runs had it
                "judged": False,
            },
        },
        "notes": "Noise hits 24 of the grid's 25 modes: read them with the quality.",
    }
