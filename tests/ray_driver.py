"""What the tests of the Ray engine start in processes of their own: drivers, and a held trial."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

METRIC = "validation_first_3/loss"


def held(cfg: Any, workdir: Path, *, told: Any, **more: Any) -> Any:
    """A trial that says where it is, and waits at step 8 until a file lets it go on."""
    from aigc_jax.cli import warm

    def slow(step: int, scores: dict[str, float]) -> None:
        told(step, scores)
        (workdir / f"at-{step}").write_text(str(os.getpid()))
        while step == 8 and not (workdir.parent / "go").exists():
            time.sleep(0.02)

    return warm.one(cfg, workdir, told=slow, **more)


def planned(root: Path, rates: tuple[float, ...], *overrides: str) -> Any:
    from aigc_jax.sweep import plans

    return plans.plan("recipe.py", overrides, [{"hyper.lr": rate} for rate in rates], root)


def sweep(root: Path, rates: tuple[float, ...], **knobs: Any) -> int:
    from aigc_jax.sweep import ray

    return ray.run(planned(root, rates), root, metric=METRIC, **knobs)


def killed() -> int:
    """The four trials of the crash test."""
    return sweep(Path("sweep"), RATES, workers=2, trial="ray_driver:held")


def pruned() -> int:
    """On one Ray: a halving that a signal stops, the same again, a population, and what a person
    types, with the right metric and with a wrong one.
    """
    import ray as library

    from aigc_jax.cli.main import main
    from aigc_jax.sweep import ray

    ray._imported()
    library.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR", object_store_memory=80 * 2**20,
                 _temp_dir=sys.argv[2])  # fmt: skip
    here, rates = Path("asha"), (0.02, 0.01, 1e-7)

    def stop() -> None:
        while not list(here.glob("*/at-8")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)  # all of it is passed on before the trial may end
        (here / "go").touch()

    threading.Thread(target=stop, daemon=True).start()
    codes = [
        sweep(here, rates, workers=1, pruner="asha", trial="ray_driver:held"),
        sweep(here, rates, workers=1, pruner="asha"),
        sweep(Path("population"), (0.02, 1e-6), workers=1, pruner="pbt"),
        *(
            main(
                [
                    "sweep",
                    "recipe.py",
                    "--engine=ray",
                    "--seeds=2",
                    f"--metric={metric}",
                    f"--workdir={root}",
                    "--config.run.steps=4",
                ]
            )
            for root, metric in (("typed", METRIC), ("misspelt", "validation_first_3/los"))
        ),
    ]
    library.shutdown()
    print("codes", *codes)
    return 0


RATES = (0.01, 0.003, 0.02, 0.001)

if __name__ == "__main__":
    sys.exit({"killed": killed, "pruned": pruned}[sys.argv[1]]())
