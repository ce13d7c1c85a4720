"""Do auxiliary networks keep a GAN from collapse once each variant has learnt? The grid, tuned.

    aigc reproduce experiments/mode_collapse_tuned.py --scale=cpu

`mode_collapse.py` stops after 10,000 steps at one learning rate, where packing, codes and matched
features have not yet learnt where the modes are. Here each variant has five times the steps and a
learning rate of its own, and is judged by the modes that its samples cover: a mode is covered when
it has a fifth of an even share of good samples, since noise finds nearly all 25 modes and covers
none. The ring is left out: the plain GAN finds 7.9 of its 8 modes after 10,000 steps.

How the rates were chosen: two seeds (0 and 1, which are two of the ten) with all 50,000 steps at
each rate; the most modes covered in the mean counts. At 5e-4, 1e-3, 2e-3 and 3e-3, where tried:
plain -, 23.5, 24.5, 22.0; encoder 19.0, 24.0, 25.0, 22.5; info 2.5, 9.0, 10.5, -; feature_matching
0.0, 3.0, 12.0, -; packing2 -, 23.0, 22.5, 21.0; packing4 -, 17.5, 14.5, 1.5; r3gan 23.5, 20.5,
23.0, -. `unrolled` was not searched.

Published, PacGAN's section 4.1 (Lin et al. 2018, arXiv:1712.04086; larger networks, 400 epochs of
100,000 points, eight times these steps), modes found of 25: GAN 17.3 +- .8, ALI, which has an
encoder, 24.1 +- .4, PacGAN2 23.8 +- .7, PacGAN4 24.8 +- .2. Their networks are not built here.

Two questions, one claim for each variant and each of them: does it cover more modes than the plain
GAN, and does a helper cover more than packing, which costs nothing?
"""

ARMS = ("plain", "encoder", "info", "feature_matching", "packing2", "packing4", "unrolled", "r3gan")
HELPERS = ("encoder", "info", "feature_matching")
CONTROLS = ("packing2", "packing4", "unrolled", "r3gan")
RATES = {"packing2": 1e-3, "packing4": 1e-3, "unrolled": 1e-3, "r3gan": 5e-4}  # others: 2e-3
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
                "protocol": "of the frequencies of modes, each sample counted for its nearest one",
                "unit": "nats",
            },
        },
        "rows": [
            {
                "name": arm,
                "recipe": f"configs/gan/grid.py:{arm}",
                "published": {"modes/found": PUBLISHED[arm]} if arm in PUBLISHED else None,
                "conditions": "PacGAN's networks, 400 epochs",
                "overrides": {"hyper.lr": RATES.get(arm, 2e-3)},
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
                "overrides": {"run.steps": 100, "run.eval_every": 0, "evals.modes.number": 500},
            },
            "cpu": {
                "cost": "about 30 minutes of two CPU cores without `unrolled`, which takes as long"
                " again (estimated).",
                "overrides": {"run.steps": 50_000, "run.eval_every": 0, "run.save_every": 25_000},
                "judged": False,
            },
        },
        "notes": "A generator that covers all modes has 25; PacGAN's figures are of modes found.",
    }
