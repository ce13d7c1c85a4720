"""A worker of a sweep whose trials are quick and hold no weights: they count to 20 in a file.

    python -m slurm_worker ROOT [drive]

With `drive` it is the one who submits such workers and watches them.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aigc_jax.sweep import slurm
from aigc_jax.sweep.worker import Worker


def count(trial: Any, signals: Any, told: Any) -> Any:
    """Waits at 10 until there is a file `go`, or a signal comes."""
    folder = trial.workdir
    folder.mkdir(exist_ok=True)
    signals.saves = True
    file = folder / "count"
    step = int(file.read_text()) if file.exists() else 0
    with (folder / "starts").open("a") as starts:
        starts.write(f"{step}\n")
    (folder / "pid").write_text(str(os.getpid()))
    while step < 20 and not signals.asked:
        step += 1
        file.write_text(str(step))
        while step == 10 and not signals.asked and not (folder.parent / "go").exists():
            time.sleep(0.01)
    kind = "stopped" if signals.asked else "finished"
    last = {"score": float(trial.config["hyper"]["lr"])}
    said = {"state": kind, "reason": signals.asked, "step": step, "steps": 20, "last": last}
    (folder / "status.json").write_text(json.dumps(said))
    return SimpleNamespace(kind=kind, reason=signals.asked or "", last=last)


def drive(root: Path, *options: str, workers: int = 1, say: Any = print) -> int:
    command = [sys.executable, "-m", "slurm_worker", str(root)]
    return slurm.run(root, workers=workers, worker=command, options=options, say=say)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    if sys.argv[2:]:
        sys.exit(drive(root, "cluster=local", "poll=1"))
    sys.exit(Worker(root, count, wal=False).run())
