"""A matplotlib figure as SVG that belongs to the page: its fonts, its colours, its alt text.

Plots are drawn in the colours below, which stand for roles. On the way out each becomes a CSS
variable, so that one drawing is readable on a light page, on a dark page and on paper.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.dom import minidom

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010100", "#010200", "#010300", "#010400"

BEFORE, AFTER, RETRAINED, LIMIT = "#020100", "#020200", "#020300", "#020400"

TERMS = ("#030100", "#030200", "#030300", "#030400", "#030500")

CLASSES = ("#040100", "#040200", "#040300", "#040400", "#040500", "#040600", "#040700")

ROLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--card)",
    BEFORE: "var(--before)",
    AFTER: "var(--after)",
    RETRAINED: "var(--retrained)",
    LIMIT: "var(--limit)",
    **{term: f"var(--term-{i})" for i, term in enumerate(TERMS, 1)},
    **{color: f"var(--class-{i})" for i, color in enumerate(CLASSES, 1)},
}

WIDTH = 4.5  # inches: on a telephone one point is then about one CSS pixel

FONT_SIZE = 9.0  # points

Style = Mapping[str, Any]  # what matplotlib takes as keywords

# What the data are compared with: a limit, another model's value.
DASHED: Style = {"color": LIMIT, "linestyle": (0, (4, 3)), "linewidth": 1.4}


@contextmanager
def style() -> Iterator[None]:
    """The setting to draw in: matplotlib's defaults and ours, whatever this machine's are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rc("svg", fonttype="none")  # text stays text: it can be read aloud, searched and copied
        mpl.rc("font", size=FONT_SIZE, family="sans-serif")
        # It ships with matplotlib: the same layout everywhere.
        mpl.rc("font", **{"sans-serif": ["DejaVu Sans"]})
        mpl.rc("legend", fontsize=FONT_SIZE)
        mpl.rc("mathtext", default="regular")
        mpl.rc("axes.formatter", use_mathtext=False)
        yield


def canvas(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches: horizontal grid lines and no frame."""
    figure, (axes,) = panels((height,), width)
    return figure, axes


def panels(heights: Sequence[float], width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """As `canvas`, with several axes one above another that share their horizontal one."""
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    for axes in grid[:, 0]:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(length=0, colors=MUTED, labelsize=FONT_SIZE, pad=5)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.patch.set_visible(False)
    return figure, list(grid[:, 0])


def inline(figure: Figure, name: str, description: str) -> Markup:
    """The figure, drawn within `style()`, as an `<svg>` element to stand in an HTML page.

    Args:
        figure: Drawn with the colours of this module.
        name: Unique on the page; element ids begin with it, and it fixes the generated ones.
        description: What stands in its place for a reader who cannot see it.
    """
    buffer = io.StringIO()
    figure.patch.set_visible(False)
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    root = minidom.parseString(buffer.getvalue()).documentElement
    assert root is not None
    for tag in ("metadata", "style"):
        for node in list(root.getElementsByTagName(tag)):
            assert node.parentNode is not None
            node.parentNode.removeChild(node)
    for node in [root, *root.getElementsByTagName("*")]:
        _adapt(node, name)
    for key in ("width", "height", "version"):
        root.removeAttribute(key)
    for key, value in (("class", "plot"), ("role", "img"), ("aria-label", description)):
        root.setAttribute(key, value)
    # matplotlib escaped the text in the drawing and minidom escapes it again on the way out.
    return Markup(root.toxml())


def _adapt(node: minidom.Element, name: str) -> None:
    """Make ids unique on the page, links plain `href`s, and role colours CSS variables."""
    for key, value in list(node.attributes.items()):
        if key.startswith("xmlns"):
            node.removeAttribute(key)
        elif key == "id":
            node.setAttribute("id", f"{name}-{value}")
        elif key == "xlink:href":
            node.removeAttribute(key)
            node.setAttribute("href", value.replace("#", f"#{name}-"))
        elif key == "style":
            node.setAttribute("style", re.sub(r"#0[1-4]0\d00", lambda m: ROLES[m[0]], value))
        elif value.startswith("url(#"):
            node.setAttribute(key, value.replace("url(#", f"url(#{name}-"))
