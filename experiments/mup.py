"""muP: does the best learning rate stay put when the model gets wider?

    aigc reproduce experiments/mup.py --scale=cpu --config.data.path=tiny_shakespeare

Yang et al. 2022 (arXiv:2203.03466): under the standard parametrization the best learning rate of
Adam falls as a transformer gets wider; under the maximal update parametrization it stays (figure
1), and so do the sizes of activations after a few steps, which otherwise grow with the width (the
coordinate check, appendix D.1).

Theirs: WikiText-2, widths 128 to 8,192. Here: characters of tinyshakespeare, two layers, widths of
32 to 128 for the learning rate and to 256 for the coordinate check, 200 steps. Both
parametrizations are the same model at the smallest width and begin with the same variances at every
width, so that all that differs is learned (`models/mup.py`).

What must come out: the best learning rate (a parabola through the lowest point of the curve and its
neighbours) moves by fewer octaves from width 32 to 128 under muP, and the last block's output and
the logits grow with a smaller power of the width.
"""

WIDTHS = (32, 64, 128)
CHECKED = (32, 64, 128, 256)
RATES = tuple(2.0**k for k in range(-11, -3))
BASE = WIDTHS[0]
STEPS = 200
FIRST = 0.25  # standard deviation of the blocks' initial weights at the base width
LAYERS = ("coordinates/block_1", "coordinates/logits")


def arm(kind, width):
    """Settings of one parametrization at one width."""
    if kind == "muP":
        return {"task.model.base_width": BASE, "task.model.init_std": FIRST}
    return {"task.model.init_std": round(FIRST * (BASE / width) ** 0.5, 5)}


def get_study():
    """Returns the study."""
    common = {
        "run.eval_every": 0,
        "run.save_every": 0,
        "hyper.warmup": 10.0,
    }
    rows = [
        {
            "name": f"{kind}, {width} wide",
            "recipe": "configs/lm/tiny_char.py",
            "published": None,
            "overrides": {
                **common,
                "task.model.width": width,
                **arm(kind, width),
                "run.steps": STEPS,
            },
            "sweep": {"hyper.lr": RATES},
            "seeds": 3,
            "tags": {"kind": kind, "width": width},
        }
        for kind in ("muP", "standard")
        for width in WIDTHS
    ]
    checks = [
        {
            "name": f"check of {kind}, {width} wide",
            "recipe": "configs/lm/tiny_char.py",
            "published": None,
            "overrides": {
                **common,
                "evals.coordinates.name": "coordinates",
                "task.model.width": width,
                **arm(kind, width),
                "optim.schedule": "constant",
                "hyper.warmup": 0.0,
                "hyper.lr": 0.01,
                "run.steps": 4,
            },
            "seeds": 3,
            "tags": {"kind": kind, "width": width},
        }
        for kind in ("muP", "standard")
        for width in CHECKED
    ]
    return {
        "title": "muP: the best learning rate and the size of activations over widths",
        "question": "Do they stay what they are at the base width?",
        "paper": {
            "title": "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter"
            " Transfer",
            "arxiv": "2203.03466",
            "place": "figure 1 and appendix D.1",
        },
        "metrics": {
            "validation/loss": {
                "direction": "minimize",
                "protocol": "exact mean over all characters of tinyshakespeare's last tenth, in"
                " consecutive windows of 64",
                "unit": "nats a character",
                "floors": {"uniform": 4.174, "5-gram (Witten-Bell)": 1.669},
            },
            **{
                layer: {
                    "direction": "minimize",
                    "protocol": "root mean square on the first batch of the validation part, after"
                    " four steps at a learning rate of 0.01; neither direction is better",
                }
                for layer in LAYERS
            },
        },
        "rows": [*rows, *checks],
        "analysis": {
            "name": "optimum",
            "group": "kind",
            "size": "width",
            "grows": LAYERS,
        },
        "claims": [
            {
                "says": f"the best learning rate moves less under muP from width {BASE} to"
                f" {WIDTHS[-1]}",
                "quantity": "moved: muP",
                "less_than": "moved: standard",
                "source": "figure 1",
            },
            {
                "says": "under the standard parametrization it falls",
                "quantity": "drift: standard",
                "less_than": 0.0,
                "source": "figure 1",
            },
            *(
                {
                    "says": f"{layer.partition('/')[2]} grows less with the width under muP",
                    "quantity": f"growth of {layer}: muP",
                    "less_than": f"growth of {layer}: standard",
                    "source": "appendix D.1",
                }
                for layer in LAYERS
            ),
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "rows": [f"{k}, {w} wide" for k in ("muP", "standard") for w in WIDTHS[:2]],
                "values": {"hyper.lr": RATES[3:7:2]},
                "overrides": {"run.steps": 10, "run.batch_size": 4},
            },
            "cpu": {
                "cost": "about 11 minutes of two CPU cores (estimated): 168 trials.",
            },
        },
        "notes": "The published figures are curves of other models on other data; only what they"
        " claim is judged.",
    }
