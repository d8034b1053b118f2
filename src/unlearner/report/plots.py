"""Pictures of rounds and of sets. Each function draws one and knows nothing of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.report import svg
from unlearner.report.measures import measure
from unlearner.report.writing import show, significant, visible

MODEL_STYLES: dict[str, dict[str, Any]] = {
    "target": {"color": svg.BEFORE, "marker": "o", "markerfacecolor": svg.PAPER},
    "unlearned": {"color": svg.AFTER, "marker": "o", "markerfacecolor": svg.AFTER},
    "retrained": {"color": svg.RETRAINED, "marker": "D", "markerfacecolor": svg.RETRAINED},
}


@dataclass(frozen=True)
class Level:
    """A horizontal or vertical line to compare with: a limit or another model's value."""

    value: float
    label: str


GUESSING = Level(0.5, "guessing")


def draw_limit(axes: Axes, level: Level, metric: str, values: Sequence[float]) -> None:
    """A dashed line across the plot; its value stands at the end where the data leave room."""
    left = not values or abs(values[0] - level.value) >= abs(values[-1] - level.value)
    bottom, top = axes.get_ylim()
    crowded = bool(values) and 0 <= values[0 if left else -1] - level.value < 0.1 * (top - bottom)
    axes.axhline(level.value, color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4)
    axes.annotate(
        f"{level.label}: {show(metric, level.value)}",
        (0.02 if left else 0.98, level.value),
        (0, -4 if crowded else 4),
        ha="left" if left else "right",
        va="top" if crowded else "bottom",
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        color=svg.LIMIT,
        gid="halo-limit",
        parse_math=False,
    )


def value_axis(axis: Axis, metric: str) -> None:
    axis.set_major_locator(MaxNLocator(5))
    if measure(metric).percent:
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g} %"))


def legend(axes: Axes, entries: int, side: Literal["left", "right"] = "left") -> None:
    """Names above the plot, from its left end or up to its right one."""
    drawn = axes.legend(
        loc="lower left" if side == "left" else "lower right",
        bbox_to_anchor=(0 if side == "left" else 1, 1.0),
        ncols=min(entries, 3),
        frameon=False,
        labelcolor=svg.INK,
        borderaxespad=0,
        handletextpad=0.5,
        columnspacing=1.4,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def short_name(text: str, longest: int = 16) -> str:
    """A name that fits beside a row; the table below the plot has all of it."""
    text = visible(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def told_number(value: float | None) -> str:
    return "no value" if value is None else significant(value)


def number(value: float | None, missing: float = float("nan")) -> float:
    return missing if value is None else float(value)


MARKERS = ("o", "s", "^", "D", "v")

DASHES = ("-", "--", "-.", ":", "-")


@dataclass(frozen=True)
class Point:
    """One model's value on one set, with its interval where there is one."""

    model: str
    value: float | None
    low: float | None
    high: float | None


def by_round(name: str, metric: str, values: Sequence[float | None], level: Level | None) -> Markup:
    """A metric of the forget set after every round; entry 0 is the target model."""
    figure, axes = svg.canvas(2.6)
    y = [number(v) for v in values]
    axes.plot(range(len(y)), y, color=svg.AFTER, linewidth=2, marker="o", markersize=4.5)
    axes.plot([0], y[:1], **_hollow(), linestyle="none", markersize=7)
    _round_axis(axes)
    value_axis(axes.yaxis, metric)
    _room(axes, metric, [v for v in [*values, level.value if level else None] if v is not None])
    if level:
        known = [v for v in values if v is not None]
        draw_limit(axes, level, metric, known)
    told = ", ".join(f"{i}: {show(metric, v)}" for i, v in enumerate(values))
    limit = f" The dashed line is the {level.label}, {show(metric, level.value)}." if level else ""
    return svg.inline(figure, name, f"{measure(metric).label} by round: {told}.{limit}")


def loss_terms(name: str, rounds: Sequence[int], terms: dict[str, list[float | None]]) -> Markup:
    """Every weighted term of the loss over the rounds, each with its own dash and marker."""
    figure, axes = svg.canvas(2.6)
    for i, (term, values) in enumerate(terms.items()):
        axes.plot(
            rounds,
            [number(v) for v in values],
            label=short_name(term),
            color=svg.TERMS[i % len(svg.TERMS)],
            linestyle=DASHES[i % len(DASHES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            linewidth=1.8,
        )
    axes.axhline(0, color=svg.MUTED, linewidth=0.8)
    _round_axis(axes)
    axes.margins(y=0.08)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}".replace("-", "−")))
    legend(axes, len(terms))
    told = "; ".join(
        f"{t} from {told_number(v[0])} to {told_number(v[-1])}" for t, v in terms.items()
    )
    return svg.inline(figure, name, f"Loss terms from the first round to the last: {told}.")


def active_records(name: str, rounds: Sequence[int], active: Sequence[int], total: int) -> Markup:
    """How many records were still remembered in each round."""
    figure, axes = svg.canvas(2.6)
    axes.bar(rounds, active, color=svg.AFTER, width=0.62)
    if len(rounds) <= 14:
        for x, y in zip(rounds, active, strict=True):
            axes.annotate(
                str(y), (x, y), (0, 3), textcoords="offset points", ha="center", color=svg.INK
            )
    _round_axis(axes)
    axes.set_ylim(0, 1.12 * max(total, 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    told = ", ".join(f"{x}: {y}" for x, y in zip(rounds, active, strict=True))
    return svg.inline(figure, name, f"Active records by round, of {total}: {told}.")


def levels(
    name: str, metric: str, rows: Sequence[tuple[str, list[Point]]], labels: dict[str, str]
) -> Markup:
    """A metric on every set, one row each, with a marker and an interval per model.

    Args:
        name: Unique on the page.
        metric: Its name; perplexity is drawn on a logarithmic axis.
        rows: Label of a set and its points; every row has a point with a value.
        labels: What each model is called.
    """
    figure, axes = svg.canvas(0.85 + 0.62 * len(rows))
    told = [f"{r}\n{' → '.join(show(metric, p.value) for p in ps)}" for r, ps in rows]
    models = draw_points(axes, told, [ps for _, ps in rows], labels)
    legend(axes, len(models))
    _scale(axes, metric, [p for _, ps in rows for p in ps])
    spoken = "; ".join(t.replace("\n", " ") for t in told)
    return svg.inline(
        figure, name, f"{measure(metric).label} by set, {', '.join(models)}: {spoken}."
    )


def draw_points(
    axes: Axes, told: Sequence[str], rows: Sequence[list[Point]], labels: dict[str, str]
) -> list[str]:
    """One row of markers with intervals per text of `told`; returns the models that were drawn."""
    models = [m for m in MODEL_STYLES if any(p.model == m for ps in rows for p in ps)]
    for model in models:
        shift = 0.16 * (models.index(model) - (len(models) - 1) / 2)
        points = [(i + shift, p) for i, ps in enumerate(rows) for p in ps if p.model == model]
        bars = [_error_bar(p) for _, p in points]
        axes.errorbar(
            [number(p.value) for _, p in points],
            [y for y, _ in points],
            xerr=[[low for low, _ in bars], [high for _, high in bars]],
            linestyle="none",
            elinewidth=1.6,
            markersize=7.5,
            markeredgewidth=1.8,
            label=labels[model],
            **MODEL_STYLES[model],
        )
    axes.set_yticks(range(len(rows)), told, parse_math=False, color=svg.INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
    return models


def _scale(axes: Axes, metric: str, points: list[Point]) -> None:
    values = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    if metric != "perplexity":
        axes.set_xlim(0 if min(values) >= 0 else None, max([*values, 0.01]) * 1.06)
        value_axis(axes.xaxis, metric)
        return
    axes.set_xscale("log")
    # At least a factor of four: on a narrower axis noise looks like a change.
    low, high = min(values), max(values)
    stretch = max(1.15, (4 * low / high) ** 0.5, (high / low) ** 0.06)
    axes.set_xlim(low / stretch, high * stretch)
    wide = high / low * stretch**2 > 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: significant(x, 1)))


def _error_bar(point: Point) -> tuple[float, float]:
    """Lengths below and above the value; 0 where an end is missing."""
    value = number(point.value)
    low = 0 if point.low is None else max(value - point.low, 0)
    high = 0 if point.high is None else max(point.high - value, 0)
    return low, high


def _room(axes: Axes, metric: str, numbers: list[float]) -> None:
    """Shares start at zero; anything else gets 15 % either way, or noise looks like a change."""
    if measure(metric).percent:
        axes.set_ylim(0, 1.12 * max([*numbers, 0.01]))
    else:
        axes.set_ylim(0.85 * min(numbers), 1.15 * max(numbers))


def _hollow() -> dict:
    return {**MODEL_STYLES["target"], "markeredgewidth": 1.8, "zorder": 4}


def _round_axis(axes: Axes) -> None:
    axes.set_xlabel("round", color=svg.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


NAMED_RECORDS = 40  # with more records than this, ids no longer fit beside their rows


@dataclass(frozen=True)
class Pair:
    """One record's value before and after; None where it could not be measured."""

    id: str
    before: float | None
    after: float | None


def by_record(name: str, metric: str, pairs: Sequence[Pair], level: Level | None) -> Markup:
    """Each record before and after, the best remembered first."""
    draw = _named_records if len(pairs) <= NAMED_RECORDS else _many_records
    figure = draw(metric, pairs, level)
    known = [p.after for p in pairs if p.after is not None]
    above = sum(v > level.value for v in known) if level else 0
    limit = f" {above} of {len(known)} are above the {level.label} afterwards." if level else ""
    told = f"{measure(metric).label} of {len(pairs)} records before and after.{limit}"
    return svg.inline(figure, name, f"{told} The table by record holds the numbers.")


def _named_records(metric: str, pairs: Sequence[Pair], level: Level | None) -> Figure:
    """One row per record, its id at the left, what is most remembered afterwards on top."""
    pairs = sorted(pairs, key=lambda p: (-number(p.after, -1), -number(p.before, -1), p.id))
    figure, axes = svg.canvas(0.75 + 0.21 * len(pairs))
    rows = range(len(pairs))
    for row, pair in zip(rows, pairs, strict=True):
        axes.plot([number(pair.before), number(pair.after)], [row, row], color=svg.GRID, lw=2.5)
    _dots(axes, [p.before for p in pairs], rows, "target", 6)
    _dots(axes, [p.after for p in pairs], rows, "unlearned", 6)
    axes.set_yticks(rows, [short_name(p.id) for p in pairs], parse_math=False, color=svg.INK)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=svg.GRID, linewidth=0.8)
    value_axis(axes.xaxis, metric)
    axes.set_xlim(-0.02 * axes.get_xlim()[1], None)
    if level:
        axes.axvline(level.value, color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4)
    legend(axes, 2)
    return figure


def _many_records(metric: str, pairs: Sequence[Pair], level: Level | None) -> Figure:
    """One dot per record and model, sorted by what was; the few that stand out are named."""
    pairs = sorted(pairs, key=lambda p: (-number(p.before, -1), -number(p.after, -1), p.id))
    figure, axes = svg.canvas(3.0)
    columns = range(1, len(pairs) + 1)
    dot = 5 if len(pairs) <= 100 else 3.2
    _dots(axes, columns, [p.before for p in pairs], "target", dot)
    _dots(axes, columns, [p.after for p in pairs], "unlearned", dot)
    value_axis(axes.yaxis, metric)
    axes.set_ylim(-0.03 * axes.get_ylim()[1], None)
    axes.set_xlabel("records, sorted by what was before", color=svg.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if level:
        axes.axhline(level.value, color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4)
        _name_remembered(axes, pairs, level)
    legend(axes, 2)
    return figure


def _name_remembered(axes: Axes, pairs: Sequence[Pair], level: Level) -> None:
    """Ids beside up to three records, those furthest above the limit."""
    above = [(p.after, x) for x, p in enumerate(pairs, 1) if p.after and p.after > level.value]
    row_height = 0.07 * axes.get_ylim()[1]
    named: list[float] = []
    for after, x in sorted(above, reverse=True)[:3]:
        if any(abs(after - other) < row_height for other in named):
            continue  # two names on one line cannot be read; the table has both
        named.append(after)
        left = x > len(pairs) / 2
        axes.annotate(
            short_name(pairs[x - 1].id),
            (x, after),
            (-5 if left else 5, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=svg.INK,
            gid=f"halo-{x}",
            parse_math=False,
            zorder=5,
        )


def _dots(axes: Axes, x: Sequence, y: Sequence, model: str, diameter: float) -> None:
    axes.plot(
        [number(v) for v in x],
        [number(v) for v in y],
        linestyle="none",
        markersize=diameter,
        markeredgewidth=1.3,
        label={"target": "before", "unlearned": "after"}[model],
        **MODEL_STYLES[model],
    )
