"""`aigc inpaint RUN`: hides a part of held-out pictures and fills it in with a trained model."""

import argparse
from pathlib import Path
from typing import Any

from aigc_jax.cli import wire
from aigc_jax.errors import StorageError, UserError

MASKS = ("center", "left", "right", "top", "bottom", "noise")


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "inpaint", help="fill in hidden parts of pictures by searching a model's latents"
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument(
        "--hide", default="center", metavar="PART",
        help=f"{', '.join(MASKS)} (half of the pixels), or a picture that is black where it hides"
        " (default: center)",
    )  # fmt: skip
    parser.add_argument("--number", type=int, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--split", default="validation", help="(default: validation)")
    parser.add_argument("--starts", type=int, default=8, metavar="N", help="(default: 8)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="(default: 300)")
    parser.add_argument("--lr", type=float, default=0.05, help="of the search (default: 0.05)")
    parser.add_argument(
        "--prior", type=float, default=0.03, metavar="W", help="weight of |z|^2 (default: 0.03)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.png",
        help="whole, hidden and filled pictures, one below the other",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hides and fills."""
    if args.output.suffix != ".png":
        raise UserError(f"--output={args.output}: expected a file ending in .png.")
    for name in ("number", "starts", "steps"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: expected 1 or more.")
    done = wire.trained(args.run_folder, args.step)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from PIL import Image

    from aigc_jax.generate.inpaint import fill
    from aigc_jax.metrics.picture_grid import grid

    built = done.parts
    functions, shape = built.task.functions, built.data.spec.facts.get("shape", ())
    if "decode" not in functions or "latents" not in functions or len(shape) != 3:
        raise UserError(f"{args.run_folder}: its task makes no pictures of latents.")
    if args.split not in built.data.splits:
        known = ", ".join(built.data.splits)
        raise UserError(f"--split={args.split}: the data has no such split; it has {known}.")
    rows = built.data.splits[args.split].batch(0, (0, 1))
    number = min(args.number, int(rows["mask"].sum()))
    x = rows["x"][:number]
    seen = np.broadcast_to(_mask(args.hide, shape, args.seed), x.shape).astype(np.float32)
    key = jax.random.key(args.seed)
    z = functions["latents"](key, args.starts * number)

    def decode(z: jax.Array) -> jax.Array:
        label = None
        if "label" in rows:
            label = jnp.resize(jnp.asarray(rows["label"][:number]), (len(z),))
        return functions["decode"](done.weights, z, label)

    search = jax.jit(
        lambda x, seen, z: fill(decode, x, seen, z, steps=args.steps, lr=args.lr, prior=args.prior)
    )
    filled = np.asarray(search(x, seen, z.reshape(args.starts, number, -1)).x)
    hidden = seen * x + (1 - seen) * 0.0
    try:
        shown = grid(np.concatenate([x, hidden, filled]), number)
        Image.fromarray(shown).save(args.output)
    except OSError as error:
        raise StorageError(f"--output={args.output} can't be written: {error.strerror}.") from None
    hole = 1 - seen
    mean = rows["x"][rows["mask"] > 0].mean(0, keepdims=True)
    missed = [float((((a - x) * hole) ** 2).sum() / max(hole.sum(), 1)) for a in (filled, mean)]
    print(f"{args.output}: {number} pictures of {args.split}; mean squared error in the hole"
          f" {missed[0]:.4f}, of the mean picture {missed[1]:.4f}")  # fmt: skip
    return 0


def _mask(word: str, shape: tuple[int, ...], seed: int) -> Any:
    """Returns 1 where a pixel can be seen, [H, W, 1]."""
    import numpy as np

    height, width, _ = shape
    seen = np.ones((height, width, 1), np.float32)
    # First and last row, first and last column of what is hidden.
    half = {
        "left": (0, height, 0, width // 2),
        "right": (0, height, width // 2, width),
        "top": (0, height // 2, 0, width),
        "bottom": (height // 2, height, 0, width),
        "center": (height // 4, height - height // 4, width // 4, width - width // 4),
    }
    if word in half:
        top, bottom, left, right = half[word]
        seen[top:bottom, left:right] = 0.0
    elif word == "noise":
        draw = np.random.Generator(np.random.Philox(key=seed))
        seen[:] = draw.random(seen.shape) < 0.5
    else:
        from PIL import Image

        if not Path(word).is_file():
            raise UserError(f"--hide={word}: expected {', '.join(MASKS)} or the path of a picture.")
        try:
            picture = Image.open(word).convert("L").resize((width, height))
        except OSError as error:
            raise UserError(f"--hide={word} is no picture that can be read: {error}.") from None
        seen[:] = (np.asarray(picture) > 127)[..., None]
    return seen
