"""The picture of every single record before and after, for three records or five hundred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unlearner.report import svg
from unlearner.report.axes import MODEL_STYLES, Level, legend, number, short_name, value_axis
from unlearner.report.measures import measure

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
