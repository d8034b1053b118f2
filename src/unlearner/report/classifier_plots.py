"""Pictures that only the report of a classifier has: dots on a cut-out scale, and curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from unlearner.report import svg
from unlearner.report.measures import measure
from unlearner.report.plots import (
    MODEL_STYLES,
    Level,
    Point,
    draw_limit,
    draw_points,
    legend,
    number,
    short_name,
    value_axis,
)
from unlearner.report.writing import show


@dataclass(frozen=True)
class Row:
    """What is beside a row of markers, the metric they are in, and the markers."""

    label: str
    metric: str
    points: list[Point]


@dataclass(frozen=True)
class Curve:
    """A quantity after every round; None where it was not asked for."""

    label: str
    values: Sequence[float | None]


def dots(name: str, rows: Sequence[Row], labels: dict[str, str], level: Level | None) -> Markup:
    """One row of markers per entry, on the part of the scale where the values are.

    Args:
        name: Unique on the page.
        rows: Every row has a point with a value; the scale is written as the first one's metric.
        labels: What each model is called.
        level: A value to compare with, a dashed vertical line.
    """
    figure, axes = svg.canvas(0.85 + 0.62 * len(rows))
    told = [
        f"{row.label}\n{' → '.join(show(row.metric, p.value) for p in row.points)}" for row in rows
    ]
    models = draw_points(axes, told, [row.points for row in rows], labels)
    legend(axes, len(models), "right")
    ends = [v for r in rows for p in r.points for v in (p.value, p.low, p.high) if v is not None]
    axes.set_xlim(*_span(rows[0].metric, [*ends, *([level.value] if level else [])]))
    _scale(axes.xaxis, rows[0].metric)
    if level:
        axes.axvline(level.value, color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4, zorder=1)
    spoken = "; ".join(text.replace("\n", " ") for text in told)
    compared = f" The dashed line is {level.label}, {level.value:g}." if level else ""
    return svg.inline(figure, name, f"{', '.join(labels[m] for m in models)}: {spoken}.{compared}")


def curves(name: str, metric: str, lines: Sequence[Curve], level: Level | None) -> Markup:
    """Up to two quantities by round: what is watched as a line, what it is compared with dashed."""
    figure, axes = svg.canvas(2.6)
    styles = [
        {"color": svg.AFTER, "marker": "o", "linestyle": "-"},
        {"color": svg.LIMIT, "marker": "s", "linestyle": (0, (4, 2)), "markersize": 3.5},
    ]
    for line, style in zip(lines, styles, strict=False):
        known = [(i, v) for i, v in enumerate(line.values) if v is not None]
        x, y = [i for i, _ in known], [v for _, v in known]
        axes.plot(x, y, label=line.label, **{"linewidth": 1.9, "markersize": 4.5, **style})
    first = lines[0].values[0]
    hollow = MODEL_STYLES["target"] | {"markeredgewidth": 1.8, "zorder": 4}
    axes.plot([0], [number(first)], linestyle="none", markersize=7, **hollow)
    values = [v for line in lines for v in line.values if v is not None]
    axes.set_ylim(*_span(metric, [*values, *([level.value] if level else [])]))
    _scale(axes.yaxis, metric)
    _round_axis(axes)
    if level:
        draw_limit(axes, level, metric, [v for v in lines[0].values if v is not None])
    if len(lines) > 1:
        legend(axes, len(lines))
    told = "; ".join(f"{c.label} {', '.join(show(metric, v) for v in c.values)}" for c in lines)
    compared = f" The dashed line is {level.label}, {show(metric, level.value)}." if level else ""
    return svg.inline(figure, name, f"{measure(metric).label} by round: {told}.{compared}")


def _span(metric: str, values: Sequence[float]) -> tuple[float, float]:
    """Ends of a scale: a tenth of room either way, and at least 0.1, or noise looks like change.

    Shares have no room below 0 and above 1 but for the markers.
    """
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), (0.1 - (high - low)) / 2, 0.01)
    low, high = low - room, high + room
    if measure(metric).percent:
        margin = 0.05 * (high - low)
        low, high = max(low, -margin), min(high, 1 + margin)
    return low, high


def _scale(axis: Axis, metric: str) -> None:
    """Few round steps; the room beyond 0 and 100 % has none."""
    value_axis(axis, metric)
    if measure(metric).percent:
        axis.set_ticks([tick for tick in axis.get_majorticklocs() if -1e-9 <= tick <= 1 + 1e-9])


def _round_axis(axes: Axes) -> None:
    axes.set_xlabel("round", color=svg.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


WIDTH, HEIGHT = 3.3, 2.7  # inches

DRAWN_RECORDS = 300  # more forget records than this would hide the rest; every n-th is drawn

# A class has a colour and a shape: matplotlib's marker, and the same as a path in a 12 x 12 box.
SHAPES = {
    "o": "M6 1a5 5 0 1 0 0 10A5 5 0 1 0 6 1z",
    "s": "M1.5 1.5h9v9h-9z",
    "^": "M6 1 11.2 10.5H.8z",
    "D": "M6 .4 11.6 6 6 11.6.4 6z",
    "v": "M6 11 .8 1.5h10.4z",
    "P": "M4 1h4v3h3v4H8v3H4V8H1V4h3z",
    "X": "M3.2.8 6 3.6 8.8.8l2.4 2.4L8.4 6l2.8 2.8-2.4 2.4L6 8.4l-2.8 2.8L.8 8.8 3.6 6 .8 3.2z",
}

OTHER = "M6 3.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 1 0 0-5.6z"


@dataclass(frozen=True)
class Key:
    """One line of the legend: a name, the outline of its mark, and the CSS value of its colour."""

    label: str
    path: str
    color: str


def legend_keys(labels: Sequence[str], chosen: Sequence[int]) -> list[Key]:
    """The legend of `chosen_classes`, the rest as one last line where there is a rest."""
    keys = [
        Key(short_name(labels[k], 32), path, svg.ROLES[color])
        for k, path, color in zip(chosen, SHAPES.values(), svg.CLASSES, strict=False)
    ]
    rest = len(labels) - len(chosen)
    if rest:
        keys.append(Key(f"{rest} other classes" if rest > 1 else "1 other class", OTHER, _MUTED))
    return keys


def chosen_classes(models: Mapping[str, Any], num_labels: int) -> list[int]:
    """The classes that get a colour of their own: those most frequent among the forget records."""
    gone, kept = Counter[int](), Counter[int]()
    for points in models.values():
        gone.update(k for _, _, k in points["forget"])
        kept.update(k for _, _, k in points["retain"])
    by_weight = sorted(range(num_labels), key=lambda k: (-gone[k], -kept[k], k))
    present = [k for k in by_weight if gone[k] or kept[k]]
    # In the order of the labels, so that colours do not depend on who is to be forgotten.
    return sorted(present[: len(SHAPES)])


def latent_space(
    name: str, points: Mapping[str, list], chosen: Sequence[int], description: str
) -> Markup:
    """One model's panel.

    Args:
        name: Unique on the page.
        points: Under "retain" and "forget" x, y and the index of the class.
        chosen: Classes with a mark of their own, see `chosen_classes`.
        description: What a reader who cannot see it is told.
    """
    figure, axes = svg.canvas(HEIGHT, WIDTH)
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(svg.GRID)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    forget = drawn(points["forget"])
    for k in [None, *chosen]:
        _draw(axes, _of_class(points["retain"], k, chosen), _mark(k, chosen, pale=True))
    for k in [None, *chosen]:
        size = 6.5 if len(forget) <= 150 else 5
        style = _mark(k, chosen, pale=False) | {"markersize": 3.5 if k is None else size}
        _draw(axes, _of_class(forget, k, chosen), style)
    axes.margins(0.05)
    return svg.inline(figure, name, description)


def drawn(points: Sequence[Any]) -> list[Any]:
    """At most `DRAWN_RECORDS` of the points, evenly spaced."""
    step = max(1, -(-len(points) // DRAWN_RECORDS))
    return list(points[::step])


_MUTED = svg.ROLES[svg.MUTED]


def _of_class(points: Sequence[Any], k: int | None, chosen: Sequence[int]) -> list[Any]:
    """The points of class k; of every class without a mark of its own for None."""
    return [p for p in points if (p[2] == k if k is not None else p[2] not in chosen)]


def _mark(k: int | None, chosen: Sequence[int], *, pale: bool) -> dict[str, Any]:
    index = None if k is None else chosen.index(k)
    color = svg.MUTED if index is None else svg.CLASSES[index]
    marker = "." if index is None else list(SHAPES)[index]
    if pale:
        return {"color": color, "marker": marker, "markersize": 3, "alpha": 0.4, "mew": 0}
    edge = {"markeredgecolor": svg.INK, "mew": 1.0, "zorder": 3}
    return {"color": color, "marker": "o" if index is None else marker, **edge}


def _draw(axes: Axes, points: Sequence[Any], style: dict[str, Any]) -> None:
    if points:
        axes.plot([p[0] for p in points], [p[1] for p in points], linestyle="none", **style)
