"""`aigc report`: a run as one HTML file that asks nothing of any server."""

import importlib.resources
import json
import math
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from aigc_jax.core.units import LOOP_METRICS, clock, figure, human
from aigc_jax.errors import UserError
from aigc_jax.report import compiles, evals
from aigc_jax.report.compare import differences, show
from aigc_jax.report.curve import quantile, smooth
from aigc_jax.report.folder import Run, Sample
from aigc_jax.report.status import command
from aigc_jax.report.svg import Line, chart, scale

_LONG = 3000  # characters of one sample that the page shows
_PICTURES = 4  # of each name, the first and the last among them
_SHOWN = 6  # samples on the page, the first and the last among them
_STYLES = ("train", "validation", "third", "fourth")
_KNOWN = {  # a small chart's heading, y-axis, and whether that starts at 0
    "lr": ("Learning rate", "learning rate", True),
    "grad_norm": ("Gradient norm", "global norm", True),
    "speed/mfu": ("Model FLOPs utilization (MFU)", "share of the peak", True),
    "update": ("Size of the updates", "update / parameter", True),
    "bits_per_byte": ("Bits per byte", "bits per byte", False),
}
_RANK = {name: i for i, name in enumerate(dict.fromkeys(("bits_per_byte", "perplexity", *_KNOWN)))}

T = TypeVar("T")


class Chart(NamedTuple):
    """A chart with its heading and a remark under it ("" for none)."""

    title: str
    svg: str
    note: str = ""


def render(run: Run) -> str:
    """Returns the report of a run, finished or not, as one self-contained HTML page.

    Raises:
      UserError: one of the run's files holds no valid JSON.
    """
    changed, everything = settings(run)
    return page(
        "report.html.j2",
        name=run.name,
        state=run.state,
        reason=run.status.get("reason") if run.state != "finished" else None,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=headline(run),
        facts=facts(run),
        main=curves(run),
        small=small_charts(run),
        times=time_shares(run),
        table=score_table(run),
        judged=[
            (one, evals.scores(run, one), evals.protocols(one.protocols)) for one in run.evaluations
        ],
        judged_head=evals.HEAD,
        samples=chosen_samples(run),
        sample_count=len(run.samples),
        pictures=chosen_pictures(run),
        changed=changed,
        config=everything,
        environment=environment(run),
        long_environment=long_texts(run.env),
        starts=starts(run),
        compiled=compiles.summary(run),
        programs=compiles.dearest(run),
        command=command(run),
        fingerprint=run.fingerprint,
    )


def page(template: str, **fields: Any) -> str:
    """Fills a template of this folder; what it includes, such as the style, becomes part of it."""
    import jinja2

    def read(name: str) -> str:
        return importlib.resources.files("aigc_jax.report").joinpath(name).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template(template).render(**fields)


def unit_of(run: Run, metric: str) -> str:
    """Returns the unit of a metric, "" where it has none or it isn't known."""
    last = metric.rsplit("/", 1)[-1]
    facts_ = run.data.get("facts", run.data)
    unit = facts_.get("unit", "") if isinstance(facts_, dict) else ""
    if last == "loss" and unit:
        return f"nats per {str(unit).removesuffix('s')}"
    if last == "bits_per_byte":
        return "bits per byte"
    return "seconds" if metric.startswith("time/") else ""


def title_of(metric: str) -> str:
    """Returns a metric's name in words: "Validation bits per byte"."""
    words = metric.replace("/", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def headline(run: Run) -> dict[str, Any] | None:
    """The result in one number, and the ruler between its floors and its ceiling."""
    metric = run.headline
    last = run.last(metric) if metric else None
    if not metric or not last:
        return None
    better = "higher" if run.higher_is_better(metric) else "lower"
    best = run.best(metric)
    levels = run.floors.get(metric, {})
    rulers = [
        scale(last[1], levels, name="this run", better=better, width=width) for width in (860, 400)
    ]
    return {
        "title": title_of(metric),
        "value": figure(last[1]),
        "unit": unit_of(run, metric),
        "step": last[0],
        "better": better,
        "best": f"{figure(best[1])} at step {best[0]}" if best and best[0] != last[0] else "",
        "rulers": rulers if levels else [],
    }


def facts(run: Run) -> list[tuple[str, str]]:
    """Short facts under the headline: (what, how much)."""
    found = [("steps", f"{run.step} of {run.steps}" if run.steps else str(run.step))]
    if run.wall is not None:
        found.append(("training time", clock(run.wall)))
    for metric in run.metrics:
        if metric.startswith("speed/") and metric.endswith("_per_s"):
            middle = quantile(run.series(metric).values, 0.5)
            found.append((speed_name(metric), human(middle)))
    mfu = quantile(run.series("speed/mfu").values, 0.5)
    if math.isfinite(mfu):
        found.append(("of the peak (MFU)", f"{100 * mfu:.1f} %"))
    parameters = run.env.get("parameters") or run.status.get("parameters")
    if isinstance(parameters, int):
        found.append(("parameters", human(parameters)))
    return found


def speed_name(metric: str) -> str:
    """Returns what is counted and per what: "tokens/s" for "speed/tokens_per_s"."""
    return metric.removeprefix("speed/").replace("_per_s", "/s").replace("_", " ")


def main_lines(run: Run, metric: str) -> list[Line]:
    """Returns the curves of a metric and of its twins on other splits, training first.

    A long training curve comes twice: pale as it was measured, and smoothed.
    """
    ending = metric.rsplit("/", 1)[-1]
    training = f"train/{ending}"
    twins = [n for n in run.metrics if n.rsplit("/", 1)[-1] == ending and n != training]
    lines = []
    steps, values = run.series(training)
    if len(values) > 60:
        lines.append(Line(steps, values, "", "train pale"))
        values = smooth(values)
    if values:
        lines.append(Line(steps, values, "train", "train"))
    for number, name in enumerate(sorted(twins, key=lambda n: n != metric)):
        steps, values = run.series(name)
        style = ("validation", "third", "fourth")[min(number, 2)]
        lines.append(Line(steps, values, name.split("/")[0], style, dots=len(steps) <= 40))
    return lines


def axis_label(run: Run, metric: str) -> str:
    """Returns a metric's last word with its unit: "loss (nats per token)"."""
    word = metric.rsplit("/", 1)[-1].replace("_", " ")
    unit = unit_of(run, metric)
    return word if unit in ("", word) else f"{word} ({unit})"


def curves(run: Run) -> list[str]:
    """The main chart, wide and narrow: the headline metric with its twin from training."""
    metric = run.headline
    if not metric:
        return []
    return [
        chart(
            main_lines(run, metric),
            title=title_of(metric),
            x_label="step",
            y_label=axis_label(run, metric),
            levels=run.floors.get(metric),
            width=width,
            height=height,
        )
        for width, height in ((860, 400), (400, 330))
    ]


def small_charts(run: Run) -> list[Chart]:
    """Learning rate, gradient norm, throughput, and every other metric that was measured."""
    metrics = [n for n in run.metrics if not n.startswith("time/") and not _says_nothing(run, n)]
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(_panel(metric), []).append(metric)
    if run.headline:
        groups.pop(_panel(run.headline), None)
    order = sorted(groups, key=lambda name: (_RANK.get(name, len(_RANK)), name))
    return [_small_chart(run, name, groups[name]) for name in order]


def _says_nothing(run: Run, metric: str) -> bool:
    """Whether a metric of the loop is 0 throughout, or the training loss under another name."""
    values = run.series(metric).values
    if not metric.startswith("train/") or metric == "train/loss":
        return False
    return not any(values) or values == run.series("train/loss").values


def _panel(metric: str) -> str:
    """Names the chart of a metric: one for all splits, one for all parts of "train/update/x"."""
    words = metric.split("/")
    if metric.startswith("speed/"):
        return metric
    return "/".join(words[1:-1]) if len(words) > 2 else words[-1]


def _small_chart(run: Run, panel: str, metrics: list[str]) -> Chart:
    first = metrics[0]
    title, label, zero = _KNOWN.get(panel, (title_of(panel), axis_label(run, first), False))
    if panel.startswith("speed/") and panel not in _KNOWN:
        title, label, zero = f"Speed: {speed_name(panel)}", speed_name(panel), True
    series = {name: run.series(name) for name in metrics}
    values = [value for item in series.values() for value in item.values]
    if len(first.split("/")) > 2:
        label = label if panel in _KNOWN else panel
        lines = [
            Line(*item, name.rsplit("/", 1)[-1], _STYLES[min(i, 3)])
            for i, (name, item) in enumerate(series.items())
        ]
    elif len(metrics) > 1:
        lines = main_lines(run, first)
    else:
        style = "train" if first.startswith(LOOP_METRICS) else "validation"
        steps, ys = series[first]
        lines = [Line(steps, ys, "", style, dots=len(steps) <= 20)]
    svg = chart(lines, title=title, x_label="step", y_label=label, from_zero=zero)
    return Chart(title, svg, _remark(values))


def _remark(values: list[float]) -> str:
    """Says what the frame of a chart doesn't show: cut peaks and values that are no numbers."""
    finite = [v for v in values if math.isfinite(v)]
    words = []
    if finite and max(finite) > 1.5 * quantile(finite, 0.995) > 0:
        words.append(f"Highest value {figure(max(finite))}, outside the frame.")
    if len(finite) < len(values):
        words.append(f"{len(values) - len(finite)} values were nan or infinite.")
    return " ".join(words)


def time_shares(run: Run) -> list[tuple[str, float, str]]:
    """Where a step's time went: (part, percent, in words), the largest first.

    "time/step" is the whole step; what its named parts leave of it is "other".
    """
    sums = {
        name.removeprefix("time/").replace("_", " "): sum(
            v for v in run.series(name).values if math.isfinite(v) and v > 0
        )
        for name in run.metrics
        if name.startswith("time/")
    }
    whole = sums.pop("step", 0.0)
    if whole > sum(sums.values()):
        sums["other"] = whole - sum(sums.values())
    total = sum(sums.values())
    if not total:
        return []
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [(name, 100 * spent / total, f"{100 * spent / total:.1f} %") for name, spent in ordered]


def score_table(run: Run) -> list[tuple[str, str, str, str, str]]:
    """Every evaluation metric: (name, final, best with its step, floors and ceilings, unit)."""
    rows = []
    for metric in run.metrics:
        last = run.last(metric)
        if metric.startswith(LOOP_METRICS) or not last:
            continue
        best = run.best(metric)
        found = f"{figure(best[1])} (step {best[0]})" if best else "–"
        beside = "; ".join(f"{k} {figure(v)}" for k, v in run.floors.get(metric, {}).items())
        rows.append((title_of(metric), figure(last[1]), found, beside, unit_of(run, metric)))
    return rows


def _spaced(items: list[T], most: int) -> list[T]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    last = len(items) - 1
    return [items[i] for i in sorted({round(i * last / (most - 1)) for i in range(most)})]


def chosen_samples(run: Run) -> list[tuple[Sample, bool]]:
    """At most six samples from the first to the last, each with whether it was cut."""
    chosen = _spaced(run.samples, _SHOWN)
    return [(Sample(s.step, s.text[:_LONG]), len(s.text) > _LONG) for s in chosen]


def chosen_pictures(run: Run) -> list[tuple[str, list[tuple[int, str]]]]:
    """At most four pictures of each name as (step, data: address), so that the page is one file."""
    return [
        (
            name.replace("_", " "),
            [
                (one.step, "data:image/png;base64," + b64encode(one.path.read_bytes()).decode())
                for one in _spaced(found, _PICTURES)
            ],
        )
        for name, found in run.pictures.items()
    ]


def settings(run: Run) -> tuple[list[tuple[str, str, str]], str]:
    """Returns what differs from the defaults as (path, value, default), and the whole config."""
    whole = json.dumps(run.config, indent=2, ensure_ascii=False)
    if not run.config:
        return [], whole
    from aigc_jax.core.config import ABSENT, fill

    try:
        defaults = fill(_names_only(run.config))
    except UserError:  # written by another version of the code: no default can be told
        return [], whole
    rows = [
        (path, show(value), show(default))
        for path, (default, value) in differences([defaults, run.config]).items()
        if value is not ABSENT and value != {}
    ]
    return rows, whole


def _names_only(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of a config only what says which modules it is made of."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            inner = _names_only(value)
            if inner:
                found[key] = inner
        elif key == "name":
            found[key] = value
    return found


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Returns {dotted path: text} of nested dicts."""
    if isinstance(value, Mapping):
        rows: dict[str, str] = {}
        for key, item in value.items():
            rows |= flat(item, f"{path}.{key}" if path else str(key))
        return rows
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return {path: " ".join(value)}
    return {path: value if isinstance(value, str) else json.dumps(value)}


def environment(run: Run) -> list[tuple[str, str]]:
    """Returns what the run ran on, as (name, short text); `long_texts` has the rest."""
    return [(key, text) for key, text in flat(run.env).items() if not _is_long(text)]


def long_texts(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns texts of several lines, like the uncommitted changes."""
    return [(key, text) for key, text in flat(env).items() if _is_long(text)]


def _is_long(text: str) -> bool:
    return "\n" in text.strip() or len(text) > 400


def starts(run: Run) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the list of starts that status.json holds."""
    found = run.status.get("starts", [])
    rows = [flat(start) for start in found if isinstance(start, Mapping)]
    head = list(dict.fromkeys(key for row in rows for key in row))
    return head, [[row.get(key, "") for key in head] for row in rows]
