"""Scores of generated images, each between what real data and what a trivial generator get."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError, nearest
from aigc_jax.evals.drawing import CHUNK, Drawing
from aigc_jax.metrics.image import (
    Extractor,
    Features,
    Pass,
    Settings,
    all_scores,
    check,
    repeated,
)
from aigc_jax.metrics.moments import Moments


def make(
    context: Any,
    *,
    extractor: Literal["inception", "classifier", "run"] = "classifier",
    weights: str = "",
    weights_sha256: str = "",
    resize: Literal["tf1", "clean", "torch"] = "tf1",
    split: str = "validation",
    number: int = 10_000,
    scores: tuple[str, ...] = ("frechet", "kernel", "precision", "density"),
    every: int = 0,
    truncation: float = 0.0,
    standing: int = 0,
    seed: int = 0,
    floors: bool = True,
    title: str = "",
    kernel_subsets: int = 100,
    kernel_size: int = 1000,
    score_splits: int = 10,
    precision_k: int = 3,
    density_k: int = 5,
    infinity_points: int = 15,
    msssim_pairs: int = 1000,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that draws samples and holds them against as many real images.

    One pass of the extractor serves all scores. They are called "TITLE/fid", "TITLE/precision", ...
    with Inception; with another extractor the distances have its name ("TITLE/cfd" with a
    classifier) and never Inception's. All that they depend on goes to RUN/protocols.json; scores
    under different protocols are not compared. RUN/floors.json gets, for each score, what as many
    other real images get, and what noise and the mean image get.

    Args:
      context: what the wiring knows; reads `data`, `sample`, `knobs`, `functions`, `extractor`,
        `last_step`, `keep`, `add_floors`, `add_protocol` and `warn`.
      extractor: "inception" with published weights; "classifier" or "run", a network trained here.
      weights: a file for Inception, else a run folder.
      weights_sha256: what they must have; "" for the published ones, or any for a run.
      resize: how Inception's input is made; see `interop.resize`. A network trained here is shown
        images as they are.
      split: of the data, to compare with. number: samples, and real images.
      scores: some of "frechet", "infinity" (the distance for endlessly many samples), "kernel",
        "score", "precision" (and recall), "density" (and coverage), "msssim" (within the class that
        the extractor sees).
      every: steps between two evaluations, a multiple of run.eval_every; 0 for the last step only.
        The last step is always evaluated.
      truncation, standing: how samples are drawn; see `evals.drawing`.
      seed: of the samples and of the choice of real images.
      floors: whether real data, noise and the mean image are scored too; once per data set. It
        takes as many real images again, of this split or another one; where there are not so many,
        a warning says that this level is missing.
      title: what the scores stand under; "" for the extractor's kind.
      kernel_subsets, kernel_size: see `metrics.kernel`. score_splits: see `metrics.score`.
      precision_k, density_k: see `metrics.manifold`. infinity_points: see `metrics.frechet`.
      msssim_pairs: see `metrics.msssim`.

    Raises:
      UserError: before the run: a task that does not sample images, no such split or score, too few
        images for a score, a resizing for a network that has none, weights that are not there or
        not the right ones.
    """
    settings = Settings(
        tuple(scores), kernel_subsets, kernel_size, score_splits, precision_k, density_k,
        infinity_points, msssim_pairs,
    )  # fmt: skip
    if context.sample is None or context.data.spec.facts.get("unit") != "images":
        raise UserError("evals: 'image_quality' judges sampled images; this task samples none.")
    if every < 0 or number < 2:
        raise UserError(f"evals: every={every}, number={number}: expected 0 or more, 2 or more.")
    if extractor != "inception" and resize != "tf1":
        raise UserError(
            f"evals: resize='{resize}' is for extractor='inception'; '{extractor}' is shown images"
            " as they are. Leave resize out."
        )
    reals = Reals(context.data, split, number, seed)
    if floors and reals.others() is None:
        context.warn(
            f"evals: there are no {number} other real images, so the scores have no floor of real"
            f" ones; number={reals.most} would have."
        )
    found = context.extractor(
        {"kind": extractor, "weights": weights, "sha256": weights_sha256, "resize": resize}
    )
    drawing = Drawing(context, truncation, standing, seed)
    judge = Judge(context, found, settings, reals, title or extractor)
    judge.check()
    judge.note_protocols(drawing.protocol)

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        last = context.last_step is None or step >= context.last_step
        if not last and (not every or step % every):
            return {}
        values = judge.judge(judge.features(drawing.chunks(weights, number)))
        if floors:
            judge.add_floors()
        return values

    return evaluate


class Reals:
    """Real images of a split, chosen at random, and as many others to hold them against.

    Args:
      data: the run's. split: its name. number: images. seed: of the choice.

    Raises:
      UserError: no such split, or too few images in it.
    """

    def __init__(self, data: Any, split: str, number: int, seed: int) -> None:
        if split not in data.splits:
            known = list(data.splits)
            raise UserError(
                f"evals: the data has no split '{split}'; it has {', '.join(known)}."
                f"{nearest(split, known)}"
            )
        self.data, self.split, self.number, self.seed = data, split, number, seed
        sizes = data.spec.facts["examples"]
        if number > sizes[split]:
            raise UserError(
                f"evals: number={number} images, and '{split}' has {sizes[split]}; take fewer, or"
                " another split."
            )

    def chosen(self) -> Iterator[np.ndarray]:
        """Yields the images, float32 [n, H, W, C], in batches."""
        return self._rows(self.split, 0)

    @property
    def most(self) -> int:
        """How many images there may be, so that there are as many others."""
        sizes = dict(self.data.spec.facts["examples"])
        own = sizes.pop(self.split)
        return max(own // 2, min(own, max(sizes.values(), default=0)))

    def others(self) -> tuple[str, Iterator[np.ndarray]] | None:
        """Returns where as many other images are, and them; None where there are not so many."""
        sizes = self.data.spec.facts["examples"]
        if sizes[self.split] >= 2 * self.number:
            return self.split, self._rows(self.split, self.number)
        for split, size in sizes.items():
            if split != self.split and size >= self.number:
                return split, self._rows(split, 0)
        return None

    def _rows(self, split: str, begin: int) -> Iterator[np.ndarray]:
        part, size = self.data.splits[split], self.data.spec.facts["examples"][split]
        order = np.random.RandomState(self.seed).permutation(size)
        wanted = np.zeros(size, bool)
        wanted[order[begin : begin + self.number]] = True
        for i in range(part.batches):
            batch = part.batch(i, (0, 1))
            real = batch["mask"] > 0
            rows = batch["x"][real][wanted[batch["index"][real]]]
            if len(rows):
                yield rows


class Judge:
    """Scores of one extractor under one protocol.

    Args:
      context: see `make`. extractor, settings: what is measured and how. reals: against what.
      title: what the scores stand under.
    """

    def __init__(
        self, context: Any, extractor: Extractor, settings: Settings, reals: Reals, title: str
    ) -> None:
        self.context, self.extractor, self.settings = context, extractor, settings
        self.reals, self.title = reals, title

    def check(self) -> None:
        """Raises UserError where a score can't be computed."""
        shape = self.context.data.spec.facts["shape"]
        check(self.settings, self.extractor, self.reals.number, shape)

    def protocol(self, *wanted: str) -> dict[str, Any]:
        """What these scores depend on besides the generator."""
        own: dict[str, int] = {}
        for name in wanted:
            own |= self.settings.of(name)
        return {
            "extractor": {"kind": self.extractor.kind, **self.extractor.record},
            "data": self.context.data.fingerprint,
            "split": self.reals.split,
            "number": self.reals.number,
            "seed": self.reals.seed,
            **own,
        }

    def note_protocols(self, drawing: dict[str, float]) -> None:
        """Writes down what each score depends on, and how samples are drawn; before the run, since
        it may be refused.
        """
        for name, wanted in self._outputs.items():
            self.context.add_protocol(name, self.protocol(wanted) | drawing)

    def features(self, batches: Iterator[np.ndarray]) -> Features:
        """Goes over images once."""
        walk = Pass(self.settings, self.extractor)
        for x in batches:
            walk.add(x)
        return walk.done()

    @property
    def _outputs(self) -> dict[str, str]:
        named = self.settings.outputs(self.extractor.names)
        return {f"{self.title}/{name}": wanted for name, wanted in named.items()}

    def _key(self, what: str, *wanted: str) -> str:
        depends = [what, self.protocol(*wanted)]
        text = json.dumps(depends, sort_keys=True).encode()
        return f"{what.replace('/', '-')}-{hashlib.sha256(text).hexdigest()[:24]}"

    @functools.cached_property
    def real(self) -> Features:
        """The real images' features, from the cache where they are."""

        def arrays() -> dict[str, np.ndarray]:
            found = self.features(self.reals.chosen())
            made = {name: getattr(found, name) for name in ("features", "logits", "images")}
            if found.moments:
                made |= {"mean": found.moments.mean, "cov": found.moments.cov}
            return {name: value for name, value in made.items() if value is not None}

        # What is kept of an image depends on the scores, and not on their settings.
        held = "+".join(sorted(self.settings.needs()))
        kept, n = self.context.keep(self._key(f"real-{held}"), arrays), self.reals.number
        moments = Moments(n, kept["mean"], kept["cov"]) if "mean" in kept else None
        return Features(n, moments, kept.get("features"), kept.get("logits"), kept.get("images"))

    def judge(self, judged: Features) -> dict[str, float]:
        """Returns the scores of images by their features, named whole."""
        found = all_scores(judged, self.real, self.extractor.names, self.settings)
        return {f"{self.title}/{name}": value for name, value in found.items()}

    def add_floors(self) -> None:
        """Puts beside each score what real images and trivial generators get."""
        levels = functools.cache(self.levels)
        for name, wanted in self._outputs.items():
            if not name.endswith("_std"):
                self.context.add_floors(
                    name,
                    self._key(name, wanted),
                    lambda name=name: {label: found[name] for label, found in levels().items()},
                )

    def levels(self) -> dict[str, dict[str, float]]:
        """Returns what real images and trivial generators score: {label: scores}."""
        shape, n = self.context.data.spec.facts["shape"], self.reals.number
        found = {}
        if others := self.reals.others():
            split, batches = others
            found[f"real ({split})"] = self.judge(self.features(batches))
        draw = np.random.Generator(np.random.Philox(self.reals.seed))
        noise = (
            draw.uniform(-1, 1, (min(CHUNK, n - i), *shape)).astype(np.float32)
            for i in range(0, n, CHUNK)
        )
        found["noise"] = self.judge(self.features(noise))
        total = sum(x.sum(0, dtype=np.float64) for x in self.reals.chosen())
        mean = np.asarray(total / n, np.float32)[None]
        # Twice: a covariance needs two.
        one = self.features(iter([np.concatenate([mean, mean])]))
        found["mean image"] = self.judge(repeated(one, n))
        return found
