"""Training steps of the language model against PyTorch, taking turns on one machine.

    python benchmarks/train_step.py --shape=cpu --torch-python=/path/to/python

Prints a table in Markdown: milliseconds a step (median over the rounds), the ratio to PyTorch's
eager float32 step (median of the ratios of each round, and their quartiles), peak memory of the
process, and for ours the share of the measured peak of a float32 matrix product.
"""

import argparse
import json
import os
import sys
from typing import Any

import turns
from turns import Worker

SHAPES = {
    "cpu": {"vocab": 65, "context": 64, "batch": 12, "layers": 4, "heads": 4, "width": 128},
    "mid": {"vocab": 65, "context": 256, "batch": 8, "layers": 6, "heads": 6, "width": 384},
    "gpt2": {"vocab": 50257, "context": 256, "batch": 2, "layers": 12, "heads": 12, "width": 768},
}


def workers(args: argparse.Namespace) -> dict[str, Worker]:
    """Starts all of them; the first is what the ratios are to."""
    shape = {**SHAPES[args.shape], "threads": args.threads, "model": json.loads(args.model)}

    def peer(**more: Any) -> Worker:
        told = {**shape, "dtype": "float32", "compile": False, "fused": False, **more}
        return Worker(args.torch_python, "worker_torch.py", told)

    def ours(dtype: str) -> Worker:
        return Worker(sys.executable, "worker_jax.py", {**shape, "dtype": dtype})

    everyone = {"PyTorch eager": peer()}
    if args.compile:
        everyone["PyTorch compiled, fused AdamW"] = peer(compile=True, fused=True)
    everyone["aigc_jax"] = ours("float32")
    if args.bfloat16:
        everyone["PyTorch eager, bfloat16"] = peer(dtype="bfloat16")
        everyone["aigc_jax, bfloat16"] = ours("bfloat16")
    return everyone


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one turn, about")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--model", default="{}", help="more settings of our model, as JSON")
    args = parser.parse_args()

    everyone = workers(args)
    steps, answers = turns.take_turns(everyone, rounds=args.rounds, seconds=args.seconds, warm=3)
    print(f"{args.shape}: {SHAPES[args.shape]}, {args.rounds} rounds of {steps} steps,"
          f" {args.threads} threads\n")  # fmt: skip
    print("| | ms a step | times PyTorch eager (quartiles) | peak memory | of the peak |")
    print("|---|---|---|---|---|")
    for name, rows in answers.items():
        low, middle, high = turns.ratios(answers, name)
        ms = turns.median_ms(rows, steps)
        share = ""
        if "flops" in rows[-1]:
            peak = max(row["peak"] for row in rows)
            share = (
                f"{100 * rows[-1]['flops'] / (ms / 1e3) / peak:.0f} % of {peak / 1e9:.0f} GFLOP/s"
            )
        print(f"| {name} | {ms:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
              f" {rows[-1]['memory'] / 2**20:.0f} MiB | {share} |")  # fmt: skip


if __name__ == "__main__":
    main()
