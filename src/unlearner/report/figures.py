"""Which pictures a report has, under which question, with which words below them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unlearner.report import names, plots, record_plots, strength_plot, svg, words
from unlearner.report.axes import Level
from unlearner.report.measures import measure
from unlearner.report.writing import visible


@dataclass(frozen=True)
class Figure:
    """A plot with its title and the sentence that says how to read it."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Gallery:
    """The pictures that answer one question."""

    question: str
    figures: list[Figure]


def galleries(report: dict[str, Any]) -> list[Gallery]:
    """Every question that this report has a picture for."""
    with svg.style():
        answers = {
            "Does the text still come out?": [*_recall(report)],
            "Record by record": [*_records(report)],
            "Does the rest of the model still work?": [*_utility(report)],
            "How the training went": [*_training(report)],
            "Part of the change": [*_strength(report)],
        }
    return [Gallery(question, figures) for question, figures in answers.items() if figures]


def _recall(report: dict[str, Any]) -> Iterator[Figure]:
    """By round where there were rounds, otherwise by set."""
    rounds = report.get("rounds", [])
    for metric in ("el_10", "ma"):
        label = measure(metric).label
        if any(entry.get(metric) is not None for entry in rounds):
            values = [entry.get(metric) for entry in rounds]
            yield Figure(
                f"{label} of the records, round by round",
                plots.by_round(f"rounds-{metric}", metric, values, _limit(report, metric)),
                "Round 0 (hollow) is the model before. The aim is the dashed line, not zero: a "
                f"model guesses some of any text right. {_source(report, metric)}",
            )
        else:
            yield from _levels(report, metric, "Markers are means, bars 95 % intervals.")


def _records(report: dict[str, Any]) -> Iterator[Figure]:
    entries = report.get("per_record", [])
    for metric in ("el_10", "ma"):
        pairs = [
            record_plots.Pair(e["id"], e["before"].get(metric), e["after"].get(metric))
            for e in entries
        ]
        if any(p.after is not None for p in pairs):
            yield Figure(
                f"{measure(metric).label} of each record",
                record_plots.by_record(f"records-{metric}", metric, pairs, _limit(report, metric)),
                "A mean can hide a record that is still known; here none is hidden. The dashed "
                "line is the limit for the mean.",
            )


def _utility(report: dict[str, Any]) -> Iterator[Figure]:
    yield from _levels(
        report,
        "perplexity",
        "Lower is better on text to be kept and on unseen text. The scale is logarithmic: each "
        "labelled step is a multiple.",
    )
    values = [entry.get("retain_perplexity") for entry in report.get("rounds", [])]
    known = [v for v in values if v is not None]
    if len(known) > 1:
        start = Level(known[0], "before")
        yield Figure(
            "Perplexity of text to be kept, round by round",
            plots.by_round("rounds-perplexity", "perplexity", values, start),
            "A line that stays near the dashed one means that what is to be kept is kept.",
        )


def _training(report: dict[str, Any]) -> Iterator[Figure]:
    rounds = [entry for entry in report.get("rounds", []) if entry["loss"]]
    if not rounds:
        return
    numbers = [entry["round"] for entry in rounds]
    names = list(dict.fromkeys(term for entry in rounds for term in entry["loss"]))
    terms = {name: [entry["loss"].get(name) for entry in rounds] for name in names}
    yield Figure(
        "What the training pulled at",
        plots.loss_terms("rounds-loss", numbers, terms),
        "The weighted terms of the loss. “forget” falls while the records are pushed out; the "
        "others hold on to what is to be kept and should stay low.",
    )
    total = report["data"]["forget"]["records"]
    yield Figure(
        "Records still remembered",
        plots.active_records("rounds-active", numbers, [e["active"] for e in rounds], total),
        "A record is counted as long as it comes out more than unseen text does."
        + (" Only these are worked on in a round." if report["method"]["name"] == "icu" else ""),
    )


def _strength(report: dict[str, Any]) -> Iterator[Figure]:
    if "strength" not in report:
        return
    limits = {metric: words.limit(report, metric) for metric in ("ma", "el_10")}
    drawing = strength_plot.along("strength", report["strength"], limits, words.floor(report))
    best = report["strength"]["at_the_floor"]
    upright = (
        "The upright line is the largest share tried that keeps the other text within its limit. "
        if best and best["share"] > 0
        else ""
    )
    yield Figure(
        "Between the model before and the model after",
        drawing,
        "Every mark is a model whose weights are so much of the way from those before (0 %) to "
        f"those after (100 %). {upright}The dashed lines are the limits of the criteria.",
    )


def _levels(report: dict[str, Any], metric: str, caption: str) -> Iterator[Figure]:
    rows = []
    for set_name, label in names.SETS.items():
        points = [
            plots.Point(model, entry["value"], entry["low"], entry["high"])
            for model, sets in report["results"].items()
            if (entry := sets.get(set_name, {}).get(metric))
        ]
        if any(p.value is not None for p in points):
            rows.append((label, points))
    if rows:
        drawing = plots.levels(f"levels-{metric}", metric, rows, names.model_labels(report))
        yield Figure(f"{measure(metric).label} by kind of text", drawing, caption)


def _limit(report: dict[str, Any], metric: str) -> Level | None:
    value = words.limit(report, metric)
    return None if value is None else Level(value, "limit")


def _source(report: dict[str, Any], metric: str) -> str:
    """Where the limit in the plot is from, as the criteria say."""
    sources = [c["source"] for c in report["criteria"] if words.is_limit(c, metric)]
    return f"The limit is the {visible(sources[0])}." if sources else ""
