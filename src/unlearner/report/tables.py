"""The rows of a report's tables, as text that is ready to be shown (but not yet escaped)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unlearner.report import words
from unlearner.report.measures import (
    MEASURES,
    measure,
    show,
    show_interval,
    visible,
)

MODELS = ("target", "unlearned", "retrained")


@dataclass(frozen=True)
class Criterion:
    """One requirement and the value that was found."""

    what: str
    limit: str
    value: str
    interval: str
    status: str
    source: str


@dataclass(frozen=True)
class Claim:
    """One claim of the verdict with the criteria that it rests on."""

    title: str
    sentence: str
    status: str
    reason: str
    criteria: list[Criterion]


@dataclass(frozen=True)
class Cell:
    """One model's value of a metric."""

    value: str
    interval: str
    records: str


@dataclass(frozen=True)
class ResultRow:
    """A metric on one set, a cell per model."""

    metric: str
    cells: list[Cell]


@dataclass(frozen=True)
class RecordRow:
    """One forget record: values before and after, and its own verdict."""

    id: str
    values: list[tuple[str, str]]
    status: str


def claims(report: dict[str, Any]) -> list[Claim]:
    """Every claim in the verdict's order, with its criteria."""
    return [
        Claim(
            title=words.CLAIMS[claim["claim"]][0],
            sentence=words.CLAIMS[claim["claim"]][1],
            status=claim["status"],
            reason=visible(claim["reason"]),
            criteria=[
                _criterion(report, c) for c in report["criteria"] if c["claim"] == claim["claim"]
            ],
        )
        for claim in report["verdict"]["claims"]
    ]


def _criterion(report: dict[str, Any], criterion: dict[str, Any]) -> Criterion:
    metric, set_name = criterion["metric"], criterion["set"]
    upper = "at_most" in criterion
    bound = criterion["at_most"] if upper else criterion["at_least"]
    entry = report["results"]["unlearned"].get(set_name, {}).get(metric, {})
    value = entry.get("value")
    status = "not measured"
    if value is not None:
        status = "met" if (value <= bound if upper else value >= bound) else "not met"
    # Two numbers that differ must not look the same.
    alike = value is not None and value != bound and show(metric, value) == show(metric, bound)
    digits = 5 if alike else 3
    return Criterion(
        what=words.criterion_words(criterion),
        limit=f"{'≤' if upper else '≥'} {show(metric, bound, digits)}",
        value=show(metric, value, digits),
        interval=show_interval(metric, entry.get("low"), entry.get("high")),
        status=status,
        source=visible(criterion["source"]),
    )


def results(report: dict[str, Any]) -> list[tuple[str, list[ResultRow]]]:
    """Every figure of the run: by set, then by metric in the order of `MEASURES`."""
    models = models_of(report)
    tables = []
    for set_name, label in words.SETS.items():
        scores = {m: report["results"][m].get(set_name, {}) for m in models}
        known = {metric for by_metric in scores.values() for metric in by_metric}
        ordered = [m for m in MEASURES if m in known] + sorted(known - set(MEASURES))
        rows = [
            ResultRow(measure(metric).label, [_cell(metric, scores[m].get(metric)) for m in models])
            for metric in ordered
        ]
        if rows:
            tables.append((label, rows))
    return tables


def models_of(report: dict[str, Any]) -> list[str]:
    """The measured models, in the order of their columns."""
    return [m for m in MODELS if m in report["results"]]


def _cell(metric: str, entry: dict[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("–", "", "")
    interval = show_interval(metric, entry["low"], entry["high"])
    return Cell(show(metric, entry["value"]), interval, f"{entry['records']:,}")


def record_metrics(report: dict[str, Any]) -> list[str]:
    """Which metrics the table by record has."""
    entries = report.get("per_record", [])
    known = {metric for e in entries for side in ("before", "after") for metric in e.get(side, {})}
    return [m for m in ("el_10", "el_3", "ma") if m in known]


def records(report: dict[str, Any]) -> list[RecordRow]:
    """Forget records in the order of the run, with their values where they were measured."""
    metrics = record_metrics(report)
    statuses = {r["id"]: r["status"] for r in report["verdict"].get("records", [])}
    values = {e["id"]: e for e in report.get("per_record", [])}
    rows = []
    for record in dict.fromkeys([*values, *statuses]):
        before, after = (values.get(record, {}).get(side, {}) for side in ("before", "after"))
        pairs = [(show(m, before.get(m)), show(m, after.get(m))) for m in metrics]
        rows.append(RecordRow(visible(record), pairs, statuses.get(record, "not measured")))
    return rows


def glossary(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Label, meaning and reading of every measure that this report has."""
    known = {
        metric
        for sets in report["results"].values()
        for scores in sets.values()
        for metric in scores
    } | {c["metric"] for c in report["criteria"]}
    ordered = [m for m in MEASURES if m in known] + sorted(known - set(MEASURES))
    return [(measure(m).label, measure(m).meaning, measure(m).reading) for m in ordered]


def summary(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The few figures to see first: label, value, and what to compare it with."""
    named = {
        "el_10": "Word-for-word recall (EL₁₀)",
        "ma": "First guesses right (MA)",
        "accuracy": "Labels right (accuracy)",
    }
    tiles = [tile for m, label in named.items() if (tile := _recall_tile(report, m, label))]
    statuses = [r["status"] for r in report["verdict"].get("records", [])]
    tested = [s for s in statuses if s != "not measured"]
    if tested:
        passed = f"{tested.count('met')} of {len(tested)}"
        tiles.append(("Records that pass", passed, "each tested by itself"))
    before = words.value(report, "target", "retain", "perplexity")
    after = words.value(report, "unlearned", "retain", "perplexity")
    if before and after:
        shown = f"{show('perplexity', before)} → {show('perplexity', after)}"
        tiles.append(("Perplexity, text to be kept", words.change(before, after), shown))
    return tiles[:4]


def _recall_tile(report: dict[str, Any], metric: str, label: str) -> tuple[str, str, str] | None:
    after = words.value(report, "unlearned", "forget", metric)
    if after is None:
        return None
    before = words.value(report, "target", "forget", metric)
    level = words.limit(report, metric)
    compared = [f"before {show(metric, before)}"] if before is not None else []
    compared += [f"limit {show(metric, level)}"] if level is not None else []
    return label, show(metric, after), ", ".join(compared)


def examples(report: dict[str, Any]) -> list[dict[str, str]]:
    """The demo's conversations, line breaks kept and other invisible characters written out."""
    return [
        {key: "\n".join(visible(line) for line in text.splitlines()) for key, text in e.items()}
        for e in report.get("examples", [])
    ]
