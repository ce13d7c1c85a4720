"""Do auxiliary networks keep a GAN from collapse once each variant has learnt? The grid, tuned.

    aigc reproduce experiments/mode_collapse_tuned.py --scale=cpu

`mode_collapse.py` stops after 10,000 steps at one learning rate, where packing, codes and matched
features have not yet learnt where the modes are. Here each variant has five times the steps and the
better of two learning rates, by the modes that its samples cover: a mode is covered when it has a
fifth of an even share of good samples, since noise finds nearly all 25 modes and covers none. (The
rates: 3e-4 and below cover next to nothing after 20,000 steps, 3e-3 undoes packing four; one or
three seeds each.) The ring is left out: there the plain GAN finds 7.9 of 8 modes after 10,000 steps.

Published, PacGAN's section 4.1 (Lin et al. 2018, arXiv:1712.04086; larger networks, 400 epochs of
100,000 points, eight times these steps), modes found of 25: GAN 17.3 +- .8, ALI, which has an
encoder, 24.1 +- .4, PacGAN2 23.8 +- .7, PacGAN4 24.8 +- .2. Their networks are not built here.

Two questions, one claim for each variant and each of them: does it cover more modes than the plain
GAN, and does a helper cover more than packing, which costs nothing?
"""

ARMS = ("plain", "encoder", "info", "feature_matching", "packing2", "packing4", "unrolled", "r3gan")
HELPERS = ("encoder", "info", "feature_matching")
CONTROLS = ("packing2", "packing4", "unrolled", "r3gan")
PUBLISHED = {"plain": 17.3, "packing2": 23.8, "packing4": 24.8}


def _more(arm, than, source):
    return {
        "says": f"{arm} covers more modes than {than}",
        "quantity": f"modes/covered: {arm}",
        "more_than": f"modes/covered: {than}",
        "source": source,
    }


def get_study():
    """Returns the study."""
    return {
        "title": "Modes of the grid covered by GANs with helpers and without, each tuned",
        "question": "Do auxiliary networks keep a GAN from losing modes, and do they beat packing?",
        "paper": {
            "title": "PacGAN: The power of two samples in generative adversarial networks",
            "arxiv": "1712.04086",
            "place": "section 4.1, grid",
        },
        "metrics": {
            "modes/covered": {
                "direction": "maximize",
                "protocol": "modes of 25 with a fifth of an even share of samples within 3 sigma,"
                " among 2,500 samples",
                "unit": "modes",
            },
            "modes/found": {
                "direction": "maximize",
                "protocol": "modes of 25 with a sample within 3 sigma among 2,500 samples",
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
                "protocol": "of the frequencies of modes among good samples",
                "unit": "nats",
            },
        },
        "rows": [
            {
                "name": arm,
                "recipe": f"configs/gan/grid.py:{arm}",
                "published": {"modes/found": PUBLISHED[arm]} if arm in PUBLISHED else None,
                "conditions": "PacGAN's networks, 400 epochs",
                "tune": {"hyper.lr": (1e-3, 2e-3)},
                "seeds": 10,
                "tags": {"arm": arm},
            }
            for arm in ARMS
        ],
        "analysis": {"name": "rows"},
        "claims": [
            *(_more(arm, "plain", "the claim under test") for arm in HELPERS),
            *(_more(arm, "plain", "control") for arm in CONTROLS),
            *(
                _more(arm, than, "helper against control")
                for arm in HELPERS
                for than in ("packing2", "packing4")
            ),
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "rows": ("plain", "encoder"),
                "values": {"hyper.lr": (1e-3,)},
                "overrides": {"run.steps": 100, "run.eval_every": 0, "evals.modes.number": 500},
            },
            "cpu": {
                "cost": "about an hour of two CPU cores without `unrolled`, which takes another"
                " (estimated).",
                "overrides": {"run.steps": 50_000, "run.eval_every": 0, "run.save_every": 25_000},
                "judged": False,
            },
        },
        "notes": "A generator that covers all modes has 25; PacGAN's figures are of modes found.",
    }
