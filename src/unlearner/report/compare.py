"""A comparison's files: `compare.json`, `.html`, `.md` and `.csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.evaluation.comparison import COLUMNS
from unlearner.report import svg
from unlearner.report.measures import measure
from unlearner.report.names import SETS
from unlearner.report.page import FOLDER
from unlearner.report.writing import duration, show, show_interval, significant, size, visible, when

# Of each column in few words: what of which set.
SHORT = {"forget": "forget", "retain": "kept", "holdout": "unseen"}

HEADINGS = (
    "model",
    "met",
    *(f"{measure(metric).label}, {SHORT[role]}" for role, metric in COLUMNS),
    "time",
    "rounds",
    "memory",
)

# In a terminal: without intervals, which the page has.
SHOWN = (
    ("forget", "ma"),
    ("forget", "el_10"),
    ("forget", "mia_loss_auc"),
    ("retain", "perplexity"),
)

NAMES = {"target": "target model", "retrained": "retrained model"}

NOTHING = "–"


def table_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The cells below `HEADINGS`, as text."""
    rows = [
        [NAMES[name], NOTHING, *_figures(figures), NOTHING, NOTHING, NOTHING]
        for name, figures in comparison["results"].items()
    ]
    total = len(comparison["seeds"])
    for name, entry in comparison["methods"].items():
        cost = entry["cost"]
        rows.append(
            [
                name + (" *" if entry["on_front"] else ""),
                f"{entry['met']} of {total}",
                *_figures(entry["summary"]),
                duration(cost["seconds_unlearning"]),
                f"{cost['rounds']:.3g}",
                size(cost["peak_memory_bytes"]),
            ]
        )
    return rows


def short_headings() -> list[str]:
    """The headings of `short_rows`."""
    names = (f"{measure(metric).label}, {SHORT[role]}" for role, metric in SHOWN)
    return ["model", "met", *names, "time"]


def short_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The cells for a terminal: the figures that decide, without intervals."""
    rows = [
        [NAMES[name], NOTHING, *_means(figures), NOTHING]
        for name, figures in comparison["results"].items()
    ]
    total = len(comparison["seeds"])
    for name, entry in comparison["methods"].items():
        rows.append(
            [
                name + (" *" if entry["on_front"] else ""),
                f"{entry['met']} of {total}",
                *_means(entry["summary"]),
                duration(entry["cost"]["seconds_unlearning"]),
            ]
        )
    return rows


def _means(figures: Mapping[str, Any]) -> Iterator[str]:
    for role, metric in SHOWN:
        value = figures.get(role, {}).get(metric)
        yield NOTHING if value is None else show(metric, value["value"])


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    for role, metric in COLUMNS:
        value = figures.get(role, {}).get(metric)
        if value is None:
            yield NOTHING
            continue
        interval = show_interval(metric, value["low"], value["high"])
        yield show(metric, value["value"]) + (f" ({interval})" if interval else "")


def markdown(comparison: Mapping[str, Any], lines: Sequence[str]) -> str:
    """`compare.md`: the table, and the same words as on the page."""
    cells = [list(HEADINGS), ["---"] * len(HEADINGS), *table_rows(comparison)]
    table = "\n".join("| " + " | ".join(_inert(cell) for cell in row) + " |" for row in cells)
    paragraphs = "\n\n".join(_inert(line) for line in lines)
    name = _inert(visible(comparison["model"]["name"]))
    return f"# Comparison of methods: {name}\n\n{paragraphs}\n\n{table}\n"


def _inert(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def as_csv(comparison: Mapping[str, Any]) -> str:
    """`compare.csv`: a line for each model, set and metric, of every seed and over all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("model", "seed", "set", "metric", "value", "low", "high", "records", "seeds"))
    for name, figures in comparison["results"].items():
        _write(writer, name, "", figures)
    for name, entry in comparison["methods"].items():
        _write(writer, name, "all", entry["summary"])
        for run in entry["seeds"]:
            _write(writer, name, str(run["seed"]), run["results"])
    return buffer.getvalue()


def _write(writer: Any, name: str, seed: str, figures: Mapping[str, Any]) -> None:
    for role in (*SETS, *(role for role in figures if role not in SETS)):
        for metric, value in figures.get(role, {}).items():
            row = (
                value["value"],
                value["low"],
                value["high"],
                value["records"],
                value.get("seeds", ""),
            )
            writer.writerow((name, seed, role, metric, *row))


# Colour is never the only sign: every method has a marker of its own as well.
MARKERS = "os^Dv<>pPX*hd8H"

# A logarithmic scale of less than so many times has no ticks of its own.
NARROW = 5.0

# Around the level of unseen text, in MA, on either side.
NEAR = 0.06

LEGEND: dict[str, Any] = {
    "loc": "center left",
    "bbox_to_anchor": (1.02, 0.5),
    "frameon": False,
    "labelcolor": svg.INK,
}


def pareto(comparison: Mapping[str, Any]) -> Markup:
    """Each method's mean: MA of the forget set from right to left, perplexity from top to bottom.

    Every seed is a small mark; filled where its verdict is met.
    """
    with svg.style():
        figure, axes = svg.canvas(height=4.4, width=6.6)
        _draw_all(axes, comparison, list(comparison["methods"]))
        axes.plot(
            [_ma(comparison["results"]["target"])],
            [1.0],
            marker="o",
            markersize=9,
            linestyle="",
            color=svg.BEFORE,
            markerfacecolor=svg.PAPER,
            label="target",
        )
        axes.legend(**LEGEND)
        axes.set_yscale("log")
        _plain_ticks(axes)
        return svg.inline(figure, "pareto", _pareto_words(comparison))


def pareto_near(comparison: Mapping[str, Any]) -> Markup | None:
    """The same around the most damage allowed and the level; None where the first shows it well.

    Only methods whose mean lies there are drawn.
    """
    picture = comparison["picture"]
    allowed = picture["floor"] / picture["target"] - 1
    near = {
        name: (x, y)
        for name, (x, y) in _places(comparison).items()
        if y <= 1 + 1.25 * allowed and x <= picture["level"] + NEAR
    }
    if not near or not any(y > 1 + 2 * allowed for _, y in _places(comparison).values()):
        return None  # one without a number is in no picture
    with svg.style():
        figure, axes = svg.canvas(height=4.4, width=6.6)
        _draw_all(axes, comparison, list(near))
        lowest = min(1.0, *(y for _, y in near.values()))
        axes.set_ylim(lowest - 0.25 * allowed, 1 + 1.25 * allowed)
        axes.set_xlim(min(x for x, _ in near.values()) - NEAR, picture["level"] + NEAR)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 3)))
        axes.legend(**LEGEND)
        words = f"Forgetting against damage, near the level: {', '.join(near)}."
        return svg.inline(figure, "pareto-near", words)


def _draw_all(axes: Any, comparison: Mapping[str, Any], names: Sequence[str]) -> None:
    """Methods, limits, and the models beside them."""
    picture = comparison["picture"]
    axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
    axes.axvline(picture["level"], color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)
    ratio = picture["floor"] / picture["target"]
    axes.axhline(ratio, color=svg.LIMIT, linestyle=(0, (1, 2)), linewidth=1.2)
    for number, (name, entry) in enumerate(comparison["methods"].items()):
        if name in names:
            _draw(axes, number, name, entry, picture)
    retrained = comparison["results"].get("retrained")
    if retrained:
        axes.plot(
            [_ma(retrained)],
            [_ratio(retrained, picture)],
            marker="D",
            markersize=9,
            color=svg.RETRAINED,
            linestyle="",
            label="retrained",
        )
    axes.set_xlabel("MA of the records to be forgotten (dashed: text never seen)")
    axes.set_ylabel("Perplexity of kept text, times the target's\n(dotted: the most allowed)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show("ma", value, 2)))


def _draw(axes: Any, number: int, name: str, entry: Mapping[str, Any], picture: Any) -> None:
    colour, marker = svg.CLASSES[number % len(svg.CLASSES)], MARKERS[number % len(MARKERS)]
    points = [
        (_ma(run["results"]), _ratio(run["results"], picture), run["status"] == "met")
        for run in entry["seeds"]
    ]
    for x, y, met in points:
        axes.plot(
            [x],
            [y],
            marker=marker,
            color=colour,
            markersize=3.5,
            linestyle="",
            markerfacecolor=colour if met else svg.PAPER,
        )
    x, y = (sum(point[i] for point in points) / len(points) for i in (0, 1))
    met = entry["met"] == len(points) and not entry["diverged"]
    axes.plot(
        [x],
        [y],
        marker=marker,
        color=colour,
        markersize=8,
        linestyle="",
        markerfacecolor=colour if met else svg.PAPER,
        label=name + (" *" if entry["on_front"] else ""),
    )


def _plain_ticks(axes: Any) -> None:
    low, high = axes.get_ylim()
    wide = high > NARROW * low
    axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)) if wide else MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 3)))
    axes.yaxis.set_minor_locator(NullLocator())


def _pareto_words(comparison: Mapping[str, Any]) -> str:
    told = []
    for name, (remembered, ratio) in _places(comparison).items():
        times = f"times {significant(ratio)}" if isfinite(ratio) else "beyond any number"
        told.append(f"{name}: MA {show('ma', remembered)}, perplexity {times}")
    return "Forgetting against damage. " + "; ".join(told) + "."


def _places(comparison: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    picture = comparison["picture"]
    found = {}
    for name, entry in comparison["methods"].items():
        found[name] = (_ma(entry["summary"]), _ratio(entry["summary"], picture))
    return found


def strengths(comparison: Mapping[str, Any]) -> Markup:
    """MA of the forget set and perplexity of kept text along each method's path."""
    picture = comparison["picture"]
    with svg.style():
        figure, axes = svg.canvas(height=4.0, width=6.6)
        axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
        for number, (name, entry) in enumerate(comparison["methods"].items()):
            points = entry["strength"]["points"]
            start = _ma(comparison["results"]["target"])
            colour = svg.CLASSES[number % len(svg.CLASSES)]
            axes.plot(
                [start, *(point["ma"] for point in points)],
                [1.0, *(_number(point["kept_ratio"]) for point in points)],
                color=colour,
                marker=MARKERS[number % len(MARKERS)],
                markersize=3.5,
                linewidth=1.2,
                label=name,
            )
        axes.axvline(picture["level"], color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.axhline(
            picture["floor"] / picture["target"],
            color=svg.LIMIT,
            linestyle=(0, (1, 2)),
            linewidth=1.2,
        )
        axes.set_yscale("log")
        axes.set_xlabel("MA of the records to be forgotten")
        axes.set_ylabel("Perplexity of kept text, times the target's")
        _plain_ticks(axes)
        axes.legend(**LEGEND)
        words = "Each method from the target model to its own result, a share of the way at a time."
        return svg.inline(figure, "strength", words)


def _ma(results: Mapping[str, Any]) -> float:
    return results["forget"]["ma"]["value"]


def _ratio(results: Mapping[str, Any], picture: Mapping[str, Any]) -> float:
    """Perplexity as a multiple of the target's; NaN, which is not drawn, where it is infinite."""
    return _number(results[picture["set"]].get("perplexity", {}).get("value")) / picture["target"]


def _number(value: float | None) -> float:
    return nan if value is None else value


def write_comparison(comparison: Mapping[str, Any], folder: Path) -> None:
    """Write all four into an existing folder. The same comparison gives the same bytes.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    lines = in_words(comparison)
    files = {
        "compare.json": json.dumps(comparison, indent=1, allow_nan=False) + "\n",
        "compare.html": render(comparison, lines),
        "compare.md": markdown(comparison, [*lines, *not_run(comparison)]),
        "compare.csv": as_csv(comparison),
    }
    for name, content in files.items():
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(folder / name)


def render(comparison: Mapping[str, Any], lines: list[str]) -> str:
    """The page as HTML, which needs nothing but itself; every text in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join(
        (FOLDER / name).read_text(encoding="utf-8")
        for name in ("style.css", "classifier.css", "compare.css")
    )
    page = environment.get_template("compare.html.j2")
    return (
        page.render(
            style=Markup(style),
            model=visible(comparison["model"]["name"]),
            created=when(comparison["created"]),
            request_id=visible(comparison["request"]["id"]),
            lines=lines,
            headings=HEADINGS,
            rows=table_rows(comparison),
            pareto=pareto(comparison),
            near=pareto_near(comparison),
            strengths=strengths(comparison),
            at_the_floor=_at_the_floor(comparison),
            settings=_settings(comparison),
            trials=_trials(comparison),
            not_run=not_run(comparison),
        )
        + "\n"
    )


def not_run(comparison: Mapping[str, Any]) -> list[str]:
    """A line for each method, and each seed of one, of which there is no model."""
    lines = [f"{name} was not run: {visible(why)}" for name, why in comparison["not_run"].items()]
    for name, entry in comparison["methods"].items():
        lines += [
            f"{name} gave no model with seed {one['seed']}, and the figures are those of the "
            f"others: {visible(one['reason'])}"
            for one in entry["diverged"]
        ]
    return lines


def in_words(comparison: Mapping[str, Any]) -> list[str]:
    """What was compared, how, and who is on the front, a paragraph each."""
    seeds, methods = comparison["seeds"], comparison["methods"]
    searched = any(entry["search"] for entry in methods.values())
    best = [name for name, entry in methods.items() if entry["on_front"]]
    met = [name for name, entry in methods.items() if entry["met"] == len(seeds)]
    interval = "the range over the seeds" if len(seeds) > 1 else "a 95 % interval over records"
    limits = "; ".join(
        f"{one['metric']} of {one['set']} at most {significant(one['at_most'])}"
        for one in comparison["criteria"]
    )
    settings = (
        "Each method has the settings that a search found for it with the first seed: the least "
        "damaging ones that reached the criteria, or else those that came nearest."
        if searched
        else "Each method has the settings that were given, or its defaults."
    )
    return [
        f"{len(methods)} methods were to make the same model forget the same "
        f"{comparison['request']['records']} records, by the same criteria, fixed before any of "
        f"them ran: {limits}. Below each mean stands {interval} "
        f"({len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}).",
        settings,
        f"Every criterion met with every seed: {', '.join(met) if met else 'by no method'}.",
        f"On the front (*), where no other method leaves less and damages less: "
        f"{', '.join(best) or 'none'}. Below the level of unseen text less MA does not count as "
        "better, nor does a perplexity of kept text below the target's.",
        "Times are by the clock, without the search, of runs that may have shared the machine."
        + (" The first seed is the one that the search saw." if searched else ""),
        "These are figures of this model and these records. Met means suppressed on the tests "
        "run; it is no proof that a model forgot.",
    ]


def _at_the_floor(comparison: Mapping[str, Any]) -> list[list[str]]:
    """What each method has to offer at the same utility: the furthest point under the floor."""
    rows = []
    for name, entry in comparison["methods"].items():
        point = entry["strength"]["at_the_floor"]
        if point is None:
            rows.append([name, NOTHING, NOTHING, NOTHING])
            continue
        rows.append(
            [
                name,
                f"{point['share']:.3g}",
                show("ma", point["ma"]),
                significant(point["kept_ratio"]),
            ]
        )
    return rows


def _settings(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            name,
            ", ".join(
                f"{key} {_setting(value)}"
                for key, value in entry["settings"].items()
                if key != "name" and value not in (None, "")
            ),
        )
        for name, entry in comparison["methods"].items()
    ]


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else visible(str(value))


def _trials(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Every trial of every search."""
    rows = []
    for name, entry in comparison["methods"].items():
        search = entry["search"]
        for trial in search["trials"] if search else ():
            chosen = " (taken)" if trial["number"] == search["chosen"] else ""
            settings = ", ".join(
                f"{key} {_setting(value)}" for key, value in trial["settings"].items()
            )
            ratio = trial["kept_ratio"]
            rows.append(
                [
                    name,
                    f"{trial['number']}{chosen}",
                    settings,
                    trial["status"],
                    NOTHING if trial["ma"] is None else show("ma", trial["ma"]),
                    NOTHING if ratio is None else significant(ratio),
                    str(trial["rounds"]),
                    duration(trial["seconds"]),
                ]
            )
    return rows
