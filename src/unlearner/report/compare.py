"""A comparison's files: `compare.json`, `.html`, `.md` and `.csv`."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.evaluation.comparison import COLUMNS, label_columns
from unlearner.report import svg
from unlearner.report.facts import SETS, Report
from unlearner.report.measures import DISTANCE, measure
from unlearner.report.plots import number
from unlearner.report.tables import settings_text, trial_figures, trial_rows
from unlearner.report.tasks import change_words, draw_changes, leading_metric
from unlearner.report.writing import (
    NOTHING,
    duration,
    html_page,
    list_items,
    macros,
    show,
    show_interval,
    significant,
    size,
    visible,
    write_files,
)
from unlearner.settings import further_kind

# In a terminal: the figures that decide, without intervals, which the page has.
SHORT_COLUMNS = (
    ("forget", "ma"),
    ("forget", "el_10"),
    ("forget", "mia_loss_auc"),
    ("retain", "perplexity"),
)

MARK = "Mark classifier (AUC), forget"

# Of each column in few words: what of which set.
SHORT = {"forget": "forget", "retain": "kept", "holdout": "unseen", "test": "test"}

NAMES = {
    "original": "original model",
    "target": "target model",
    "retrained": "retrained model",
}

# Colour is never the only sign: every method has a marker of its own as well.
METHOD_MARKERS = "os^Dv<>pPX*hd8H"

# A logarithmic scale of less than so many times has no ticks of its own.
NARROW = 5.0

# Around the MA of unseen text, on either side.
NEAR = 0.06

# Of language models and of classifiers: what the axes of the pictures are.
X_AXIS = {
    True: "MA of the records to be forgotten (dashed: text never seen)",
    False: "Score of the records to be forgotten (dashed: where it is to come to)",
}

Y_AXIS = {
    True: "Perplexity of kept text, times the target's\n(dotted: the most allowed)",
    False: "Loss of the score of retained records\n(dotted: the most allowed)",
}

PICTURE = {"height": 4.4, "width": 6.6}  # inches

LEGEND: svg.Style = {
    "loc": "center left",
    "bbox_to_anchor": (1.02, 0.5),
    "frameon": False,
    "labelcolor": svg.INK,
}


def write_comparison(comparison: Report, folder: Path) -> None:
    """Write all four into an existing folder. The same comparison gives the same bytes.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    files = {
        "compare.json": json.dumps(comparison, indent=1, allow_nan=False) + "\n",
        "compare.html": render_comparison(comparison),
        "compare.md": markdown_comparison(comparison),
        "compare.csv": as_csv(comparison),
    }
    write_files(folder, files)


def render_comparison(comparison: Report) -> str:
    """The page as HTML, which needs nothing but itself; every text in it is escaped."""
    return html_page(
        "compare.html.j2",
        ("style.css", "classifier.css", "compare.css"),
        comparison=comparison,
        lines=paragraphs(comparison),
        texts=_texts(comparison),
        headings=headings(comparison),
        rows=comparison_rows(comparison),
        pareto=pareto(comparison),
        near=pareto_near(comparison),
        strengths=strengths(comparison),
        trial_rows=trial_rows,
        trial_titles=_trial_titles(comparison),
        settings_text=settings_text,
        task_headings=other_headings(comparison),
        task_rows=other_rows(comparison),
        task_picture=other_picture(comparison),
        not_run=not_run(comparison),
    )


def markdown_comparison(comparison: Report) -> str:
    """`compare.md`: the table, and the same words as on the page."""
    titles = headings(comparison)
    cells = [titles, ["---"] * len(titles), *comparison_rows(comparison)]
    table = "\n".join(f"| {' | '.join(map(_inert_cell, row))} |" for row in cells)
    lines = [*paragraphs(comparison), *not_run(comparison)]
    name = _inert_cell(visible(comparison["model"]["name"]))
    words = "\n\n".join(map(_inert_cell, lines))
    return f"# Comparison of methods: {name}\n\n{words}\n\n{table}\n"


def _inert_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def paragraphs(comparison: Report) -> list[str]:
    """What was compared, how, and who is on the front, a paragraph each."""
    methods, seeds = comparison["methods"], comparison["seeds"]
    text = macros(
        "compare.j2",
        comparison=comparison,
        texts=_texts(comparison),
        marked=_marked(comparison),
        relearnt=next(filter(None, _relearnings(comparison)), None),
        on_front=[name for name, entry in methods.items() if entry["on_front"]],
        met=[name for name, entry in methods.items() if entry["met"] == len(seeds)],
    )
    return list_items(text["paragraphs"]())


def not_run(comparison: Report) -> list[str]:
    """A line for each method, and each seed of one, of which there is no model."""
    return list_items(macros("compare.j2", comparison=comparison)["not_run"]())


# Tables


def _texts(comparison: Report) -> bool:
    """Whether language models were compared."""
    return comparison["model"]["family"] == "causal-lm"


def _table_columns(comparison: Report, *, short: bool) -> Sequence[tuple[str, str]]:
    """Set and metric of each figure of the table."""
    if _texts(comparison):
        return SHORT_COLUMNS if short else (*COLUMNS, *_further_columns(comparison))
    return label_columns(comparison)


def _further_columns(comparison: Report) -> Iterator[tuple[str, str]]:
    """What was measured beside the sets of the request."""
    for role, figures in comparison["results"]["target"].items():
        if further_kind(role):
            yield from ((role, metric) for metric in figures if metric != "loss")


def _changes(comparison: Report) -> dict[str, tuple[Report, dict[str, Report]]]:
    """Of each other task, under its leading metric: the target's figure, every model's change."""
    found, rows = comparison.get("tasks", {}), {}
    for task, figures in found.get("results", {}).get("target", {}).items():
        metric = leading_metric(figures)
        changed = {m: some.get(task, {}).get(metric) for m, some in found["change"].items()}
        rows[f"{task} ({metric})"] = figures[metric], {m: one for m, one in changed.items() if one}
    return rows


def other_headings(comparison: Report) -> list[str]:
    """The headings of `other_rows`."""
    models = comparison.get("tasks", {}).get("change", {})
    return ["task", "target", *(f"{NAMES.get(model, model)}, change" for model in models)]


def other_rows(comparison: Report) -> list[list[str]]:
    """A row for each other task: the target's figure, and what each model has changed."""
    rows = []
    for task, (target, changed) in _changes(comparison).items():
        cells = [change_words(changed.get(m, {})) for m in comparison["tasks"]["change"]]
        shown = [f"{value} ({ends})" if ends else value for value, ends in cells]
        value = target["value"]
        rows.append([task, NOTHING if value is None else significant(value), *shown])
    return rows


def other_picture(comparison: Report) -> Markup | None:
    """The changes of tasks that are scored by shares; None where there is none."""
    some = _changes(comparison).items()
    rows = {task: one for task, (target, one) in some if 0 <= (target["value"] or 0) <= 1}
    models = list(comparison["tasks"]["change"]) if rows else []
    if not models:
        return None
    marks = zip(models, METHOD_MARKERS * len(models), strict=False)
    styles = {
        model: {"color": svg.TERMS[place % len(svg.TERMS)], "marker": mark}
        for place, (model, mark) in enumerate(marks)
    }
    with svg.style():
        return draw_changes("tasks", rows, styles)


def _with_distance(comparison: Report) -> bool:
    """Whether there is a retrained model that classifiers have a distance to."""
    return not _texts(comparison) and "retrained" in comparison["results"]


def headings(comparison: Report, *, short: bool = False) -> list[str]:
    """The headings of `comparison_rows`."""
    columns = _table_columns(comparison, short=short)
    figures = [f"{measure(metric).label}, {SHORT.get(role, role)}" for role, metric in columns]
    figures += [DISTANCE["tug_of_war"].label] if _with_distance(comparison) else []
    figures += [MARK] if _marked(comparison) and not short else []
    figures += [f"{measure(name).label}, relearnt" for name in _relearnt(comparison)]
    return ["model", "met", *figures, *(("time",) if short else ("time", "rounds", "memory"))]


def comparison_rows(comparison: Report, *, short: bool = False) -> list[list[str]]:
    """A row for each model, as text; `short` ones for a terminal, without intervals."""
    costs = 1 if short else 3
    rows = [
        [
            NAMES[name],
            NOTHING,
            *_cells(comparison, figures, short=short),
            *_mark_cells(comparison, comparison.get("marks", {}).get(name), short=short),
            *_relearnt_cells(comparison, comparison.get(f"relearnt_{name}")),
            *([NOTHING] * costs),
        ]
        for name, figures in comparison["results"].items()
    ]
    for name, entry in comparison["methods"].items():
        spent = entry["cost"]
        cost = [
            duration(spent["seconds_unlearning"]),
            f"{spent['rounds']:.3g}",
            size(spent["peak_memory_bytes"]),
        ]
        met = f"{entry['met']} of {len(comparison['seeds'])}"
        figures = _cells(comparison, entry["summary"], entry.get("tug_of_war"), short=short)
        again = _relearnt_cells(comparison, entry.get("relearnt"))
        mark = _mark_cells(comparison, entry.get("mark"), short=short)
        rows.append([_starred(name, entry), met, *figures, *mark, *again, *cost[:costs]])
    return rows


def _marked(comparison: Report) -> bool:
    """Whether a classifier was to tell the treated records of some method."""
    return any(entry.get("mark") for entry in comparison["methods"].values())


def _mark_cells(comparison: Report, found: Report | None, *, short: bool) -> Iterator[str]:
    if short or not _marked(comparison):
        return
    if not found:
        yield NOTHING
        return
    value, low, high = (show("mia_loss_auc", found[end]) for end in ("value", "low", "high"))
    yield value if low == high else f"{value} ({low} to {high})"


def _relearnt(comparison: Report) -> list[str]:
    """The metrics of which there are figures after relearning."""
    found = filter(None, _relearnings(comparison))
    return list(dict.fromkeys(name for one in found for name in one["figures"]))


def _relearnings(comparison: Report) -> Iterator[Report | None]:
    return (entry.get("relearnt") for entry in comparison["methods"].values())


def _relearnt_cells(comparison: Report, found: Report | None) -> Iterator[str]:
    for name in _relearnt(comparison):
        value = found["figures"].get(name) if found else None
        yield NOTHING if value is None else show(name, value)


def _cells(
    comparison: Report, figures: Report, distance: float | None = None, *, short: bool
) -> Iterator[str]:
    for role, metric in _table_columns(comparison, short=short):
        value = figures.get(role, {}).get(metric)
        if value is None:
            yield NOTHING
            continue
        interval = "" if short else show_interval(metric, value["low"], value["high"])
        yield show(metric, value["value"]) + (f" ({interval})" if interval else "")
    if _with_distance(comparison):
        yield NOTHING if distance is None else significant(distance)


def _trial_titles(comparison: Report) -> list[str]:
    """The headings of all methods' trials."""
    searches = [entry["search"] for entry in comparison["methods"].values() if entry["search"]]
    figures = ["MA, forget", "perplexity × target's"]
    if not _texts(comparison):
        figures = [*trial_figures(searches[0] if searches else None).values()]
    return ["method", "trial", "settings", "ended", *figures, "rounds", "time"]


def _starred(name: str, entry: Report) -> str:
    return f"{name} *" if entry["on_front"] else name


def as_csv(comparison: Report) -> str:
    """`compare.csv`: a line for each model, set and metric, of every seed and over all."""
    rows = [("model", "seed", "set", "metric", "value", "low", "high", "records", "seeds")]
    for name, figures in comparison["results"].items():
        rows += _csv_rows(name, "", figures)
    for name, entry in comparison["methods"].items():
        rows += _csv_rows(name, "all", entry["summary"])
        for run in entry["seeds"]:
            rows += _csv_rows(name, str(run["seed"]), run["results"])
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _csv_rows(name: str, seed: str, figures: Report) -> Iterator[tuple]:
    for role in (*SETS, *(role for role in figures if role not in SETS)):
        for metric, value in figures.get(role, {}).items():
            numbers = (value[key] for key in ("value", "low", "high", "records"))
            yield name, seed, role, metric, *numbers, value.get("seeds", "")


# Pictures


def pareto(comparison: Report) -> Markup:
    """Each method's mean: what is left from right to left, the damage from top to bottom.

    That is MA of the forget set and perplexity of retained text, of classifiers the score of the
    forget set and what that of retained records has lost. Every seed is a small mark; filled where
    its verdict is met.
    """
    with svg.style():
        figure, axes = svg.canvas(**PICTURE)
        _draw_methods(axes, comparison, list(comparison["methods"]))
        target = comparison["results"]["target"]
        place = _left(target, comparison), _damage(target, comparison)
        style = _mark_style(svg.BEFORE, "o", filled=False)
        axes.plot(*([one] for one in place), markersize=9, label="target", **style)
        axes.legend(**LEGEND)
        _damage_scale(axes, comparison)
        words = "; ".join(
            f"{name}: {_place_in_words(comparison, *one)}"
            for name, one in _method_places(comparison).items()
        )
        return svg.inline(figure, "pareto", f"Forgetting against damage. {words}.")


def pareto_near(comparison: Report) -> Markup | None:
    """The same around the most damage allowed and unseen text; None where the first shows it well.

    Only methods whose mean lies there are drawn.
    """
    if not _texts(comparison):
        return None  # scores are between 0 and 1, and show well
    level, allowed = comparison["picture"]["level"], _most(comparison) - 1
    places = _method_places(comparison)
    near = {
        name: (x, y)
        for name, (x, y) in places.items()
        if y <= 1 + 1.25 * allowed and x <= level + NEAR
    }
    if not near or not any(y > 1 + 2 * allowed for _, y in places.values()):
        return None  # one without a number is in no picture
    with svg.style():
        figure, axes = svg.canvas(**PICTURE)
        _draw_methods(axes, comparison, list(near))
        lowest = min(1.0, *(y for _, y in near.values()))
        axes.set_ylim(lowest - 0.25 * allowed, 1 + 1.25 * allowed)
        axes.set_xlim(min(x for x, _ in near.values()) - NEAR, level + NEAR)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 3)))
        axes.legend(**LEGEND)
        words = f"Forgetting against damage, near the level: {', '.join(near)}."
        return svg.inline(figure, "pareto-near", words)


def strengths(comparison: Report) -> Markup:
    """What is left of the forget set and the damage along each method's path."""
    with svg.style():
        figure, axes = svg.canvas(height=4.0, width=6.6)
        axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
        for i, (name, entry) in enumerate(comparison["methods"].items()):
            colour, marker = _sign(i)
            axes.plot(
                *_path(comparison, entry["strength"]["points"]),
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                label=name,
            )
        _draw_limits(axes, comparison)
        _damage_scale(axes, comparison)
        for label, name in ((axes.set_xlabel, X_AXIS), (axes.set_ylabel, Y_AXIS)):
            label(name[_texts(comparison)].partition("(")[0].strip())
        axes.legend(**LEGEND)
        words = "Each method from the target model to its own result, a share of the way at a time."
        return svg.inline(figure, "strength", words)


def _draw_methods(axes: Axes, comparison: Report, names: Sequence[str]) -> None:
    """Methods, limits, and the models beside them."""
    axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
    _draw_limits(axes, comparison)
    for i, (name, entry) in enumerate(comparison["methods"].items()):
        if name in names:
            _draw_method(axes, comparison, _sign(i), _starred(name, entry), entry)
    retrained = comparison["results"].get("retrained")
    if retrained:
        x, y = _left(retrained, comparison), _damage(retrained, comparison)
        style = _mark_style(svg.RETRAINED, "D", filled=True)
        axes.plot([x], [y], markersize=9, label="retrained", **style)
    axes.set_xlabel(X_AXIS[_texts(comparison)])
    axes.set_ylabel(Y_AXIS[_texts(comparison)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show("ma", value, 2)))


def _draw_method(
    axes: Axes, comparison: Report, sign: tuple[str, str], label: str, entry: Report
) -> None:
    points = [
        (_left(run["results"], comparison), _damage(run["results"], comparison))
        for run in entry["seeds"]
    ]
    for (x, y), run in zip(points, entry["seeds"], strict=True):
        axes.plot([x], [y], markersize=3.5, **_mark_style(*sign, filled=run["status"] == "met"))
    x, y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    met = entry["met"] == len(points) and not entry["diverged"]
    axes.plot([x], [y], markersize=8, label=label, **_mark_style(*sign, filled=met))


def _mark_style(color: str, marker: str, *, filled: bool) -> svg.Style:
    face = color if filled else svg.PAPER
    return {"color": color, "marker": marker, "linestyle": "", "markerfacecolor": face}


def _draw_limits(axes: Axes, comparison: Report) -> None:
    """Dashed the MA of unseen text, dotted the most damage allowed."""
    dashed = {**svg.DASHED, "linewidth": 1.2}
    axes.axvline(comparison["picture"]["level"], **dashed)
    axes.axhline(_most(comparison), **{**dashed, "linestyle": (0, (1, 2))})


def _sign(i: int) -> tuple[str, str]:
    """Colour and marker of the i-th method."""
    return svg.CLASSES[i % len(svg.CLASSES)], METHOD_MARKERS[i % len(METHOD_MARKERS)]


def _damage_scale(axes: Axes, comparison: Report) -> None:
    """Ratios on a logarithmic scale, losses of a score on a plain one."""
    if _texts(comparison):
        axes.set_yscale("log")
        _plain_ticks(axes)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))


def _path(comparison: Report, points: Sequence[Report]) -> tuple[list[float], list[float]]:
    """What is left and the damage at each point, from the target on."""
    if _texts(comparison):
        start = _left(comparison["results"]["target"], comparison)
        return (
            [start, *(point["ma"] for point in points)],
            [1.0, *(number(point["kept_ratio"]) for point in points)],
        )
    scores = [number(point["forget_score"]) for point in points]
    kept = [number(point["retain_score"]) for point in points]
    return scores, [kept[0] - one for one in kept]


def _place_in_words(comparison: Report, left: float, damage: float) -> str:
    if not _texts(comparison):
        return f"score {show('accuracy', left)}, retained {damage:.3f} lost"
    ratio = f"times {significant(damage)}" if isfinite(damage) else "beyond any number"
    return f"MA {show('ma', left)}, perplexity {ratio}"


def _plain_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    wide = high > NARROW * low
    axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)) if wide else MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 3)))
    axes.yaxis.set_minor_locator(NullLocator())


def _method_places(comparison: Report) -> dict[str, tuple[float, float]]:
    return {
        name: (_left(entry["summary"], comparison), _damage(entry["summary"], comparison))
        for name, entry in comparison["methods"].items()
    }


def _left(results: Report, comparison: Report) -> float:
    """What is left of the forget set: MA, of classifiers the score."""
    score = "ma" if _texts(comparison) else comparison["picture"]["score"]
    return number(results["forget"].get(score, {}).get("value"))


def _damage(results: Report, comparison: Report) -> float:
    """Perplexity as a multiple of the target's; NaN, which is not drawn, where it is infinite.

    Of classifiers what the score of retained records has lost.
    """
    picture = comparison["picture"]
    if not _texts(comparison):
        value = results[picture["set"]].get(picture["kept_score"], {}).get("value")
        return picture["target"] - number(value)
    perplexity = results[picture["set"]].get("perplexity", {}).get("value")
    return number(perplexity) / picture["target"]


def _most(comparison: Report) -> float:
    """The most damage allowed, as a multiple of the target's perplexity, or as a loss of score."""
    if not _texts(comparison):
        return comparison["picture"]["target"] - comparison["picture"]["floor"]
    return comparison["picture"]["floor"] / comparison["picture"]["target"]
