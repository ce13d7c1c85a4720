"""`aigc export RUN`: weights and programs of a run that are used without this package."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from aigc_jax import __version__
from aigc_jax.cli import wire
from aigc_jax.core import config
from aigc_jax.errors import UserError, nearest

KINDS = ("weights", "forward", "sample")


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a run's weights as safetensors and its programs as StableHLO",
        description="What it writes, and how it is used, is in docs/export.md.",
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--to", type=Path, metavar="DIR", help="(default: RUN/export)")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument(
        "--platforms", default="cpu,cuda,tpu", metavar="NAMES", help="(default: cpu,cuda,tpu)"
    )
    parser.add_argument(
        "--what", default="", metavar="KINDS",
        help=f"some of {','.join(KINDS)} (default: all that the family has)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports."""
    kinds = _kinds(args.what)
    folder = args.to or args.run_folder / "export"
    _refuse_taken(folder)
    from aigc_jax.interop import program

    on = program.platforms(args.platforms)
    done = wire.trained(args.run_folder, args.step)
    task, spec = done.parts.task, done.parts.data.spec
    named = program.flat(done.weights)
    name = done.parts.config["task"]["name"]
    programs: dict[str, Any] = {}
    for kind in kinds:
        if kind == "weights":
            continue
        traceable = (
            program.forward(task, done.weights, spec)
            if kind == "forward"
            else program.sampling(task, done.weights)
        )
        if traceable is None:
            lacks = "draws nothing" if kind == "sample" else "has no forward pass of its own"
            if args.what:
                raise UserError(
                    f"{args.run_folder}: --what={kind}: its task, {name}, {lacks}; leave it out."
                )
            print(f"no program '{kind}': the task {name} {lacks}")
            continue
        programs[kind] = program.export(traceable, named, on)
    files = _write(folder, args.run_folder, done, named if "weights" in kinds else {}, programs)
    print(f"{folder}: {', '.join(files)} of step {done.step}")
    return 0


def _kinds(words: str) -> tuple[str, ...]:
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in KINDS:
            raise UserError(
                f"--what={words}: no '{name}'; expected some of {', '.join(KINDS)}."
                f"{nearest(name, KINDS)}"
            )
    return tuple(kind for kind in KINDS if not names or kind in names)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        what = "a folder with files" if folder.is_dir() else "a file"
        raise UserError(f"{folder}: {what} stands there already; give another --to, or remove it.")


def _write(
    folder: Path, run_folder: Path, done: Any, named: dict[str, Any], programs: dict[str, Any]
) -> list[str]:
    """Writes everything beside its place first, so that what stands there is whole."""
    import jax

    from aigc_jax.interop import program, tensors
    from aigc_jax.train.storage import storage_errors

    half = folder.with_name(f".{folder.name}.half")
    manifest: dict[str, Any] = {
        "run": run_folder.resolve().name,
        "step": done.step,
        "task": done.parts.config["task"]["name"],
        "config_sha256": config.digest(done.parts.config),
        "data_sha256": done.parts.data.fingerprint,
        "averaged": sorted(done.state.ema),
        "versions": {"aigc_jax": __version__, "jax": jax.__version__},
        "programs": {},
    }
    with storage_errors(folder):
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        if named:
            arrays = program.host(named)
            manifest["weights"] = {
                "file": "weights.safetensors",
                "tensors": {n: f"{x.dtype}{list(x.shape)}" for n, x in sorted(arrays.items())},
            }
            notes = {name: str(manifest[name]) for name in ("run", "step", "config_sha256")}
            tensors.write_safetensors(half / "weights.safetensors", arrays, notes)
        for name, made in programs.items():
            (half / f"{name}.stablehlo").write_bytes(made.data)
            manifest["programs"][name] = {"file": f"{name}.stablehlo", **made.about}
        (half / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        if folder.exists():
            folder.rmdir()
        half.replace(folder)
    return sorted(path.name for path in folder.iterdir())
