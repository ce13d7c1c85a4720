"""Which modes of data whose modes are known a generator reaches, beside the data's own figures."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError
from aigc_jax.evals.drawing import Drawing
from aigc_jax.evals.image_quality import Reals
from aigc_jax.metrics.modes import Modes, counted_modes, gaussian_modes


def make(
    context: Any,
    *,
    number: int = 2500,
    split: str = "validation",
    classifier: str = "",
    weights_sha256: str = "",
    every: int = 0,
    truncation: float = 0.0,
    standing: int = 0,
    seed: int = 0,
    title: str = "modes",
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that counts the modes of samples.

    For points of a mixture whose centers are known (facts `centres` [K, D] and `sigma`):
    "TITLE/found" modes of K with a sample within 3 sigma, "TITLE/covered" those with so many of
    these as a fifth of an even share of all samples, "TITLE/quality" the share within 3 sigma,
    "TITLE/reverse_kl" in nats.
    For images: a trained classifier names the class of each channel; the modes are all combinations
    (1,000 for three stacked digits, the classes themselves for gray images), and there is no
    "TITLE/quality". RUN/floors.json gets what real data have, and what noise has. A run that falls
    below half of the covered modes that it had reached is told so, in one line.

    Args:
      context: what the wiring knows; reads `data`, `sample`, `knobs`, `functions`, `extractor`,
        `last_step`, `add_floors`, `add_protocol`, `history` and `warn`.
      number: samples, and real rows.
      split: whose rows are counted as the real ones.
      classifier: run folder of the classifier of one channel; images only.
      weights_sha256: what its weights must have; "" for any.
      every: steps between two evaluations, 1 for each that `run.eval_every` makes; 0 for the last
        step only, which always is one.
      truncation, standing: how samples are drawn; see `evals.drawing`.
      seed: of the samples. title: what the metrics stand under.

    Raises:
      UserError: a task that does not sample, data without known modes, no classifier for images,
        or a number of samples that the split does not have.
    """
    if context.sample is None:
        raise UserError("evals: 'modes' judges samples; this task draws none.")
    if every < 0 or number < 1:
        raise UserError(f"evals: every={every}, number={number}: expected 0 or more, 1 or more.")
    facts = context.data.spec.facts
    reals = Reals(context.data, split, number, seed)
    drawing = Drawing(context, truncation, standing, seed)
    if facts.get("unit") == "points":
        judge, count, protocol = _points(facts)
    else:
        judge, count, protocol = _images(context, classifier, weights_sha256)
    protocol |= {"data": context.data.fingerprint, "split": split, "number": number, "seed": seed}

    def named(found: Modes) -> dict[str, float]:
        values = {name: v for name, v in found._asdict().items() if v is not None}
        return {f"{title}/{name}": value for name, value in values.items()}

    names = [*Modes._fields]
    if facts.get("unit") != "points":
        names.remove("quality")
    for name in names:  # before the run, since it may be refused
        context.add_protocol(f"{title}/{name}", protocol | drawing.protocol)

    @functools.cache
    def levels() -> dict[str, dict[str, float]]:
        noise = _noise(facts, number, seed)
        return {f"real ({split})": named(judge(reals.chosen())), "noise": named(judge(noise))}

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        last = context.last_step is None or step >= context.last_step
        if not last and (not every or step % every):
            return {}
        values = named(judge(drawing.chunks(weights, number)))
        before, now = context.history(f"{title}/covered"), values[f"{title}/covered"]
        if before and now < max(before) / 2 <= before[-1]:
            context.warn(
                f"{title}/covered: {now} of {count} modes at step {step}, less than half of the"
                f" {max(before):.0f} that this run had reached: its samples collapse."
            )
        text = json.dumps(protocol, sort_keys=True).encode()
        for name in values:
            key = f"{name.replace('/', '-')}-{hashlib.sha256(text).hexdigest()[:24]}"
            context.add_floors(
                name, key, lambda name=name: {label: v[name] for label, v in levels().items()}
            )
        return values

    return evaluate


Judge = Callable[[Iterator[np.ndarray]], Modes]


def _points(facts: Any) -> tuple[Judge, int, dict[str, Any]]:
    """What judges samples of a mixture of Gaussians, how many modes it has, and the protocol."""
    if "centres" not in facts or "sigma" not in facts:
        raise UserError("evals: 'modes' needs data that knows its centres and sigma; these don't.")
    centers_KD, sigma = np.asarray(facts["centres"], np.float64), float(facts["sigma"])

    def judge(batches: Iterator[np.ndarray]) -> Modes:
        return gaussian_modes(np.concatenate(list(batches)), centers_KD, sigma)

    return judge, len(centers_KD), {"centers": len(centers_KD), "sigma": sigma}


def _images(context: Any, classifier: str, sha256: str) -> tuple[Judge, int, dict[str, Any]]:
    """The same, of what a classifier sees in each channel."""
    if not classifier:
        raise UserError(
            "evals: 'modes' of images needs a classifier of one channel: train one by"
            " configs/classifier/mnist.py and give its run folder as classifier=."
        )
    shape = context.data.spec.facts["shape"]
    extractor = context.extractor(
        {"kind": "classifier", "weights": classifier, "sha256": sha256, "resize": "none"}
    )
    extractor.check((*shape[:2], 1))
    classes, channels = extractor.classes, shape[2]

    def judge(batches: Iterator[np.ndarray]) -> Modes:
        named = []
        for x in batches:
            mode = np.zeros(len(x), np.int64)
            for c in range(channels):
                mode = classes * mode + extractor.extract(x[..., c : c + 1])[1].argmax(1)
            named.append(mode)
        return counted_modes(np.concatenate(named), classes**channels)

    record = {"kind": extractor.kind, **extractor.record}
    return judge, classes**channels, {"extractor": record}


def _noise(facts: Any, number: int, seed: int) -> Iterator[np.ndarray]:
    """Even noise: over the box that holds all centers and their clouds, or over all pixels."""
    draw = np.random.Generator(np.random.Philox(seed))
    low: Any = -1.0
    high: Any = 1.0
    if facts["unit"] == "points":
        centers, reach = np.asarray(facts["centres"]), 3.0 * facts["sigma"]
        low, high = centers.min(0) - reach, centers.max(0) + reach
    for begin in range(0, number, 1000):
        size = (min(1000, number - begin), *facts["shape"])
        yield draw.uniform(low, high, size).astype(np.float32)
