"""Pictures of rounds, sets and records. Each function draws one and knows nothing of its page.

A classifier's scales are cut out: its scores are close to one another and far from zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.report import svg
from unlearner.report.facts import Report
from unlearner.report.measures import measure
from unlearner.report.writing import NO_VALUE, known, show, significant, visible

MODEL_STYLES: Mapping[str, svg.Style] = {
    "target": {"color": svg.BEFORE, "marker": "o", "markerfacecolor": svg.PAPER},
    "unlearned": {"color": svg.AFTER, "marker": "o", "markerfacecolor": svg.AFTER},
    "retrained": {"color": svg.RETRAINED, "marker": "D", "markerfacecolor": svg.RETRAINED},
}

# Colour is never the only sign: each line has a dash and a marker of its own.
MARKERS = ("o", "s", "^", "D", "v")

DASHES = ("-", "--", "-.", ":", "-")

# What is watched over the rounds, and what it is compared with.
CURVE_STYLES: Sequence[svg.Style] = (
    {"color": svg.AFTER, "marker": "o", "markersize": 4.5, "linestyle": "-"},
    {"color": svg.LIMIT, "marker": "s", "markersize": 3.5, "linestyle": (0, (4, 2))},
)

NAMED_RECORDS = 40  # with more records than this, ids no longer fit beside their rows


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal or vertical line to compare with: a limit or another model's value."""

    value: float
    label: str


GUESSING = ReferenceLine(0.5, "guessing")


@dataclass(frozen=True)
class DotRow:
    """What is beside a row of markers, the metric they are in, and a figure per model."""

    label: str
    metric: str
    figures: Mapping[str, Report]


# What each quantity is called, and its values from round 0; None where it was not measured.
Curves = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Pair:
    """One record's value before and after; None where it could not be measured."""

    id: str
    before: float | None
    after: float | None


# What pictures have in common


def number(value: float | None, missing: float = float("nan")) -> float:
    """The value for matplotlib, which leaves a gap where it is NaN."""
    return missing if value is None else float(value)


def short_name(text: str, longest: int = 16) -> str:
    """A name that fits beside a row; the table below the plot has all of it."""
    text = visible(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def value_axis(axis: Axis, metric: str) -> None:
    """A few round steps in the metric's own unit."""
    axis.set_major_locator(MaxNLocator(5))
    if measure(metric).percent:
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g} %"))


def _round_axis(axes: Axes) -> None:
    axes.set_xlabel("round", color=svg.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _row_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Names of rows at the left, and the grid across them."""
    axes.set_yticks(range(len(labels)), labels, parse_math=False, color=svg.INK)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=svg.GRID, linewidth=0.8)


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


def _draw_reference(axes: Axes, line: ReferenceLine, metric: str, values: Sequence[float]) -> None:
    """A dashed line across the plot; its value stands at the end where the data leave room."""
    left = not values or abs(values[0] - line.value) >= abs(values[-1] - line.value)
    bottom, top = axes.get_ylim()
    crowded = bool(values) and 0 <= values[0 if left else -1] - line.value < 0.1 * (top - bottom)
    axes.axhline(line.value, **svg.DASHED)
    axes.annotate(
        f"{line.label}: {show(metric, line.value)}",
        (0.02 if left else 0.98, line.value),
        (0, -4 if crowded else 4),
        ha="left" if left else "right",
        va="top" if crowded else "bottom",
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        color=svg.LIMIT,
        gid="halo-limit",
        parse_math=False,
    )


def _cut_out(axis: Axis, metric: str, values: Sequence[float]) -> None:
    """Show the part of the scale where the values are.

    There is a tenth of room either way, and at least 0.1, or noise looks like change. Shares have
    no room below 0 and above 1 but for the markers, and no steps there.
    """
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), (0.1 - (high - low)) / 2, 0.01)
    low, high = low - room, high + room
    if measure(metric).percent:
        margin = 0.05 * (high - low)
        low, high = max(low, -margin), min(high, 1 + margin)
    axes = axis.axes
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(low, high)
    value_axis(axis, metric)
    if measure(metric).percent:
        axis.set_ticks([tick for tick in axis.get_majorticklocs() if -1e-9 <= tick <= 1 + 1e-9])


# By set


def dots(
    name: str,
    rows: Sequence[DotRow],
    labels: Mapping[str, str],
    line: ReferenceLine | None = None,
    *,
    cut_out: bool,
) -> Markup:
    """One row of markers with intervals per entry, a marker for each model.

    Args:
        name: Unique on the page.
        rows: Every row has an estimate with a value; the scale is that of the first one's metric.
        labels: What each model is called.
        line: A value to compare with, a dashed vertical line.
        cut_out: Show the part of the scale where the values are; else shares from 0, and
            perplexity on a logarithmic axis.
    """
    figure, axes = svg.canvas(0.85 + 0.62 * len(rows))
    models = [model for model in MODEL_STYLES if any(model in row.figures for row in rows)]
    for i, model in enumerate(models):
        shift = 0.16 * (i - (len(models) - 1) / 2)
        points = {
            j + shift: row.figures[model] for j, row in enumerate(rows) if model in row.figures
        }
        _draw_estimates(axes, points, model, labels[model])
    texts = [
        f"{row.label}\n{' → '.join(show(row.metric, f['value']) for f in row.figures.values())}"
        for row in rows
    ]
    _row_axis(axes, texts)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    legend(axes, len(models), "right" if cut_out else "left")
    found = [
        f[key] for row in rows for f in row.figures.values() for key in ("value", "low", "high")
    ]
    values = [value for value in (*found, line.value if line else None) if value is not None]
    if line:
        axes.axvline(line.value, zorder=1, **svg.DASHED)
    metric = rows[0].metric
    if cut_out:
        _cut_out(axes.xaxis, metric, values)
        shown = ", ".join(labels[model] for model in models)
    else:
        _whole_scale(axes, metric, values)
        shown = f"{measure(metric).label} by set, {', '.join(models)}"
    spoken = "; ".join(text.replace("\n", " ") for text in texts)
    compared = f" The dashed line is {line.label}, {line.value:g}." if line else ""
    return svg.inline(figure, name, f"{shown}: {spoken}.{compared}")


def _draw_estimates(axes: Axes, points: Mapping[float, Report], model: str, label: str) -> None:
    values = [number(figure["value"]) for figure in points.values()]
    # Lengths of the bars below and above the value; 0 where an end is missing.
    pairs = list(zip(values, points.values(), strict=True))
    below = [max(value - number(figure["low"], value), 0) for value, figure in pairs]
    above = [max(number(figure["high"], value) - value, 0) for value, figure in pairs]
    axes.errorbar(
        values,
        list(points),
        xerr=[below, above],
        linestyle="none",
        elinewidth=1.6,
        markersize=7.5,
        markeredgewidth=1.8,
        label=label,
        **MODEL_STYLES[model],
    )


def _whole_scale(axes: Axes, metric: str, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if metric != "perplexity":
        axes.set_xlim(0 if low >= 0 else None, max(high, 0.01) * 1.06)
        value_axis(axes.xaxis, metric)
        return
    axes.set_xscale("log")
    # At least a factor of four: on a narrower axis noise looks like a change.
    stretch = max(1.15, (4 * low / high) ** 0.5, (high / low) ** 0.06)
    axes.set_xlim(low / stretch, high * stretch)
    wide = high / low * stretch**2 > 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: significant(x, 1)))


# By round


def by_round(
    name: str, metric: str, curves: Curves, line: ReferenceLine | None, *, cut_out: bool
) -> Markup:
    """Up to two quantities by round: what is watched as a line, what it is compared with dashed.

    Args:
        name: Unique on the page.
        metric: What the quantities are values of.
        curves: Where a round has no value there is a gap, or with `cut_out` the line goes on.
        line: A value to compare with, a dashed horizontal line.
        cut_out: Show the part of the scale where the values are; else shares from 0.
    """
    figure, axes = svg.canvas(2.6)
    for (label, values), style in zip(curves.items(), CURVE_STYLES, strict=False):
        points = {i: number(v) for i, v in enumerate(values) if v is not None or not cut_out}
        width = 1.9 if cut_out else 2
        axes.plot(list(points), list(points.values()), label=label, linewidth=width, **style)
    watched = next(iter(curves.values()))
    before = {**MODEL_STYLES["target"], "markeredgewidth": 1.8, "markersize": 7, "zorder": 4}
    axes.plot([0], [number(watched[0])], linestyle="none", **before)
    shown = [v for values in curves.values() for v in values if v is not None]
    shown += [line.value] if line else []
    if cut_out:
        _cut_out(axes.yaxis, metric, shown)
    else:
        value_axis(axes.yaxis, metric)
        # Shares from 0; others with 15 % either way, or noise looks like a change.
        share = measure(metric).percent
        low, high = min(shown), max(shown)
        axes.set_ylim(*((0, 1.12 * max(high, 0.01)) if share else (0.85 * low, 1.15 * high)))
    _round_axis(axes)
    if line:
        _draw_reference(axes, line, metric, [v for v in watched if v is not None])
    if len(curves) > 1:
        legend(axes, len(curves))
    if cut_out:
        texts = (f"{c} {', '.join(show(metric, v) for v in curves[c])}" for c in curves)
        spoken, the = "; ".join(texts), ""
    else:
        spoken, the = ", ".join(f"{i}: {show(metric, v)}" for i, v in enumerate(watched)), "the "
    dashed = f" The dashed line is {the}{line.label}, {show(metric, line.value)}." if line else ""
    return svg.inline(figure, name, f"{measure(metric).label} by round: {spoken}.{dashed}")


def loss_terms(name: str, rounds: Sequence[int], terms: Mapping[str, list[float | None]]) -> Markup:
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
    ends = {t: [known(significant, v[i]) or NO_VALUE for i in (0, -1)] for t, v in terms.items()}
    spoken = "; ".join(f"{term} from {first} to {last}" for term, (first, last) in ends.items())
    return svg.inline(figure, name, f"Loss terms from the first round to the last: {spoken}.")


def by_step(name: str, steps: Sequence[int], curves: Curves) -> Markup:
    """Up to two shares by training step, beside the 0.5 of guessing."""
    figure, axes = svg.canvas(2.6)
    for (label, values), style in zip(curves.items(), CURVE_STYLES, strict=False):
        axes.plot(steps, [number(v) for v in values], label=label, **style)
    axes.axhline(0.5, color=svg.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlabel("training step", color=svg.MUTED)
    axes.set_xticks(steps)
    axes.set_ylim(0, 1.04)
    legend(axes, len(curves))
    texts = (
        f"{c} {', '.join(known(significant, v) or NO_VALUE for v in curves[c])}" for c in curves
    )
    spoken = f"After {', '.join(map(str, steps))} steps: {'; '.join(texts)}."
    return svg.inline(figure, name, spoken)


def active_records(name: str, rounds: Sequence[int], active: Sequence[int], total: int) -> Markup:
    """How many records were still remembered in each round."""
    figure, axes = svg.canvas(2.6)
    axes.bar(rounds, active, color=svg.AFTER, width=0.62)
    pairs = list(zip(rounds, active, strict=True))
    for x, y in pairs if len(rounds) <= 14 else ():
        axes.annotate(
            str(y), (x, y), (0, 3), textcoords="offset points", ha="center", color=svg.INK
        )
    _round_axis(axes)
    axes.set_ylim(0, 1.12 * max(total, 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    spoken = ", ".join(f"{x}: {y}" for x, y in pairs)
    return svg.inline(figure, name, f"Active records by round, of {total}: {spoken}.")


# By record


def by_record(name: str, metric: str, pairs: Sequence[Pair], line: ReferenceLine | None) -> Markup:
    """Each record before and after, the best remembered first."""
    draw = _named_records if len(pairs) <= NAMED_RECORDS else _many_records
    figure = draw(metric, pairs, line)
    after = [p.after for p in pairs if p.after is not None]
    above = sum(v > line.value for v in after) if line else 0
    limit = f" {above} of {len(after)} are above the {line.label} afterwards." if line else ""
    spoken = f"{measure(metric).label} of {len(pairs)} records before and after.{limit}"
    return svg.inline(figure, name, f"{spoken} The table by record holds the numbers.")


def _named_records(metric: str, pairs: Sequence[Pair], line: ReferenceLine | None) -> Figure:
    """One row per record, its id at the left, what is most remembered afterwards on top."""
    pairs = sorted(pairs, key=lambda p: (-number(p.after, -1), -number(p.before, -1), p.id))
    figure, axes = svg.canvas(0.75 + 0.21 * len(pairs))
    rows = range(len(pairs))
    for row, pair in zip(rows, pairs, strict=True):
        axes.plot([number(pair.before), number(pair.after)], [row, row], color=svg.GRID, lw=2.5)
    _record_dots(axes, [p.before for p in pairs], rows, "target", 6)
    _record_dots(axes, [p.after for p in pairs], rows, "unlearned", 6)
    _row_axis(axes, [short_name(p.id) for p in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    value_axis(axes.xaxis, metric)
    axes.set_xlim(-0.02 * axes.get_xlim()[1], None)
    if line:
        axes.axvline(line.value, **svg.DASHED)
    legend(axes, 2)
    return figure


def _many_records(metric: str, pairs: Sequence[Pair], line: ReferenceLine | None) -> Figure:
    """One dot per record and model, sorted by what was; the few that stand out are named."""
    pairs = sorted(pairs, key=lambda p: (-number(p.before, -1), -number(p.after, -1), p.id))
    figure, axes = svg.canvas(3.0)
    columns = range(1, len(pairs) + 1)
    diameter = 5 if len(pairs) <= 100 else 3.2
    _record_dots(axes, columns, [p.before for p in pairs], "target", diameter)
    _record_dots(axes, columns, [p.after for p in pairs], "unlearned", diameter)
    value_axis(axes.yaxis, metric)
    axes.set_ylim(-0.03 * axes.get_ylim()[1], None)
    axes.set_xlabel("records, sorted by what was before", color=svg.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if line:
        axes.axhline(line.value, **svg.DASHED)
        _name_remembered(axes, pairs, line)
    legend(axes, 2)
    return figure


def _name_remembered(axes: Axes, pairs: Sequence[Pair], line: ReferenceLine) -> None:
    """Ids beside up to three records, those furthest above the limit."""
    above = [(p.after, x) for x, p in enumerate(pairs, 1) if p.after and p.after > line.value]
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


def _record_dots(
    axes: Axes,
    x: Sequence[float | None],
    y: Sequence[float | None],
    model: str,
    diameter: float,
) -> None:
    axes.plot(
        [number(v) for v in x],
        [number(v) for v in y],
        linestyle="none",
        markersize=diameter,
        markeredgewidth=1.3,
        label={"target": "before", "unlearned": "after"}[model],
        **MODEL_STYLES[model],
    )
