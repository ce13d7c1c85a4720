"""`aigc sample RUN`: text from a trained language model."""

import argparse
from pathlib import Path
from typing import Any

from aigc_jax.cli import wire
from aigc_jax.errors import UserError


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("sample", help="write text with a run's newest checkpoint")
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--prompt", default="\n", help="where the text begins")
    parser.add_argument("--n", type=int, default=1, help="how many samples")
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 for all tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Samples."""
    if args.n < 1 or args.max_tokens < 1:
        raise UserError(f"--n={args.n} --max-tokens={args.max_tokens}: expected 1 or more.")
    if not args.prompt:
        raise UserError("--prompt is empty; give at least one character (a newline is the default)")
    done = wire.trained(args.run_folder, args.step)
    tokenizer, task = done.parts.data.tokenizer, done.parts.task
    if task.sample is None or tokenizer is None:
        raise UserError(f"{args.run_folder}: the task '{done.parts.config['task']['name']}' does"
                        " not write text.")  # fmt: skip
    import jax
    import numpy as np

    prompt = np.tile(tokenizer.encode(args.prompt), (args.n, 1))
    tokens = task.sample(
        done.weights, jax.random.key(args.seed), prompt=prompt, count=args.max_tokens,
        temperature=args.temperature, top_k=args.top_k,
    )  # fmt: skip
    print("\n---\n".join(tokenizer.decode(row) for row in tokens))
    return 0
