"""Which pictures a report has, under which question, with which words below them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unlearner.report import (
    classifier_plots,
    classifier_words,
    names,
    plots,
    strength_plot,
    svg,
    words,
)
from unlearner.report.classifier_plots import Curve
from unlearner.report.measures import measure
from unlearner.report.plots import GUESSING, Level
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
            plots.Pair(e["id"], e["before"].get(metric), e["after"].get(metric)) for e in entries
        ]
        if any(p.after is not None for p in pairs):
            yield Figure(
                f"{measure(metric).label} of each record",
                plots.by_record(f"records-{metric}", metric, pairs, _limit(report, metric)),
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


def figures(report: dict[str, Any]) -> Iterator[Figure]:
    """What was watched while the model trained; nothing where there were no rounds."""
    rounds = report.get("rounds", [])
    if len(rounds) < 2:
        return
    metric = classifier_words.forget_metric(report)
    yield from _score(report, rounds, metric)
    yield from _losses(rounds)
    kept = _curve("to be kept", rounds, "retain_score")
    if kept:
        yield Figure(
            f"{measure(metric).label} of what is to be kept, round by round",
            classifier_plots.curves("rounds-retain", metric, [kept], None),
            "A level line means that what is to be kept is kept.",
        )
    yield from _loss_terms(rounds)


def _score(report: dict[str, Any], rounds: list[dict], metric: str) -> Iterator[Figure]:
    lines = _compared(rounds, "forget_score", "holdout_score")
    if lines:
        label = names.metric_label(report, metric, "forget")
        of = "" if names.removes_class(report) else " of the records"
        stopped = classifier_words.stopped_by(report, "score")
        aim = classifier_words.BY_CONSTRUCTION if stopped else ""
        yield Figure(
            f"{label}{of}, round by round",
            classifier_plots.curves("rounds-score", metric, lines, _allowed(report, metric)),
            f"Round 0 (hollow) is the model before. {aim}",
        )


def _allowed(report: dict[str, Any], metric: str) -> Level | None:
    """The limit for a class that is to go: there the level of unseen records is not the aim."""
    limits = [
        c["at_most"]
        for c in report["criteria"]
        if (c["metric"], c["set"]) == (metric, "forget") and "at_most" in c
    ]
    return Level(limits[0], "limit") if limits and names.removes_class(report) else None


def membership(report: dict[str, Any]) -> Iterator[Figure]:
    """The loss attack after every round."""
    line = _curve("membership AUC", report.get("rounds", []), "mia_loss_auc")
    if line:
        yield Figure(
            "Membership inference by loss, round by round",
            classifier_plots.curves("rounds-mia", "mia_loss_auc", [line], GUESSING),
            "1 means always told from unseen records, 0.5 (dashed) as well as guessing. The score "
            "can fall while this stays up: then the records are answered wrong and still known.",
        )


def _losses(rounds: list[dict]) -> Iterator[Figure]:
    lines = _compared(rounds, "forget_loss", "holdout_loss")
    if lines:
        yield Figure(
            "Loss of the records, round by round",
            classifier_plots.curves("rounds-records", "loss", lines, None),
            "In nats. The aim is the dashed line. Above it the records surprise the model more "
            "than unseen ones do, which marks them as treated.",
        )


def _compared(rounds: list[dict], watched: str, unseen: str) -> list[Curve]:
    first, second = _curve("to be forgotten", rounds, watched), _curve("unseen", rounds, unseen)
    return [line for line in (first, second) if line] if first else []


def _curve(label: str, rounds: list[dict], key: str) -> Curve | None:
    """A quantity of the rounds; None where it is known at fewer than two."""
    values = [entry.get(key) for entry in rounds]
    return Curve(label, values) if sum(v is not None for v in values) > 1 else None


def _loss_terms(rounds: list[dict]) -> Iterator[Figure]:
    trained = [entry for entry in rounds if entry["loss"]]
    if trained:
        found = dict.fromkeys(term for entry in trained for term in entry["loss"])
        terms = {name: [entry["loss"].get(name) for entry in trained] for name in found}
        yield Figure(
            "What the training pulled at",
            plots.loss_terms("rounds-loss", [entry["round"] for entry in trained], terms),
            "The weighted terms of the loss: what pushes the records out, and what holds on to "
            "the rest.",
        )
