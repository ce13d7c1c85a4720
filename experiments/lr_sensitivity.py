"""How much does a small transformer's loss mind its learning rate, without qk-norm or z-loss?

    aigc reproduce experiments/lr_sensitivity.py --scale=cpu --config.data.path=tiny_shakespeare

Wortsman et al. 2023 (arXiv:2309.14322) train small transformers at learning rates from 3e-4 to 3e-1
and sum each curve up as its learning rate sensitivity: how much worse the final loss is, on
average over a log-uniform learning rate, than at the best one (section 2.2). They find that
normalized queries and keys (figure 1) and the z-loss lower it, and that without them it grows with
the model's size.

Theirs: C4, 512 tokens of context, 1e5 steps, models up to 1.2 billion parameters. Here: characters
of tinyshakespeare, two layers, three widths, a few hundred steps. AdamW with beta_2 0.95, norm
clipped at 1, 5 % of warm-up and a cosine are theirs; weight decay is off (theirs is 1e-4,
independent of the learning rate), and initial weights have a standard deviation of width^-1/2.

What must come out for the claims to hold: at the largest width the sensitivity with both is lower
than without qk-norm, lower than without z-loss, and lower than with neither, and the z-loss lowers
it where there is no qk-norm, seed by seed. Short runs of tiny models may not get far enough for the
logits to grow: a claim that is not shown here is reported as such.

All learning rates and seeds of a model, and runs with and without z-loss, differ in numbers alone
and so run as one compiled program.
"""

WIDTHS = (16, 32, 64)
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ARMS = {
    "both": {"task.model.qk_norm": True, "hyper.z_loss": 1e-4},
    "no qk-norm": {"task.model.qk_norm": False, "hyper.z_loss": 1e-4},
    "no z-loss": {"task.model.qk_norm": True, "hyper.z_loss": 0.0},
    "neither": {"task.model.qk_norm": False, "hyper.z_loss": 0.0},
}
STEPS = 300


def get_study():
    """Returns the study."""
    rows = [
        {
            "name": f"{arm}, {width} wide",
            "recipe": "configs/lm/tiny_char.py",
            "published": None,
            "overrides": {
                "task.model.width": width,
                "task.model.init_std": round(width**-0.5, 4),
                "run.steps": STEPS,
                "run.eval_every": 0,
                "run.save_every": 0,
                "hyper.warmup": 0.05 * STEPS,
                "hyper.end_ratio": 0.01,
                **changes,
            },
            "sweep": {"hyper.lr": RATES},
            "seeds": 3,
            "tags": {"width": width, "arm": arm},
        }
        for arm, changes in ARMS.items()
        for width in WIDTHS
    ]
    largest = WIDTHS[-1]
    return {
        "title": "Learning rate sensitivity with and without qk-norm and z-loss",
        "question": "Do normalized queries and keys, and a z-loss, flatten the final loss over"
        " learning rates?",
        "paper": {
            "title": "Small-scale proxies for large-scale Transformer training instabilities",
            "arxiv": "2309.14322",
            "place": "figures 1 and 3",
        },
        "metrics": {
            "validation/loss": {
                "direction": "minimize",
                "protocol": "exact mean over all characters of tinyshakespeare's last tenth, in"
                " consecutive windows of 64",
                "unit": "nats a character",
                "floors": {"uniform": 4.174, "5-gram (Witten-Bell)": 1.669},
            },
        },
        "rows": rows,
        "analysis": {"name": "lr_sensitivity", "initial": 4.174},
        "claims": [
            {
                "says": f"qk-norm lowers the sensitivity at width {largest}",
                "quantity": f"sensitivity: both, {largest} wide",
                "less_than": f"sensitivity: no qk-norm, {largest} wide",
                "source": "figure 1",
            },
            {
                "says": f"z-loss lowers the sensitivity at width {largest}",
                "quantity": f"sensitivity: both, {largest} wide",
                "less_than": f"sensitivity: no z-loss, {largest} wide",
                "source": "figure 3",
            },
            {
                "says": f"both together lower the sensitivity at width {largest}",
                "quantity": f"sensitivity: both, {largest} wide",
                "less_than": f"sensitivity: neither, {largest} wide",
                "source": "figures 1 and 3",
            },
            {
                "says": f"z-loss lowers the sensitivity without qk-norm at width {largest}",
                "quantity": f"sensitivity: no qk-norm, {largest} wide",
                "less_than": f"sensitivity: neither, {largest} wide",
                "source": "figure 3",
            },
            {
                "says": "without qk-norm the sensitivity grows with the width",
                "quantity": f"sensitivity: no qk-norm, {largest} wide",
                "more_than": f"sensitivity: no qk-norm, {WIDTHS[0]} wide",
                "source": "figure 1",
            },
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "rows": (f"both, {WIDTHS[0]} wide", f"no qk-norm, {WIDTHS[0]} wide"),
                "values": {"hyper.lr": (1e-3, 1e-2)},
                "overrides": {"run.steps": 20, "run.batch_size": 4},
            },
            "cpu": {
                "cost": "about 20 minutes of two CPU cores (15 were measured for three of the four"
                " arms): 252 trials of 300 steps.",
            },
        },
        "notes": "The published figures are curves of other models on other data; only their order"
        " is judged.",
    }
