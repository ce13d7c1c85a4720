"""`aigc draw RUN`: pictures from a trained generative model."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from aigc_jax.cli import wire
from aigc_jax.errors import UserError

ENDINGS = (".png", ".npy")


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("draw", help="draw images with a run's newest checkpoint")
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--number", type=int, default=64, metavar="N", help="(default: 64)")
    parser.add_argument(
        "--label",
        action="append",
        metavar="NAME",
        help="of a class, or its number; may be repeated, then they come in turn"
        " (default: all classes in turn)",
    )
    parser.add_argument(
        "--truncation", type=float, metavar="T", help="draw latents again that lie beyond T"
    )
    parser.add_argument("--standing", type=int, metavar="N",
                        help="batch statistics anew from N batches of 100 samples")  # fmt: skip
    parser.add_argument("--prior", type=Path, metavar="RUN",
                        help="of a VQ-VAE's codes, a run of configs/vae/vq_prior.py")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="(default: 8)")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="a grid as .png, or the values, float32 [N, H, W, C], as .npy",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws."""
    if args.output.suffix not in ENDINGS:
        raise UserError(
            f"--output={args.output}: expected a file ending in {' or '.join(ENDINGS)}."
        )
    if args.number < 1 or args.columns < 1:
        raise UserError(
            f"--number={args.number}, --columns={args.columns}: expected 1 or more of both."
        )
    if args.truncation is not None and not args.truncation > 0:
        raise UserError(f"--truncation={args.truncation}: expected a number above 0.")
    if args.standing is not None and args.standing < 1:
        raise UserError(f"--standing={args.standing}: expected 1 or more.")
    if args.seed < 0:
        raise UserError(f"--seed={args.seed}: expected 0 or more.")
    done = wire.trained(args.run_folder, args.step)
    if done.parts.data.tokenizer is not None:
        raise UserError(f"{args.run_folder} writes text; use `aigc sample {args.run_folder}`.")
    import numpy as np

    from aigc_jax.metrics.picture_grid import grid

    x = _of_codes(done, args) if "decode_codes" in done.parts.task.functions else _drawn(done, args)
    try:
        if args.output.suffix == ".npy":
            np.save(args.output, x)
        elif x.ndim == 4:
            from PIL import Image

            Image.fromarray(grid(x, args.columns)).save(args.output)
        else:
            raise UserError(f"{args.run_folder} draws points, no images; use --output=FILE.npy.")
    except OSError as error:
        raise UserError(f"--output={args.output} can't be written: {error.strerror}.") from None
    print(f"{args.output}: {len(x)} of step {done.step}")
    return 0


def _drawn(done: wire.Trained, args: argparse.Namespace) -> Any:
    """Samples of a task that draws images itself, float32 [N, ...]."""
    import jax
    import numpy as np

    task, weights = done.parts.task, done.weights
    if args.prior is not None:
        raise UserError("--prior is for a model of codes; this one draws by itself.")
    if task.sample is None:
        raise UserError(f"{args.run_folder}: its task, {done.parts.config['task']['name']}, draws"
                        " nothing.")  # fmt: skip
    knobs: dict[str, Any] = {}
    if args.truncation is not None:
        knobs["truncation"] = args.truncation
    if args.label:
        chosen = [_class(name, done.parts.data.spec.facts) for name in args.label]
        knobs["label"] = np.resize(np.asarray(chosen, np.int32), args.number)
    if args.standing is not None:
        if "standing" not in task.functions:
            raise UserError("--standing: this model has no batch statistics.")
        again = partial(task.functions["standing"], batches=args.standing, size=100)
        weights = jax.jit(again)(weights, jax.random.fold_in(jax.random.key(args.seed), 1))
    return task.sample(weights, jax.random.key(args.seed), number=args.number, **knobs)


def _of_codes(done: wire.Trained, args: argparse.Namespace) -> Any:
    """Samples of a VQ-VAE: a prior, which is a language model, writes codes."""
    import jax
    import numpy as np

    if args.truncation is not None or args.standing is not None:
        raise UserError("--truncation and --standing are for models with latents, not codes.")
    if args.prior is None:
        raise UserError(
            f"{args.run_folder} draws what a prior of its codes writes: --prior=RUN, a run of"
            " configs/vae/vq_prior.py."
        )
    prior = wire.trained(args.prior)
    facts = prior.parts.data.spec.facts
    if "codes" not in facts:
        raise UserError(f"--prior={args.prior}: it was not trained on codes.")
    first = np.zeros(args.number, np.int32)
    if args.label:
        if not facts["classes"]:
            raise UserError(f"--label: {args.prior} was trained without labels.")
        chosen = [_class(name, done.parts.data.spec.facts) for name in args.label]
        first = np.resize(np.asarray(chosen, np.int32), args.number)
    elif facts["classes"]:
        first = (np.arange(args.number) % facts["classes"]).astype(np.int32)
    prompt = (facts["codes"] + first)[:, None]
    sample, key = prior.parts.task.sample, jax.random.key(args.seed)
    written = sample(prior.weights, key, prompt=prompt, count=facts["context"])
    decode = jax.jit(done.parts.task.functions["decode_codes"])
    return np.asarray(decode(done.weights, written[:, 1:]))


def _class(name: str, facts: dict[str, Any]) -> int:
    """Returns the number of a class from its name or its number."""
    names = [str(n) for n in facts["class_names"]]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise UserError(f"--label={name}: no such class." + (f" There are: {shown}." if names else
                    " This data has no labels."))  # fmt: skip
