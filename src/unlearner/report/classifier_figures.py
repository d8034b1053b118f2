"""Which pictures and tables the report of a classifier has, under which question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from unlearner.report import (
    classifier_plots,
    classifier_tables,
    classifier_words,
    figures,
    names,
    plots,
    svg,
    tables,
)
from unlearner.report.classifier_plots import Row
from unlearner.report.figures import Figure
from unlearner.report.measures import GEOMETRY, measure
from unlearner.report.plots import GUESSING


@dataclass(frozen=True)
class Panels:
    """The latent space, a picture per model: its name, the picture, the share of its axes."""

    panels: list[tuple[str, Markup, str]]
    legend: list[classifier_plots.Key]
    caption: str


@dataclass(frozen=True)
class Readings:
    """A table of quantities with how to read them; the models are its columns."""

    title: str
    models: list[str]
    rows: list[classifier_tables.Reading]


@dataclass(frozen=True)
class Answer:
    """What answers one question: a wide picture, pictures, tables; empty parts are left out."""

    question: str
    figures: list[Figure] = field(default_factory=list)
    panels: Panels | None = None
    readings: Readings | None = None
    confusion: list[classifier_tables.Confused] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    @property
    def shown(self) -> bool:
        """Whether anything was measured that answers the question."""
        rows = self.readings.rows if self.readings else []
        return bool(self.figures or self.panels or rows or self.confusion)


def answers(report: dict[str, Any]) -> list[Answer]:
    """Every question that this report has something to show for."""
    called = names.model_labels(report)
    models = [called[m] for m in tables.models_of(report)]
    compared = [called[m] for m in tables.models_of(report) if m != "retrained"]
    distance = classifier_tables.distance(report)
    geometry = classifier_tables.geometry(report)
    confused = [called[m] for m in tables.models_of(report) if m in report.get("confusion", {})]
    with svg.style():
        found = [
            Answer("Does the model still work?", [*_utility(report)]),
            Answer(
                "Can the records be told from unseen ones?",
                [*_membership(report), *figures.membership(report)],
            ),
            Answer(
                "How close is it to a model trained without the records?",
                readings=Readings("Distance to the retrained model", compared, distance),
            ),
            Answer(
                "Where do the records lie in the model’s latent space?",
                [*_geometry(report)],
                _latent(report),
                Readings("Geometry of the latent space", models, geometry),
            ),
            Answer(
                "What are the records labelled as?",
                confusion=classifier_tables.confusion(report),
                models=confused,
            ),
            Answer("How the training went", [*figures.figures(report)]),
        ]
    return [answer for answer in found if answer.shown]


def _utility(report: dict[str, Any]) -> Iterator[Figure]:
    first = classifier_words.score_metric(report)
    for metric in dict.fromkeys((first, "f1_macro")):
        rows = [
            Row(label, metric, _points(report, set_name, metric))
            for set_name, label in names.sets(report).items()
            if metric == "accuracy" or not names.is_one_class(report, set_name)
        ]
        rows = [row for row in rows if any(p.value is not None for p in row.points)]
        if rows:
            labels = names.model_labels(report)
            yield Figure(
                f"{measure(metric).label} by kind of records",
                classifier_plots.dots(f"levels-{metric}", rows, labels, None),
                f"Markers are values, bars 95 % intervals. {_aim(report)} Mind where the scale "
                "begins.",
            )


def _aim(report: dict[str, Any]) -> str:
    if names.removes_class(report):
        return "Only the class that is to be forgotten should have moved, down to chance."
    return (
        "On test and kept records nothing should have moved; on records to be forgotten the aim "
        "is the level of unseen ones."
    )


def _membership(report: dict[str, Any]) -> Iterator[Figure]:
    rows = [
        Row(measure(metric).label, metric, _points(report, "forget", metric))
        for metric in classifier_words.ATTACKS
    ]
    rows = [row for row in rows if any(p.value is not None for p in row.points)]
    if rows:
        labels = names.model_labels(report)
        yield Figure(
            "Membership inference",
            classifier_plots.dots("levels-mia", rows, labels, GUESSING),
            "How well an attack tells the records from unseen ones: 1 always, 0.5 (dashed) as "
            "well as guessing. Below 0.5 they stand out as treated. Bars are 95 % intervals.",
        )


def _points(report: dict[str, Any], set_name: str, metric: str) -> list[plots.Point]:
    return [
        plots.Point(model, entry["value"], entry["low"], entry["high"])
        for model in tables.models_of(report)
        if (entry := report["results"][model].get(set_name, {}).get(metric))
    ]


def _geometry(report: dict[str, Any]) -> Iterator[Figure]:
    found = report.get("geometry", {})
    rows = []
    for metric, known in GEOMETRY.items():
        points = [
            plots.Point(model, found[model].get(metric), None, None)
            for model in tables.models_of(report)
            if model in found
        ]
        if any(p.value is not None for p in points):
            rows.append(Row(known.label, metric, points))
    if rows:
        yield Figure(
            "Geometry at a glance",
            classifier_plots.dots("geometry", rows, names.model_labels(report), None),
            "What was done should bring the filled circles to where the diamonds of the retrained "
            "model are; further than that is more than forgetting."
            if "retrained" in found
            else "Filled circles far from hollow ones: the records have moved. How far they "
            "should move only a retrained model could tell.",
        )


def _latent(report: dict[str, Any]) -> Panels | None:
    projection = report.get("projection")
    if not projection:
        return None
    models, labels = projection["models"], projection["labels"]
    chosen = classifier_plots.chosen_classes(models, len(labels))
    called = names.model_labels(report)
    panels = []
    for model in (m for m in tables.MODELS if m in models):
        points = models[model]
        told = (
            f"Latent space of the model, {called[model]}: {len(points['retain'])} kept and "
            f"{len(points['forget'])} points of records to be forgotten. The table of the geometry "
            "holds the numbers."
        )
        drawing = classifier_plots.latent_space(f"latent-{model}", points, chosen, told)
        panels.append((called[model], drawing, _explained(points.get("explained"))))
    return Panels(panels, classifier_plots.legend_keys(labels, chosen), _latent_caption(models))


def _latent_caption(models: dict[str, Any]) -> str:
    text = (
        "Each dot is a labelled record (or word), where the model’s last layer sees it; colour "
        "and shape are its own label. Records to be forgotten should lie as in the retrained "
        "model: neither buried in their class nor driven out of it. Axes are found for each model "
        "on its own, so compare the arrangement, not the position."
    )
    most = max(len(points["forget"]) for points in models.values())
    shown = max(len(classifier_plots.drawn(points["forget"])) for points in models.values())
    return text if shown == most else f"{text} {shown:,} of {most:,} to be forgotten are drawn."


def _explained(shares: list[float] | None) -> str:
    if not shares:
        return ""
    return f"The two axes hold {100 * shares[0]:.0f} % and {100 * shares[1]:.0f} % of the variance"
