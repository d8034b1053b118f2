"""Which pictures and tables a report has, under which question; figures.j2 has the captions."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from unlearner.report import classifier_plots, facts, plots, strength_plots, svg, tables
from unlearner.report.facts import Report
from unlearner.report.measures import GEOMETRY, measure
from unlearner.report.plots import GUESSING, Curves, DotRow, Pair, ReferenceLine
from unlearner.report.tasks import task_picture
from unlearner.report.words import BY_CONSTRUCTION
from unlearner.report.writing import macros, one_paragraph


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
    of_family = _classifier_galleries if facts.is_classifier(report) else _language_model_galleries
    with svg.style():
        return [gallery for gallery in of_family(report) if gallery.shown]


def _language_model_galleries(report: Report) -> Iterator[Gallery]:
    yield Gallery("Does the text still come out?", [*_recall(report)])
    yield Gallery("Record by record", [*_records(report)])
    yield Gallery("Can the records be told from unseen ones?", [*_membership_figures(report)])
    yield _distance(report)
    yield Gallery("Does it come back?", [*_relearning(report)])
    yield Gallery("Does the rest of the model still work?", [*_perplexity_by_round(report)])
    yield Gallery("Can it still do other tasks?", [*_tasks(report)])
    yield Gallery("How the training went", [*_training(report)])
    yield Gallery("Part of the change", [*_strength(report)])


def _distance(report: Report) -> Gallery:
    """Empty where there is no retrained model."""
    called = facts.model_labels(report)
    return Gallery(
        "How close is it to a model trained without the records?",
        readings=Readings(
            "Distance to the retrained model",
            [called[m] for m in facts.models_of(report) if m != "retrained"],
            tables.distance_rows(report),
        ),
    )


def _classifier_galleries(report: Report) -> Iterator[Gallery]:
    called = facts.model_labels(report)
    models = facts.models_of(report)
    yield Gallery("Does the model still work?", [*_scores(report)])
    yield Gallery("Can the records be told from unseen ones?", [*_membership_figures(report)])
    yield Gallery("Does it come back?", [*_relearning(report)])
    yield _distance(report)
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
    yield Gallery("Part of the change", [*_strength(report)])


def _figure(drawing: Markup, words: str, **values: object) -> Figure:
    """A picture with its title and caption, which are a macro of figures.j2."""
    title, caption = macros("figures.j2")[words](**values).split("\n", 1)
    return Figure(title, drawing, one_paragraph(caption))


def _dots(
    report: Report, name: str, rows: Iterable[DotRow], line: ReferenceLine | None = None
) -> Markup | None:
    """The rows of which a value is known; None where there is no such row."""
    some = [row for row in rows if any(f["value"] is not None for f in row.figures.values())]
    labels, cut_out = facts.model_labels(report), facts.is_classifier(report)
    return plots.dots(name, some, labels, line, cut_out=cut_out) if some else None


def _row(report: Report, label: str, set_name: str, metric: str) -> DotRow:
    found = {m: facts.figure_of(report, m, set_name, metric) for m in facts.models_of(report)}
    return DotRow(label, metric, {model: figure for model, figure in found.items() if figure})


def _loss_terms(report: Report, words: str) -> Iterator[Figure]:
    rounds = _training_rounds(report)
    if rounds:
        found = dict.fromkeys(term for entry in rounds for term in entry["loss"])
        terms = {name: [entry["loss"].get(name) for entry in rounds] for name in found}
        numbers = [entry["round"] for entry in rounds]
        yield _figure(plots.loss_terms("rounds-loss", numbers, terms), words)


def _training_rounds(report: Report) -> list[Report]:
    """The rounds in which something was trained."""
    return [entry for entry in report.get("rounds", []) if entry["loss"]]


def _limit(report: Report, metric: str) -> ReferenceLine | None:
    value = facts.limit_of(report, metric)
    return None if value is None else ReferenceLine(value, "limit")


# Language models


def _recall(report: Report) -> Iterator[Figure]:
    """By round where there were rounds, otherwise by set."""
    for metric in ("el_10", "ma"):
        label, values = measure(metric).label, facts.values_by_round(report, metric)
        if any(value is not None for value in values):
            limit, criterion = _limit(report, metric), facts.limiting(report, metric)
            curves = {"": values}
            drawing = plots.by_round(f"rounds-{metric}", metric, curves, limit, cut_out=False)
            source = criterion["source"] if criterion else None
            yield _figure(drawing, "recall_by_round", label=label, source=source)
        else:
            yield from _levels(report, metric, "recall_by_set")


def _levels(report: Report, metric: str, words: str) -> Iterator[Figure]:
    rows = (_row(report, label, name, metric) for name, label in facts.set_names(report).items())
    drawing = _dots(report, f"levels-{metric}", rows)
    if drawing:
        yield _figure(drawing, words, label=measure(metric).label)


def _records(report: Report) -> Iterator[Figure]:
    entries = report.get("per_record", [])
    for metric in ("el_10", "ma"):
        pairs = [Pair(e["id"], e["before"].get(metric), e["after"].get(metric)) for e in entries]
        if any(pair.after is not None for pair in pairs):
            limit = _limit(report, metric)
            drawing = plots.by_record(f"records-{metric}", metric, pairs, limit)
            yield _figure(drawing, "recall_by_record", label=measure(metric).label)


def _perplexity_by_round(report: Report) -> Iterator[Figure]:
    yield from _levels(report, "perplexity", "perplexity_by_set")
    curves = _curves(report, {"": "retain_perplexity"})
    if curves:
        before = next(v for v in curves[""] if v is not None)
        line = ReferenceLine(before, "before")
        drawing = plots.by_round("rounds-perplexity", "perplexity", curves, line, cut_out=False)
        yield _figure(drawing, "perplexity_by_round")


def _tasks(report: Report) -> Iterator[Figure]:
    drawing = task_picture(report)
    if drawing:
        yield _figure(drawing, "tasks", retrained="retrained" in report["tasks"]["results"])


def _training(report: Report) -> Iterator[Figure]:
    yield from _loss_terms(report, "loss_terms")
    rounds = _training_rounds(report)
    if rounds:
        numbers, active = ([entry[key] for entry in rounds] for key in ("round", "active"))
        total = report["data"]["forget"]["records"]
        drawing = plots.active_records("rounds-active", numbers, active, total)
        known = facts.method_facts(report)
        only_these = known is not None and known.skips_forgotten
        yield _figure(drawing, "active_records", only_these=only_these)


def _strength(report: Report) -> Iterator[Figure]:
    strength = report.get("strength")
    if strength:
        best = strength["at_the_floor"]
        if facts.is_classifier(report):
            limit = _limit(report, facts.forget_metric(report))
            drawing = strength_plots.scores_by_share("strength", strength, limit)
        else:
            limits = {metric: facts.limit_of(report, metric) for metric in ("ma", "el_10")}
            drawing = strength_plots.by_share(
                "strength", strength, limits, facts.perplexity_limit(report)
            )
        upright, labels = bool(best and best["share"] > 0), facts.is_classifier(report)
        yield _figure(drawing, "by_share", upright=upright, classifier=labels)


# Classifiers


def _scores(report: Report) -> Iterator[Figure]:
    for metric in dict.fromkeys((facts.score_metric(report), "f1_macro")):
        rows = (
            _row(report, label, name, metric)
            for name, label in facts.set_names(report).items()
            if metric == "accuracy" or not facts.is_one_class(report, name)
        )
        drawing = _dots(report, f"levels-{metric}", rows)
        if drawing:
            label, removes_class = measure(metric).label, facts.removes_class(report)
            yield _figure(drawing, "score_by_set", label=label, removes_class=removes_class)


def _membership_figures(report: Report) -> Iterator[Figure]:
    """The attacks at the end, and the one by loss after every round."""
    attacks = facts.attacks_on(report)
    rows = (_row(report, measure(attack).label, "forget", attack) for attack in attacks)
    drawing = _dots(report, "levels-mia", rows, GUESSING)
    if drawing:
        yield _figure(drawing, "membership")
    curves = _curves(report, {"membership AUC": "mia_loss_auc"})
    if curves:
        yield _rounds_figure("mia", "mia_loss_auc", curves, "membership_by_round", GUESSING)


def _relearning(report: Report) -> Iterator[Figure]:
    """What training on retained records alone brings back, by step."""
    found = report.get("relearning", {})
    if "figures" in found:
        curves = {measure(metric).label: values for metric, values in found["figures"].items()}
        yield _figure(plots.by_step("relearning", found["steps"], curves), "relearning")


def _geometry(report: Report) -> Iterator[Figure]:
    found = report.get("geometry", {})
    models = [model for model in facts.models_of(report) if model in found]
    rows = (
        DotRow(
            each.label,
            metric,
            {m: {"value": found[m].get(metric), "low": None, "high": None} for m in models},
        )
        for metric, each in GEOMETRY.items()
    )
    drawing = _dots(report, "geometry", rows)
    if drawing:
        yield _figure(drawing, "geometry", retrained="retrained" in found)


def _latent_space(report: Report) -> LatentSpace | None:
    projection = report.get("projection")
    if not projection:
        return None
    models, labels = projection["models"], projection["labels"]
    chosen = classifier_plots.chosen_classes(models, len(labels))
    called = facts.model_labels(report)
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
    curves = _curves(report, {"to be forgotten": "forget_score", "unseen": "holdout_score"})
    if curves:
        yield _rounds_figure(
            "score",
            metric,
            curves,
            "score_by_round",
            # Of a class that is to go the score of unseen records is not the aim, but a limit.
            _limit(report, metric) if one_class else None,
            label=facts.metric_label(report, metric, "forget"),
            one_class=one_class,
            by_construction=BY_CONSTRUCTION if facts.stopped_by(report, "score") else "",
        )
    curves = _curves(report, {"to be forgotten": "forget_loss", "unseen": "holdout_loss"})
    if curves:
        yield _rounds_figure("records", "loss", curves, "loss_by_round")
    curves = _curves(report, {"to be kept": "retain_score"})
    if curves:
        label = measure(metric).label
        yield _rounds_figure("retain", metric, curves, "retained_by_round", label=label)
    yield from _loss_terms(report, "classifier_loss_terms")


def _rounds_figure(
    name: str,
    metric: str,
    curves: Curves,
    words: str,
    line: ReferenceLine | None = None,
    **values: object,
) -> Figure:
    drawing = plots.by_round(f"rounds-{name}", metric, curves, line, cut_out=True)
    return _figure(drawing, words, **values)


def _curves(report: Report, keys: Mapping[str, str]) -> Curves:
    """Quantities of the rounds by their labels, those known at two rounds or more.

    Empty where the first, which is watched, is not: the other is there to compare it with.
    """
    found = {label: facts.values_by_round(report, key) for label, key in keys.items()}
    known = {c: v for c, v in found.items() if sum(value is not None for value in v) > 1}
    return known if next(iter(keys)) in known else {}
