"""Makes the record of finished runs that differ in their seeds alone.

    python experiments/record.py --command="aigc train ..." RUN_0 RUN_1 RUN_2 > record.json

Prints JSON: each run's last scores, seed, commit and wall time; mean and 95 % interval (Student's
t) of each metric; hashes of the config (without seed and path) and of the data; the floors;
the environment. No path of the machine is in it.
"""

import argparse
import hashlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from aigc_jax.report.statistics import interval

METRICS = ("validation/loss", "validation/bits_per_byte", "validation/accuracy")  # by default


def read(path: Path) -> Any:
    """Returns the JSON of a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def optional(path: Path) -> Any:
    """Returns the JSON of a file that not every run has."""
    return read(path) if path.is_file() else {}


def last_scores(run: Path, metrics: list[str]) -> dict[str, float]:
    """Returns the scores of a finished run's last step, and its wall time in seconds."""
    steps = read(run / "config.json")["run"]["steps"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in rows if row.get("step") == steps and metrics[0] in row]
    if not found:
        sys.exit(f"{run} has no {metrics[0]} at its last step, {steps}")
    return {**{name: found[-1][name] for name in metrics}, "wall_seconds": found[-1]["wall"]}


def comparable(config: dict[str, Any]) -> str:
    """Returns the hash of a config without what differs between seeds and machines."""
    plain = json.loads(json.dumps(config))
    plain["run"].pop("seed")
    plain["data"].pop("path", None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def summed_up(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation over the runs and 95 % interval of the mean."""
    mean, low, high = interval(values)
    if len(values) == 1:
        return {"mean": mean}
    return {"mean": mean, "stdev": statistics.stdev(values), "interval_95": [low, high]}


def main() -> None:
    """Reads the runs and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", required=True, help="with INPUT.TXT and SEED in it")
    parser.add_argument("--metric", action="append", help="may be repeated")
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()

    metrics = args.metric or list(METRICS)
    configs = [read(run / "config.json") for run in args.runs]
    if len({comparable(config) for config in configs}) != 1:
        sys.exit("these runs differ in more than seed and path")
    data = [read(run / "data.json") for run in args.runs]
    if len({one["fingerprint"] for one in data}) != 1:
        sys.exit("these runs were trained on different data")
    rows = []
    for run, config in zip(args.runs, configs, strict=True):
        env = read(run / "env.json")
        commit = {key: env.get("git", env).get(key) for key in ("commit", "dirty")}
        rows.append({"seed": config["run"]["seed"], **last_scores(run, metrics), **commit})
    summary = {name: summed_up([row[name] for row in rows]) for name in metrics}
    env = read(args.runs[0] / "env.json")
    record = {
        "command": args.command,
        "runs": rows,
        "summary": summary,
        "config_sha256_without_seed_and_path": comparable(configs[0]),
        "data_fingerprint": data[0]["fingerprint"],
        "floors": optional(args.runs[0] / "floors.json"),
        "protocols": optional(args.runs[0] / "protocols.json"),
        "environment": {key: env[key] for key in ("python", "packages", "cpu", "cores")},
    }
    json.dump(record, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
