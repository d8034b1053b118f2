"""Pictures of how much of a run's change there is to be had: figures by the share of it."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.report import svg
from unlearner.report.facts import Report
from unlearner.report.measures import measure
from unlearner.report.plots import CURVE_STYLES, ReferenceLine, legend, number, value_axis
from unlearner.report.writing import NO_VALUE, known, show, significant

STRENGTH_STYLES: Mapping[str, svg.Style] = {
    "ma": {"color": svg.AFTER, "linestyle": "-", "marker": "o"},
    "el_10": {"color": svg.TERMS[0], "linestyle": "-.", "marker": "s"},
}

WIDE = 3.0  # perplexities that differ by more are drawn on a logarithmic scale

CLOSE = 0.1  # limits whose words would touch


def by_share(
    name: str, strength: Report, limits: Mapping[str, float | None], most: float | None
) -> Markup:
    """MA and EL_10 of the records above, perplexity of retained text below, over the share.

    Args:
        name: Unique on the page.
        strength: As the report holds it.
        limits: Of MA and EL_10, None where there is none.
        most: Perplexity of retained text at most, times that before.
    """
    points, best = strength["points"], strength["at_the_floor"]
    figure, (recall, perplexity) = svg.panels((2.2, 1.8))
    shares = [point["share"] for point in points]
    for metric, style in STRENGTH_STYLES.items():
        values = [number(point[metric]) for point in points]
        label = measure(metric).label
        recall.plot(shares, values, label=label, linewidth=1.8, markersize=4.5, **style)
    recall.set_ylim(0, 1.08)
    value_axis(recall.yaxis, "ma")
    found = {m: limit for m in STRENGTH_STYLES if (limit := limits.get(m)) is not None}
    highest, lowest = max(found.values(), default=0.0), min(found.values(), default=0.0)
    for metric, limit in found.items():
        # Two that are close by would be written over one another.
        above = limit == highest and len(found) > 1 and highest - lowest < CLOSE
        text = f"{measure(metric).label} ≤ {show(metric, limit)}"
        _draw_named_limit(recall, limit, text, above=above)
    legend(recall, len(STRENGTH_STYLES))
    _draw_ratios(perplexity, shares, [point["kept_ratio"] for point in points], most)
    if best is not None and best["share"] > 0:
        for axes in (recall, perplexity):
            axes.axvline(best["share"], color=svg.MUTED, linewidth=0.9)
    return svg.inline(figure, name, _shares_in_words(points, limits, most))


def scores_by_share(name: str, strength: Report, limit: ReferenceLine | None) -> Markup:
    """A classifier's scores over the share: of the records and unseen ones above, kept ones below.

    Args:
        name: Unique on the page.
        strength: As the report holds it.
        limit: Of the score of the records to be forgotten.
    """
    points, best = strength["points"], strength["at_the_floor"]
    figure, (forgotten, kept) = svg.panels((2.2, 1.8))
    shares = [point["share"] for point in points]
    curves = {"forget_score": "to be forgotten", "holdout_score": "unseen"}
    for (key, label), style in zip(curves.items(), CURVE_STYLES, strict=True):
        values = [number(point[key]) for point in points]
        forgotten.plot(shares, values, label=label, linewidth=1.8, **style)
    legend(forgotten, len(curves))
    if limit is not None:
        _draw_named_limit(forgotten, limit.value, f"≤ {show('accuracy', limit.value)}")
    kept.set_title("Score of records to be kept", loc="left", color=svg.INK, fontsize=svg.FONT_SIZE)
    kept.plot(
        shares,
        [number(point["retain_score"]) for point in points],
        linewidth=1.8,
        **CURVE_STYLES[0],
    )
    for axes in (forgotten, kept):
        axes.set_ylim(0, 1.08)
        value_axis(axes.yaxis, "accuracy")
        if best is not None and best["share"] > 0:
            axes.axvline(best["share"], color=svg.MUTED, linewidth=0.9)
    _share_axis(kept)
    keys = {**curves, "retain_score": "to be kept"}
    spoken = "; ".join(
        f"{100 * point['share']:.3g} %: "
        + ", ".join(f"{label} {show('accuracy', point[key])}" for key, label in keys.items())
        for point in points
    )
    dashed = f" The dashed line is the limit, {show('accuracy', limit.value)}." if limit else ""
    return svg.inline(figure, name, f"Scores by share of the change: {spoken}.{dashed}")


def _share_axis(axes: Axes) -> None:
    axes.set_xlabel("share of the change", color=svg.MUTED)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.4g} %"))


def _draw_ratios(
    axes: Axes, shares: Sequence[float], ratios: Sequence[float | None], most: float | None
) -> None:
    axes.set_title(
        "Perplexity of text to be kept, times that before",
        loc="left",
        color=svg.INK,
        fontsize=svg.FONT_SIZE,
    )
    style = {"color": svg.AFTER, "linewidth": 1.8, "marker": "o", "markersize": 4.5}
    axes.plot(shares, [number(ratio) for ratio in ratios], **style)
    shown = [ratio for ratio in (*ratios, most) if ratio is not None]
    if shown:
        _ratio_scale(axes, min(shown), max(shown))
    if most is not None:
        _draw_named_limit(axes, most, f"≤ {significant(most)}")
    _share_axis(axes)


def _draw_named_limit(axes: Axes, limit: float, text: str, *, above: bool = False) -> None:
    """A dashed line, and beside the plot what it is: within it lines run everywhere."""
    axes.axhline(limit, **svg.DASHED)
    axes.annotate(
        text,
        (1.02, limit),
        xycoords=axes.get_yaxis_transform(),
        color=svg.LIMIT,
        va="bottom" if above else "center",
        annotation_clip=False,
        parse_math=False,
    )


def _ratio_scale(axes: Axes, low: float, high: float) -> None:
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


def _shares_in_words(
    points: Sequence[Report], limits: Mapping[str, float | None], most: float | None
) -> str:
    spoken = "; ".join(
        f"{100 * point['share']:.3g} %: {measure('ma').label} {show('ma', point['ma'])}, "
        f"{measure('el_10').label} {show('el_10', point['el_10'])}, perplexity times "
        f"{known(significant, point['kept_ratio']) or NO_VALUE}"
        for point in points
    )
    found = [
        f"{measure(metric).label} {show(metric, limit)}"
        for metric, limit in limits.items()
        if limit is not None
    ]
    found += [] if most is None else [f"perplexity times {significant(most)}"]
    dashed = f" The dashed lines are the limits: {', '.join(found)}." if found else ""
    return f"By share of the change: {spoken}.{dashed}"
