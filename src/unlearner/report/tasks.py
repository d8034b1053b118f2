"""Tasks of the lm-evaluation-harness on a page: what each model reaches, and what has changed.

Names of tasks and metrics are other people's, and are shown as any text of a user's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unlearner.report import facts, svg
from unlearner.report.facts import Report
from unlearner.report.plots import MODEL_STYLES, legend, number, short_name
from unlearner.report.writing import NOTHING, significant

# Metrics that a task is compared by where it has several, the first that it has.
LEADING = ("acc", "acc_norm", "exact_match", "f1")

CHANGES = {"unlearned": "after less before", "retrained": "retrained less before"}


@dataclass(frozen=True)
class TaskRow:
    """One metric of one task.

    Attributes:
        cells: Per model its value, interval and number of documents.
        changes: Per model but the target what it has more than that, and the interval.
    """

    task: str
    metric: str
    cells: list[tuple[str, str, str]]
    changes: list[tuple[str, str]]


# What each task is called, and what has changed, by what is compared: value, low and high.
Changes = Mapping[str, Mapping[str, Report]]


def leading_metric(figures: Report) -> str:
    """The metric that a task is compared by."""
    return next((name for name in LEADING if name in figures), next(iter(figures)))


def task_rows(report: Report) -> list[TaskRow]:
    """Every metric of every task, in the order of the run."""
    found = report.get("tasks", {})
    models = _model_names(report)
    rows = []
    for task, values in found.get("results", {}).get("unlearned", {}).items():
        for metric in values:
            figures = (found["results"][m].get(task, {}).get(metric, {}) for m in models)
            changed = (
                found["change"][m].get(task, {}).get(metric, {}) for m in _compared_tasks(report)
            )
            rows.append(
                TaskRow(task, metric, [*map(_task_cell, figures)], [*map(change_words, changed)])
            )
    return rows


def _model_names(report: Report) -> list[str]:
    return [m for m in facts.models_of(report) if m in report.get("tasks", {}).get("results", {})]


def _compared_tasks(report: Report) -> list[str]:
    return [m for m in CHANGES if m in report.get("tasks", {}).get("change", {})]


def task_headings(report: Report) -> tuple[list[str], list[str]]:
    """The headings of the cells and of the changes of `task_rows`."""
    labels = facts.model_labels(report)
    return [labels[m] for m in _model_names(report)], [CHANGES[m] for m in _compared_tasks(report)]


def _task_cell(figure: Report) -> tuple[str, str, str]:
    if not figure or figure["value"] is None:
        return NOTHING, "", ""
    return significant(figure["value"]), _interval(figure), f"{figure['records']:,}"


def change_words(figure: Report) -> tuple[str, str]:
    """A change with its sign, and its interval; a dash where it is not known."""
    if not figure or figure["value"] is None:
        return NOTHING, ""
    return _with_sign(figure["value"]), _interval(figure)


def _with_sign(value: float) -> str:
    return f"+{significant(value)}" if value > 0 else significant(value)


def _interval(figure: Report) -> str:
    if figure["low"] is None or figure["high"] is None:
        return ""
    return f"{significant(figure['low'])} to {significant(figure['high'])}"


def leading_changes(report: Report) -> dict[str, Report]:
    """The change of each task's leading metric from before to after, under `task (metric)`."""
    found = report.get("tasks", {}).get("change", {}).get("unlearned", {})
    return {
        f"{task} ({metric})": values[metric]
        for task, values in found.items()
        if values and values[metric := leading_metric(values)]["value"] is not None
    }


def changed_beyond_chance(report: Report) -> list[str]:
    """Tasks whose leading metric changed by more than its interval, with the change."""
    return [
        f"{name} {_with_sign(one['value'])}"
        for name, one in leading_changes(report).items()
        if one["low"] is not None and (one["low"] > 0 or one["high"] < 0)
    ]


def task_picture(report: Report) -> Markup | None:
    """What has changed, a row for each task that is scored by a share; None where none is."""
    models = _compared_tasks(report)
    found = report.get("tasks", {})
    rows: dict[str, dict[str, Report]] = {}
    for task, values in found.get("results", {}).get("target", {}).items():
        metric = leading_metric(values)
        if not 0 <= (values[metric]["value"] or 0) <= 1:
            continue
        changed = {m: found["change"][m].get(task, {}).get(metric) for m in models}
        rows[task] = {CHANGES[m]: one for m, one in changed.items() if one}
    styles = {CHANGES[m]: MODEL_STYLES[m] for m in models}
    return draw_changes("tasks", rows, styles) if rows and models else None


def draw_changes(name: str, rows: Changes, styles: Mapping[str, svg.Style]) -> Markup:
    """Changes of shares in percentage points, a row for each task, a mark for each model.

    Args:
        name: Unique on the page.
        styles: Of each model's mark.
    """
    height = max(0.5, 0.16 * len(styles) + 0.2)
    figure, axes = svg.canvas(0.95 + height * len(rows))
    for place, (label, style) in enumerate(styles.items()):
        shift = 0.7 / len(styles) * (place - (len(styles) - 1) / 2)
        some = [(row + shift, one[label]) for row, one in enumerate(rows.values()) if label in one]
        values = [100 * number(one["value"]) for _, one in some]
        bars = [[100 * part for part in ends] for ends in zip(*_bars(some), strict=True)]
        axes.errorbar(
            values,
            [at for at, _ in some],
            xerr=bars or None,
            linestyle="none",
            elinewidth=1.6,
            markersize=6.5,
            markeredgewidth=1.6,
            label=label,
            **style,
        )
    axes.axvline(0, zorder=1, **svg.DASHED)
    axes.set_yticks(range(len(rows)), [short_name(one, 24) for one in rows], parse_math=False)
    axes.tick_params(axis="y", labelcolor=svg.INK)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("percentage points", color=svg.MUTED)
    axes.margins(x=0.08)
    legend(axes, len(styles))
    spoken = "; ".join(f"{task}: {', '.join(_spoken(one))}" for task, one in rows.items())
    return svg.inline(figure, name, f"Changes of tasks in percentage points. {spoken}.")


def _bars(some: Sequence[tuple[float, Report]]) -> Iterator[tuple[float, float]]:
    for _, one in some:
        value = number(one["value"])
        low, high = number(one["low"], value), number(one["high"], value)
        yield max(value - low, 0), max(high - value, 0)


def _spoken(changed: Mapping[str, Report]) -> Iterator[str]:
    for label, one in changed.items():
        if one["value"] is not None:
            yield f"{label} {_with_sign(100 * one['value'])}"
