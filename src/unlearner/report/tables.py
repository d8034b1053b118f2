"""The rows of a report's tables, as text that is ready to be shown (but not yet escaped)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unlearner.report import facts
from unlearner.report.facts import Report
from unlearner.report.measures import (
    DISTANCE,
    GEOMETRY,
    Measure,
    measure,
    measures,
)
from unlearner.report.writing import (
    NOTHING,
    duration,
    show,
    show_as,
    show_interval,
    significant,
    visible,
)

CONFUSION_ROWS = 30  # per model in report.json: a pair that is missing from a full list may exist


@dataclass(frozen=True)
class CriterionRow:
    """One requirement and the value that was found."""

    what: str
    limit: str
    value: str
    interval: str
    status: str
    source: str


@dataclass(frozen=True)
class ClaimRow:
    """One claim of the verdict with the criteria that it rests on."""

    title: str
    sentence: str
    status: str
    reason: str
    criteria: list[CriterionRow]


@dataclass(frozen=True)
class ResultRow:
    """A metric on one set; per model its value, interval and number of records."""

    metric: str
    cells: list[tuple[str, str, str]]


@dataclass(frozen=True)
class RecordRow:
    """One forget record and its own verdict.

    Attributes:
        cells: Per metric the value before and after; of a classifier per model a word and the
            class of its mark.
    """

    id: str
    cells: list[tuple[str, str]]
    status: str


@dataclass(frozen=True)
class Reading:
    """A quantity, how to read it, and a value per model."""

    label: str
    meaning: str
    reading: str
    values: list[str]


@dataclass(frozen=True)
class ConfusionRow:
    """How many records of one label are given another, per model; `right` where it is the same."""

    own: str
    predicted: str
    right: bool
    counts: list[str]


# Claims


def claims(report: Report) -> list[ClaimRow]:
    """Every claim in the verdict's order, with its criteria."""
    rows = []
    for claim in report["verdict"]["claims"]:
        title, sentence = facts.claim(report, claim["claim"])
        criteria = [c for c in report["criteria"] if c["claim"] == claim["claim"]]
        shown = [_criterion_row(report, criterion) for criterion in criteria]
        rows.append(ClaimRow(title, sentence, claim["status"], claim["reason"], shown))
    return rows


def _criterion_row(report: Report, criterion: Report) -> CriterionRow:
    metric, set_name = criterion["metric"], criterion["set"]
    low, high = criterion.get("at_least"), criterion.get("at_most")
    entry = facts.figure_of(report, "unlearned", set_name, metric)
    value = entry.get("value")
    status = "not measured"
    if value is not None:
        held = (low is None or value >= low) and (high is None or value <= high)
        status = "met" if held else "not met"
    # With five digits where a value and a limit that differ would look alike.
    alike = any(
        value != bound and show(metric, value) == show(metric, bound)
        for bound in (low, high)
        if value is not None and bound is not None
    )
    digits = 5 if alike else 3
    limits = [show(metric, bound, digits) for bound in (low, high) if bound is not None]
    sign = "" if len(limits) == 2 else "≤ " if low is None else "≥ "
    return CriterionRow(
        what=facts.criterion_words(report, criterion),
        limit=sign + " to ".join(limits),
        value=show(metric, value, digits),
        interval=show_interval(metric, entry.get("low"), entry.get("high")),
        status=status,
        source=criterion["source"],
    )


# Results


def results(report: Report) -> list[tuple[str, list[ResultRow]]]:
    """Every figure of the run: by set, then by metric in the order of `measures`."""
    models = facts.models_of(report)
    tables = []
    for set_name, label in facts.set_names(report).items():
        known = {m for model in models for m in report["results"][model].get(set_name, {})}
        rows = [
            ResultRow(
                facts.metric_label(report, metric, set_name),
                [
                    _result_cell(metric, facts.figure_of(report, model, set_name, metric))
                    for model in models
                ],
            )
            for metric in _metrics_in_order(report, known)
        ]
        if rows:
            tables.append((label, rows))
    return tables


def _result_cell(metric: str, entry: Report) -> tuple[str, str, str]:
    if not entry:
        return NOTHING, "", ""
    interval = show_interval(metric, entry["low"], entry["high"])
    return show(metric, entry["value"]), interval, f"{entry['records']:,}"


def _measures(report: Report) -> Mapping[str, Measure]:
    return measures(of_labels=facts.is_classifier(report))


def _metrics_in_order(report: Report, known: set[str]) -> list[str]:
    """Metrics in the order of `measures`, then the rest."""
    listed = _measures(report)
    return [m for m in listed if m in known] + sorted(known - set(listed))


def glossary(report: Report) -> list[Measure]:
    """Every measure that this report has."""
    known = {m for sets in report["results"].values() for scores in sets.values() for m in scores}
    known |= {criterion["metric"] for criterion in report["criteria"]}
    listed = _measures(report)
    return [listed.get(metric, measure(metric)) for metric in _metrics_in_order(report, known)]


# Records


def record_columns(report: Report) -> list[str]:
    """What is known of each record: metrics, or for a classifier the keys of the models."""
    entries = report.get("per_record", [])
    if facts.is_classifier(report):
        known = {side for e in entries for side in e if side != "id" and "correct" in e[side]}
        return [side for side in ("before", "after", "retrained") if side in known]
    known = {metric for e in entries for side in ("before", "after") for metric in e.get(side, {})}
    return [metric for metric in ("el_10", "el_3", "ma") if metric in known]


def record_rows(report: Report) -> list[RecordRow]:
    """Forget records in the order of the run, with what is known of them."""
    columns = record_columns(report)
    cells = _answer_cells if facts.is_classifier(report) else _value_cells
    statuses = {r["id"]: r["status"] for r in report["verdict"].get("records", [])}
    entries = {e["id"]: e for e in report.get("per_record", [])}
    return [
        RecordRow(
            record, cells(entries.get(record, {}), columns), statuses.get(record, "not measured")
        )
        for record in dict.fromkeys([*entries, *statuses])
    ]


def _value_cells(entry: Report, metrics: Sequence[str]) -> list[tuple[str, str]]:
    before, after = (entry.get(side, {}) for side in ("before", "after"))
    return [(show(m, before.get(m)), show(m, after.get(m))) for m in metrics]


def _answer_cells(entry: Report, models: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for model in models:
        correct = entry.get(model, {}).get("correct")
        if correct is None:
            found.append(("not known", "unknown"))
            continue
        kind = "right" if correct == 1 else "wrong" if correct == 0 else "partly"
        # A tagger's record is right in a share of its words.
        share = not isinstance(correct, bool)
        found.append((f"{show('accuracy', correct)} right" if share else kind, kind))
    return found


def record_headings(report: Report) -> list[str]:
    """What the columns are called."""
    labels = facts.model_labels(report)
    sides = {"before": labels["target"], "after": labels["unlearned"], "retrained": "retrained"}
    return [sides.get(column) or measure(column).label for column in record_columns(report)]


def record_counts(report: Report) -> list[tuple[str, str]]:
    """How many records each classifier labels right as a whole: its name and `115 of 163`."""
    found = []
    for side, heading in zip(record_columns(report), record_headings(report), strict=True):
        answers = [entry.get(side, {}).get("correct") for entry in report.get("per_record", [])]
        count = len(answers) - answers.count(None)
        found.append((heading, f"{sum(answer == 1 for answer in answers):,} of {count:,}"))
    return found


# Trials


# The figures of a trial that are shown, with their headings: of language models, of classifiers.
TEXT_TRIAL = {
    "ma": "MA of the records",
    "kept_ratio": "Perplexity of text kept, times that before",
}

LABEL_TRIAL = {
    "forget_score": "Score of the records",
    "holdout_score": "Score of unseen records",
    "mia_loss_auc": "Membership AUC",
    "retain_score": "Score of records kept",
}


def trial_figures(search: Report | None) -> Mapping[str, str]:
    """The figures that the trials of a search have, with their headings."""
    trials = search["trials"] if search else []
    return LABEL_TRIAL if trials and "retain_score" in trials[0] else TEXT_TRIAL


def trial_headings(search: Report | None) -> list[str]:
    """The headings of `trial_rows`."""
    return ["Trial", "Settings", "Ended", *trial_figures(search).values(), "Rounds", "Time"]


def trial_rows(search: Report | None) -> list[tuple[bool, list[str]]]:
    """Every trial of a search in its order: whether it was taken, and the cells of its row.

    These are its number, settings, how it ended, its figures, rounds and time.
    """
    rows: list[tuple[bool, list[str]]] = []
    if not search:
        return rows
    figures = trial_figures(search)
    for trial in search["trials"]:
        cells = [
            str(trial["number"]),
            settings_text(trial["settings"]),
            trial["status"],
            *(_trial_figure(name, trial[name]) for name in figures),
            str(trial["rounds"]),
            duration(trial["seconds"]),
        ]
        rows.append((trial["number"] == search["chosen"], cells))
    return rows


def _trial_figure(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    if name == "kept_ratio":
        return significant(value)
    return show("accuracy" if name.endswith("score") else name, value)


def settings_text(settings: Mapping[str, object]) -> str:
    """Hyper-parameters and their values in a row, without those that are not set."""
    return ", ".join(
        # Learning rates are far below what `significant` has decimals for.
        f"{visible(name)} {f'{value:.3g}' if isinstance(value, float) else visible(value)}"
        for name, value in settings.items()
        if name != "name" and value not in (None, "")
    )


# Distance to a retrained model, and where records lie


def distance_rows(report: Report) -> list[Reading]:
    """How far the models before and after are from the retrained one."""
    models = [model for model in facts.models_of(report) if model != "retrained"]
    distances = [facts.to_retrained(report, model) for model in models]
    rows = [_reading(DISTANCE["tug_of_war"], [found.get("tug_of_war") for found in distances])]
    for name, label in facts.set_names(report).items():
        values = [facts.value_of(report, model, name, "js_to_retrained") for model in models]
        rows.append(_reading(measure("js_to_retrained"), values, label))
    for name, label in facts.set_names(report).items():
        values = [(found.get("margin_kl") or {}).get(name) for found in distances]
        rows.append(_reading(DISTANCE["margin_kl"], values, label))
    for name, label in facts.set_names(report).items():
        values = [(found.get("token_loss_ks") or {}).get(name) for found in distances]
        rows.append(_reading(DISTANCE["token_loss_ks"], values, label))
    for name, label in facts.set_names(report).items():
        gaps = [(found.get("f1_gap") or {}).get(name) for found in distances]
        rows.append(_reading(DISTANCE["f1_gap"], gaps, label, signed=True))
    gaps = [found.get("mia_auc_gap") for found in distances]
    rows.append(_reading(DISTANCE["mia_auc_gap"], gaps, signed=True))
    explained: set[str] = set()
    shown = []
    for row in filter(None, rows):
        # What a quantity means stands beside the first of its rows only.
        shown.append(replace(row, meaning="", reading="") if row.meaning in explained else row)
        explained.add(row.meaning)
    return shown


def geometry_rows(report: Report) -> list[Reading]:
    """Where the records lie in the latent space of each model."""
    found = [report.get("geometry", {}).get(model, {}) for model in facts.models_of(report)]
    rows = [
        _reading(each, [by_metric.get(metric) for by_metric in found])
        for metric, each in GEOMETRY.items()
    ]
    return [row for row in rows if row]


def _reading(
    each: Measure, values: Sequence[float | None], of: str = "", *, signed: bool = False
) -> Reading | None:
    """A row of values, of a set where one is named; None where no value is known."""
    if all(value is None for value in values):
        return None
    shown = [
        ("+" if signed and value and value > 0 else "") + show_as(each, value) for value in values
    ]
    label = f"{each.label}: {of.lower()}" if of else each.label
    return Reading(label, each.meaning, each.reading, shown)


def confusion_rows(report: Report) -> list[ConfusionRow]:
    """What the records of each label are labelled as, the most frequent pairs first."""
    found = report.get("confusion", {})
    models = [model for model in facts.models_of(report) if model in found]
    counts = {m: {(own, predicted): n for own, predicted, n in found[m]} for m in models}
    pairs = {pair for by_pair in counts.values() for pair in by_pair}
    ordered = sorted(pairs, key=lambda p: (-max(counts[m].get(p, 0) for m in models), p))
    rest = {m: NOTHING if len(found[m]) >= CONFUSION_ROWS else "0" for m in models}
    return [
        ConfusionRow(
            own,
            predicted,
            own == predicted,
            [
                f"{counts[m][own, predicted]:,}" if (own, predicted) in counts[m] else rest[m]
                for m in models
            ],
        )
        for own, predicted in ordered
    ]
