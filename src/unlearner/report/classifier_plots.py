"""A classifier's latent space as a picture: one panel per model, a mark of its own per class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from unlearner.report import svg
from unlearner.report.plots import short_name

Projected = tuple[float, float, int]  # x, y and the index of the class

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
class LegendKey:
    """One line of the legend: a name, the outline of its mark, and the CSS value of its colour."""

    label: str
    path: str
    color: str


def legend_keys(labels: Sequence[str], chosen: Sequence[int]) -> list[LegendKey]:
    """The legend of `chosen_classes`, the rest as one last line where there is a rest."""
    keys = [
        LegendKey(short_name(labels[k], 32), path, svg.ROLES[color])
        for k, path, color in zip(chosen, SHAPES.values(), svg.CLASSES, strict=False)
    ]
    rest = len(labels) - len(chosen)
    if rest:
        label = f"{rest} other classes" if rest > 1 else "1 other class"
        keys.append(LegendKey(label, OTHER, svg.ROLES[svg.MUTED]))
    return keys


def chosen_classes(
    models: Mapping[str, Mapping[str, Sequence[Projected]]], num_labels: int
) -> list[int]:
    """The classes that get a colour of their own: those most frequent among the forget records."""
    gone, kept = Counter[int](), Counter[int]()
    for points in models.values():
        gone.update(k for _, _, k in points["forget"])
        kept.update(k for _, _, k in points["retain"])
    by_weight = sorted(range(num_labels), key=lambda k: (-gone[k], -kept[k], k))
    present = [k for k in by_weight if gone[k] or kept[k]]
    # In the order of the labels, so that colours do not depend on who is to be forgotten.
    return sorted(present[: len(SHAPES)])


def draw_latent_space(
    name: str, points: Mapping[str, Sequence[Projected]], chosen: Sequence[int], description: str
) -> Markup:
    """One model's panel.

    Args:
        name: Unique on the page.
        points: Under "retain" and "forget" x, y and the index of the class.
        chosen: Classes with a mark of their own, see `chosen_classes`.
        description: What stands in its place for a reader who cannot see it.
    """
    figure, axes = svg.canvas(HEIGHT, WIDTH)
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(svg.GRID)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    forget = drawn(points["forget"])
    size = 6.5 if len(forget) <= 150 else 5
    for k in [None, *chosen]:
        _draw_class(axes, points["retain"], k, chosen, _marker_style(k, chosen, pale=True))
    for k in [None, *chosen]:
        style = {**_marker_style(k, chosen, pale=False), "markersize": 3.5 if k is None else size}
        _draw_class(axes, forget, k, chosen, style)
    axes.margins(0.05)
    return svg.inline(figure, name, description)


def drawn(points: Sequence[Projected]) -> list[Projected]:
    """At most `DRAWN_RECORDS` of the points, evenly spaced."""
    step = max(1, -(-len(points) // DRAWN_RECORDS))
    return list(points[::step])


def _marker_style(k: int | None, chosen: Sequence[int], *, pale: bool) -> svg.Style:
    index = None if k is None else chosen.index(k)
    color = svg.MUTED if index is None else svg.CLASSES[index]
    marker = "." if index is None else list(SHAPES)[index]
    if pale:
        return {"color": color, "marker": marker, "markersize": 3, "alpha": 0.4, "mew": 0}
    edge = {"markeredgecolor": svg.INK, "mew": 1.0, "zorder": 3}
    return {"color": color, "marker": "o" if index is None else marker, **edge}


def _draw_class(
    axes: Axes, points: Sequence[Projected], k: int | None, chosen: Sequence[int], style: svg.Style
) -> None:
    """The points of class k; of every class without a mark of its own for None."""
    points = [p for p in points if (p[2] == k if k is not None else p[2] not in chosen)]
    if points:
        axes.plot([p[0] for p in points], [p[1] for p in points], linestyle="none", **style)
