"""Two processes with one device each against one process with two devices, on one machine's cores.

    python benchmarks/two_processes.py [CONFIG] [--config.SECTION.NAME=VALUE]

The same global batch, half of its rows on each device; parameters on both. The two processes
exchange gradients by gloo, over TCP; both may use both cores, as `aigc train --processes=2` starts
them, and once each has one core to itself. The one process has two pretended devices and both
cores. All stay alive and take turns; the slower of two processes counts.

Prints a table in Markdown: milliseconds a step (median), the ratio to the one process (median of
the rounds and quartiles), and what the program of each exchanges in a step: how often, of how many
arrays, how many bytes. `one core` is one process with one device, one core and half of
the rows: a step of it is what each process computes, without any exchange; what the two take beyond
it is exchange and waiting.
"""

import argparse
import os
import socket
import sys
from typing import Any

import turns
from turns import Worker

Told = dict[str, Any]


class Processes:
    """Workers that take their steps together."""

    def __init__(self, told: list[Told]) -> None:
        self.workers = [Worker(sys.executable, "worker_mesh.py", one) for one in told]

    def run(self, steps: int) -> dict[str, Any]:
        """Lets all take steps; the slowest one's answer."""
        return slowest([worker.begin(steps) for worker in self.workers])


def slowest(answers: list[Any]) -> dict[str, Any]:
    """Waits for all; returns the answer of the one that took longest."""
    found = [answer() for answer in answers]
    return max(found, key=lambda one: one["seconds"])


def free_port() -> int:
    """Returns a port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def everyone(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Starts all of them; the first is what the ratios are to."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("this needs two cores")
    rows = f"--config.run.batch_size={args.rows}"
    base: Told = {"config": args.config, "overrides": [rows, *overrides], "flags": args.flag,
                  "devices": 1, "address": "", "count": 1, "index": 0,
                  "threads": 0}  # fmt: skip

    def pair(*of: list[int], threads: int = 0) -> list[Told]:
        one = {**base, "address": f"127.0.0.1:{free_port()}", "count": 2, "threads": threads}
        return [{**one, "index": i, "cores": mine} for i, mine in enumerate(of)]

    half = [*overrides, f"--config.run.batch_size={args.rows // 2}"]
    return {
        "one process, two devices": Processes([{**base, "devices": 2, "cores": cores}]),
        "two processes": Processes(pair(cores, cores)),
        "two processes, a thread each": Processes(pair(cores, cores, threads=1)),
        "two processes, a core each": Processes(pair(cores[:1], cores[1:])),
        "one core, half of the rows": Processes(
            [{**base, "overrides": half, "cores": cores[:1]}]
        ),
        "one process, one device": Processes([{**base, "cores": cores}]),
    }  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/lm/shakespeare_char.py")
    parser.add_argument("--rows", type=int, default=64, help="of the global batch")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn, about")
    parser.add_argument("--flag", action="append", default=[], help="one more of XLA's, for all")
    args, overrides = parser.parse_known_args()

    workers = everyone(args, overrides)
    steps, answers = turns.take_turns(workers, rounds=args.rounds, seconds=args.seconds, warm=3)
    print(f"{args.config}: {args.rows} rows, {args.rounds} rounds of {steps} steps\n")
    print("| | ms a step | times one process (quartiles) | exchanged a step |")
    print("|---|---|---|---|")
    for name, rows in answers.items():
        # turns.ratios says how many times as fast; here it is how many times as long.
        fast = turns.ratios(answers, name)
        high, middle, low = (1 / one for one in fast)
        found = rows[-1]["collectives"]
        arrays, size = sum(one[0] for one in found), sum(one[1] for one in found)
        print(
            f"| {name} | {turns.median_ms(rows, steps):.1f} | {middle:.2f} ({low:.2f} to"
            f" {high:.2f}) | {len(found)} of {arrays} arrays, {size / 1e6:.2f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
