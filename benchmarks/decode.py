"""Greedy decoding with a cache, GPT-2 124M's shapes, against transformers' `generate`.

    python benchmarks/decode.py --torch-python=/path/to/python    # one with torch and transformers

Prints a table in Markdown: tokens a second (median over the rounds) and the ratio to transformers
(median of the ratios of each round, and their quartiles) for each batch size; for batch 1 also how
fast the weights were read, against the memory's measured speed, which bounds it.
"""

import argparse
import os
import sys
import time

import turns
from turns import Worker

SHAPE = {"vocab": 50257, "context": 1024, "layers": 12, "heads": 12, "width": 768}
PROMPT, TOKENS = 32, 96


def memory_speed() -> float:
    """Bytes a second that a float32 sum over 400 MB reads, the best of five."""
    import numpy as np

    big = np.ones(100_000_000, np.float32)
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        big.sum()
        best = max(best, big.nbytes / (time.perf_counter() - begin))
    return best


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="of our weights")
    args = parser.parse_args()

    print(
        f"{SHAPE}, prompt {PROMPT}, {TOKENS} tokens, {args.rounds} rounds, {args.threads} threads"
    )
    print(f"one core reads memory at {memory_speed() / 1e9:.1f} GB/s\n")
    print("| batch | | tokens/s | times transformers (quartiles) | peak memory | weights read |")
    print("|---|---|---|---|---|---|")
    for batch in args.batches:
        told = {
            **SHAPE,
            "batch": batch,
            "prompt": PROMPT,
            "tokens": TOKENS,
            "threads": args.threads,
        }
        everyone = {"transformers": Worker(args.torch_python, "worker_decode_torch.py", told)}
        for dtype in args.dtypes:
            everyone[f"aigc_jax, {dtype}"] = Worker(
                sys.executable, "worker_decode_jax.py", {**told, "dtype": dtype}
            )
        steps, answers = turns.take_turns(everyone, rounds=args.rounds, seconds=3.0, warm=1, most=1)
        for name, rows in answers.items():
            low, middle, high = turns.ratios(answers, name)
            speed = batch * TOKENS / (turns.median_ms(rows, steps) / 1e3)
            read = rows[-1]["weights"] * speed / batch / 1e9
            print(f"| {batch} | {name} | {speed:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
                  f" {rows[-1]['memory'] / 2**20:.0f} MiB | {read:.1f} GB/s |")  # fmt: skip
        for worker in everyone.values():
            worker.process.kill()


if __name__ == "__main__":
    main()
