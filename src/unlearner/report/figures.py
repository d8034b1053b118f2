"""Which pictures and tables a report has, under which question; figures.j2 has the captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from unlearner.report import classifier_plots, facts, names, plots, svg, tables
from unlearner.report.facts import Report
from unlearner.report.measures import GEOMETRY, measure
from unlearner.report.plots import GUESSING, Curve, DotRow, Estimate, Pair, ReferenceLine
from unlearner.report.words import BY_CONSTRUCTION
from unlearner.report.writing import macros, one_line


@dataclass(frozen=True)
class Figure:
    """A plot with its title and the sentence that says how to read it."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class LatentSpace:
    """A picture per model: its name, the picture, the shares of variance that its axes hold."""

    panels: list[tuple[str, Markup, list[float] | None]]
    legend: list[classifier_plots.LegendKey]
    records: int  # to be forgotten, and how many of them are drawn
    drawn: int


@dataclass(frozen=True)
class Readings:
    """A table of quantities with how to read them; the models are its columns."""

    title: str
    models: list[str]
    rows: list[tables.Reading]


@dataclass(frozen=True)
class Gallery:
    """What answers one question: a wide picture, pictures, tables; empty parts are left out."""

    question: str
    figures: list[Figure] = field(default_factory=list)
    latent: LatentSpace | None = None
    readings: Readings | None = None
    confusion: list[tables.ConfusionRow] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    @property
    def shown(self) -> bool:
        """Whether anything was measured that answers the question."""
        rows = self.readings.rows if self.readings else []
        return bool(self.figures or self.latent or rows or self.confusion)


def galleries(report: Report) -> list[Gallery]:
    """Every question that this report has something to show for."""
    ask = _of_classifier if facts.is_classifier(report) else _of_language_model
    with svg.style():
        return [gallery for gallery in ask(report) if gallery.shown]


def _of_language_model(report: Report) -> Iterator[Gallery]:
    yield Gallery("Does the text still come out?", [*_recall(report)])
    yield Gallery("Record by record", [*_records(report)])
    yield Gallery("Does the rest of the model still work?", [*_perplexity(report)])
    yield Gallery("How the training went", [*_training(report)])
    yield Gallery("Part of the change", [*_strength(report)])


def _of_classifier(report: Report) -> Iterator[Gallery]:
    called = names.model_labels(report)
    models = facts.models_of(report)
    yield Gallery("Does the model still work?", [*_scores(report)])
    yield Gallery("Can the records be told from unseen ones?", [*_membership(report)])
    yield Gallery(
        "How close is it to a model trained without the records?",
        readings=Readings(
            "Distance to the retrained model",
            [called[m] for m in models if m != "retrained"],
            tables.distance_rows(report),
        ),
    )
    yield Gallery(
        "Where do the records lie in the model’s latent space?",
        [*_geometry(report)],
        _latent_space(report),
        Readings(
            "Geometry of the latent space",
            [called[m] for m in models],
            tables.geometry_rows(report),
        ),
    )
    yield Gallery(
        "What are the records labelled as?",
        confusion=tables.confusion_rows(report),
        models=[called[m] for m in models if m in report.get("confusion", {})],
    )
    yield Gallery("How the training went", [*_scores_by_round(report)])


def _figure(drawing: Markup, words: str, **values: object) -> Figure:
    """A picture with its title and caption, which are a macro of figures.j2."""
    title, caption = macros("figures.j2")[words](**values).split("\n", 1)
    return Figure(title, drawing, one_line(caption))


def _dot_rows(report: Report, wanted: Iterable[tuple[str, str, str]]) -> list[DotRow]:
    """A row for each label, set and metric of which a value is known."""
    rows = [
        DotRow(
            label,
            metric,
            [
                Estimate(model, entry["value"], entry["low"], entry["high"])
                for model in facts.models_of(report)
                if (entry := facts.figure_of(report, model, set_name, metric))
            ],
        )
        for label, set_name, metric in wanted
    ]
    return _with_a_value(rows)


def _with_a_value(rows: Iterable[DotRow]) -> list[DotRow]:
    return [row for row in rows if any(e.value is not None for e in row.estimates)]


def _loss_terms(report: Report, words: str) -> Iterator[Figure]:
    rounds = _trained(report)
    if rounds:
        found = dict.fromkeys(term for entry in rounds for term in entry["loss"])
        terms = {name: [entry["loss"].get(name) for entry in rounds] for name in found}
        numbers = [entry["round"] for entry in rounds]
        yield _figure(plots.loss_terms("rounds-loss", numbers, terms), words)


def _trained(report: Report) -> list[Report]:
    """The rounds in which something was trained."""
    return [entry for entry in report.get("rounds", []) if entry["loss"]]


# Language models


def _limit(report: Report, metric: str) -> ReferenceLine | None:
    value = facts.limit_of(report, metric)
    return None if value is None else ReferenceLine(value, "limit")


def _recall(report: Report) -> Iterator[Figure]:
    """By round where there were rounds, otherwise by set."""
    for metric in ("el_10", "ma"):
        label, values = measure(metric).label, facts.by_round(report, metric)
        if any(value is not None for value in values):
            limit, criterion = _limit(report, metric), facts.limiting(report, metric)
            drawing = plots.by_round(
                f"rounds-{metric}", metric, [Curve("", values)], limit, cut_out=False
            )
            source = criterion["source"] if criterion else None
            yield _figure(drawing, "recall_by_round", label=label, source=source)
        else:
            yield from _levels(report, metric, "recall_by_set")


def _levels(report: Report, metric: str, words: str) -> Iterator[Figure]:
    wanted = ((label, set_name, metric) for set_name, label in names.sets(report).items())
    rows = _dot_rows(report, wanted)
    if rows:
        labels = names.model_labels(report)
        drawing = plots.dots(f"levels-{metric}", rows, labels, cut_out=False)
        yield _figure(drawing, words, label=measure(metric).label)


def _records(report: Report) -> Iterator[Figure]:
    entries = report.get("per_record", [])
    for metric in ("el_10", "ma"):
        pairs = [Pair(e["id"], e["before"].get(metric), e["after"].get(metric)) for e in entries]
        if any(pair.after is not None for pair in pairs):
            limit = _limit(report, metric)
            drawing = plots.by_record(f"records-{metric}", metric, pairs, limit)
            yield _figure(drawing, "recall_by_record", label=measure(metric).label)


def _perplexity(report: Report) -> Iterator[Figure]:
    yield from _levels(report, "perplexity", "perplexity_by_set")
    curve = _curve(report, "", "retain_perplexity")
    if curve:
        before = ReferenceLine(next(v for v in curve.values if v is not None), "before")
        drawing = plots.by_round("rounds-perplexity", "perplexity", [curve], before, cut_out=False)
        yield _figure(drawing, "perplexity_by_round")


def _training(report: Report) -> Iterator[Figure]:
    yield from _loss_terms(report, "loss_terms")
    rounds = _trained(report)
    if rounds:
        numbers, active = ([entry[key] for entry in rounds] for key in ("round", "active"))
        total = report["data"]["forget"]["records"]
        drawing = plots.active_records("rounds-active", numbers, active, total)
        yield _figure(drawing, "active_records", only_these=report["method"]["name"] == "icu")


def _strength(report: Report) -> Iterator[Figure]:
    strength = report.get("strength")
    if strength:
        limits = {metric: facts.limit_of(report, metric) for metric in ("ma", "el_10")}
        most, best = facts.perplexity_limit(report), strength["at_the_floor"]
        drawing = plots.by_share("strength", strength, limits, most)
        yield _figure(drawing, "by_share", upright=bool(best and best["share"] > 0))


# Classifiers


def _scores(report: Report) -> Iterator[Figure]:
    for metric in dict.fromkeys((facts.score_metric(report), "f1_macro")):
        wanted = (
            (label, set_name, metric)
            for set_name, label in names.sets(report).items()
            if metric == "accuracy" or not facts.is_one_class(report, set_name)
        )
        rows = _dot_rows(report, wanted)
        if rows:
            labels = names.model_labels(report)
            yield _figure(
                plots.dots(f"levels-{metric}", rows, labels, cut_out=True),
                "score_by_set",
                label=measure(metric).label,
                removes_class=facts.removes_class(report),
            )


def _membership(report: Report) -> Iterator[Figure]:
    """The attacks at the end, and the one by loss after every round."""
    rows = _dot_rows(report, ((measure(m).label, "forget", m) for m in facts.ATTACKS))
    if rows:
        labels = names.model_labels(report)
        yield _figure(plots.dots("levels-mia", rows, labels, GUESSING, cut_out=True), "membership")
    curve = _curve(report, "membership AUC", "mia_loss_auc")
    if curve:
        yield _rounds_figure("mia", "mia_loss_auc", [curve], "membership_by_round", GUESSING)


def _geometry(report: Report) -> Iterator[Figure]:
    found = report.get("geometry", {})
    models = [model for model in facts.models_of(report) if model in found]
    rows = _with_a_value(
        DotRow(
            each.label,
            metric,
            [Estimate(model, found[model].get(metric), None, None) for model in models],
        )
        for metric, each in GEOMETRY.items()
    )
    if rows:
        drawing = plots.dots("geometry", rows, names.model_labels(report), cut_out=True)
        yield _figure(drawing, "geometry", retrained="retrained" in found)


def _latent_space(report: Report) -> LatentSpace | None:
    projection = report.get("projection")
    if not projection:
        return None
    models, labels = projection["models"], projection["labels"]
    chosen = classifier_plots.chosen_classes(models, len(labels))
    called = names.model_labels(report)
    panels = []
    for model in (m for m in facts.MODELS if m in models):
        points = models[model]
        alternative = (
            f"Latent space of the model, {called[model]}: {len(points['retain'])} kept and "
            f"{len(points['forget'])} points of records to be forgotten. The table of the geometry "
            "holds the numbers."
        )
        drawing = classifier_plots.draw_latent_space(f"latent-{model}", points, chosen, alternative)
        panels.append((called[model], drawing, points.get("explained")))
    forget = [points["forget"] for points in models.values()]
    return LatentSpace(
        panels,
        classifier_plots.legend_keys(labels, chosen),
        records=max(map(len, forget)),
        drawn=max(len(classifier_plots.drawn(points)) for points in forget),
    )


def _scores_by_round(report: Report) -> Iterator[Figure]:
    """What was watched while the model trained; nothing where there were no rounds."""
    if len(report.get("rounds", [])) < 2:
        return
    metric = facts.forget_metric(report)
    one_class = facts.removes_class(report)
    curves = _watched_curves(report, "forget_score", "holdout_score")
    if curves:
        # Of a class that is to go the score of unseen records is not the aim, but a limit.
        criterion = facts.limiting(report, metric) if one_class else None
        yield _rounds_figure(
            "score",
            metric,
            curves,
            "score_by_round",
            ReferenceLine(criterion["at_most"], "limit") if criterion else None,
            label=names.metric_label(report, metric, "forget"),
            one_class=one_class,
            by_construction=BY_CONSTRUCTION if facts.stopped_by(report, "score") else "",
        )
    curves = _watched_curves(report, "forget_loss", "holdout_loss")
    if curves:
        yield _rounds_figure("records", "loss", curves, "loss_by_round")
    curve = _curve(report, "to be kept", "retain_score")
    if curve:
        label = measure(metric).label
        yield _rounds_figure("retain", metric, [curve], "retained_by_round", label=label)
    yield from _loss_terms(report, "classifier_loss_terms")


def _rounds_figure(
    name: str,
    metric: str,
    curves: Sequence[Curve],
    words: str,
    line: ReferenceLine | None = None,
    **values: object,
) -> Figure:
    drawing = plots.by_round(f"rounds-{name}", metric, curves, line, cut_out=True)
    return _figure(drawing, words, **values)


def _watched_curves(report: Report, watched: str, unseen: str) -> list[Curve]:
    first = _curve(report, "to be forgotten", watched)
    second = _curve(report, "unseen", unseen)
    return [curve for curve in (first, second) if curve] if first else []


def _curve(report: Report, label: str, key: str) -> Curve | None:
    """A quantity of the rounds; None where it is known at fewer than two."""
    values = facts.by_round(report, key)
    return Curve(label, values) if sum(v is not None for v in values) > 1 else None
