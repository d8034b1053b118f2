"""The pictures of a comparison: forgetting against damage, and the strength of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unlearner.report import svg
from unlearner.report.writing import show, significant

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
