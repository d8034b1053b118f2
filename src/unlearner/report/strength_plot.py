"""The picture of the path between the models before and after: what each share leaves and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.report import svg
from unlearner.report.measures import measure
from unlearner.report.plots import legend, number, value_axis
from unlearner.report.writing import NO_VALUE, show, significant

# Colour is never the only sign: each line has a dash and a marker of its own.
LINES: dict[str, dict[str, Any]] = {
    "ma": {"color": svg.AFTER, "linestyle": "-", "marker": "o"},
    "el_10": {"color": svg.TERMS[0], "linestyle": "-.", "marker": "s"},
}

# Perplexities that differ by more are drawn on a logarithmic scale.
WIDE = 3.0

# Limits whose words would touch.
CLOSE = 0.1


def along(
    name: str, strength: Mapping[str, Any], limits: Mapping[str, float | None], floor: float | None
) -> Markup:
    """MA and EL_10 of the records above, perplexity of kept text below, over the share.

    Args:
        name: Unique on the page.
        strength: As the report holds it.
        limits: Of MA and EL_10, None where there is none.
        floor: Perplexity of kept text at most, as a multiple of the target model's.
    """
    points = strength["points"]
    figure, (recall, kept) = svg.panels((2.2, 1.8))
    shares = [point["share"] for point in points]
    for metric, style in LINES.items():
        values = [point[metric] for point in points]
        label = measure(metric).label
        recall.plot(
            shares, [number(v) for v in values], label=label, linewidth=1.8, markersize=4.5, **style
        )
    recall.set_ylim(0, 1.08)
    value_axis(recall.yaxis, "ma")
    known = {m: limit for m in LINES if (limit := limits.get(m)) is not None}
    highest = max(known.values(), default=0.0)
    for metric, limit in known.items():
        # Two that are close by would be written over one another.
        above = limit == highest and len(known) > 1 and highest - min(known.values()) < CLOSE
        _draw_limit(recall, limit, f"{measure(metric).label} ≤ {show(metric, limit)}", above=above)
    legend(recall, len(LINES))
    _draw_kept(kept, shares, [point["kept_ratio"] for point in points], floor)
    best = strength["at_the_floor"]
    for axes in (recall, kept):
        if best is not None and best["share"] > 0:
            axes.axvline(best["share"], color=svg.MUTED, linewidth=0.9)
    return svg.inline(figure, name, _told(points, limits, floor))


def _draw_kept(
    axes: Axes, shares: Sequence[float], ratios: Sequence[float | None], floor: float | None
) -> None:
    axes.set_title(
        "Perplexity of text to be kept, times that before",
        loc="left",
        color=svg.INK,
        fontsize=svg.FONT_SIZE,
    )
    axes.plot(
        shares,
        [number(ratio) for ratio in ratios],
        color=svg.AFTER,
        linewidth=1.8,
        marker="o",
        markersize=4.5,
    )
    known = [ratio for ratio in ratios if ratio is not None]
    shown = [*known, *([] if floor is None else [floor])]
    if shown:
        _scale(axes, min(shown), max(shown))
    if floor is not None:
        _draw_limit(axes, floor, f"≤ {significant(floor)}")
    axes.set_xlabel("share of the change", color=svg.MUTED)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.4g} %"))


def _draw_limit(axes: Axes, limit: float, text: str, *, above: bool = False) -> None:
    """A dashed line, and beside the plot what it is: within it lines run everywhere."""
    axes.axhline(limit, color=svg.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4)
    axes.annotate(
        text,
        (1.02, limit),
        xycoords=axes.get_yaxis_transform(),
        color=svg.LIMIT,
        va="bottom" if above else "center",
        annotation_clip=False,
        parse_math=False,
    )


def _scale(axes: Axes, low: float, high: float) -> None:
    if high > WIDE * low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.25)
        axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0), numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        room = 0.2 * max(high - low, 0.1)
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{y:g}" if y < 1e3 else significant(y))
    )


def _tick(ratio: float, _: int | None) -> str:
    return f"{ratio:g}" if ratio < 1000 else significant(ratio)


def _told(
    points: Sequence[Mapping[str, Any]], limits: Mapping[str, float | None], floor: float | None
) -> str:
    told = []
    for point in points:
        ratio = point["kept_ratio"]
        told.append(
            f"{100 * point['share']:.3g} %: {measure('ma').label} {show('ma', point['ma'])}, "
            f"{measure('el_10').label} {show('el_10', point['el_10'])}, perplexity times "
            f"{NO_VALUE if ratio is None else significant(ratio)}"
        )
    known = [
        f"{measure(metric).label} {show(metric, limit)}"
        for metric, limit in limits.items()
        if limit is not None
    ]
    known += [] if floor is None else [f"perplexity times {significant(floor)}"]
    dashed = f" The dashed lines are the limits: {', '.join(known)}." if known else ""
    return f"By share of the change: {'; '.join(told)}.{dashed}"
