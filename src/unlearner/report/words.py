"""A report in everyday words: what was requested, what was done, what the tests show and do not.

The sentences stand in words.j2; here is what they are about. None says that something is
forgotten: the strongest one is that records are suppressed on the tests that were run. Of a
classifier what the stop rule trains for comes last: that the score on the records falls to that of
unseen ones is how a run ends, whether or not anything else went right.
"""

from dataclasses import dataclass
from functools import partial

from unlearner.report import facts
from unlearner.report.facts import Report
from unlearner.report.measures import measure
from unlearner.report.tasks import changed_beyond_chance, leading_changes
from unlearner.report.writing import list_items, macros, one_paragraph, show_interval

BY_CONSTRUCTION = (
    "Training stops once this is down to the aim, so that it got there proves nothing by itself."
)


@dataclass(frozen=True)
class Sentences:
    """The sentences about a run as a whole; what a user wrote is visible but not escaped."""

    headline: str
    requested: str
    done: str
    findings: list[str]
    limits: str
    search: str  # empty where nothing was searched
    tiles: list[list[str]]  # the figures to see first: what, its value, what to compare it with


def sentences(report: Report) -> Sentences:
    """The verdict, what was requested and done, what the tests show and what they cannot."""
    text = macros("words.j2", **_content(report))
    return Sentences(
        headline=one_paragraph(text["headline"]()),
        requested=one_paragraph(text["requested"]()),
        done=one_paragraph(text["done"]()),
        findings=list_items(text["findings"]()),
        limits=one_paragraph(text["limits"]()),
        search=one_paragraph(text["search"]()) if report.get("search") else "",
        tiles=[line.split(" | ") for line in list_items(text["tiles"]())],
    )


def _content(report: Report) -> dict[str, object]:
    """What the sentences of both families are about, beside the report itself."""
    classifier = facts.is_classifier(report)
    values = partial(facts.values_of, report)
    return {
        "report": report,
        "cost": report["cost"],
        "classifier": classifier,
        "removes_class": facts.removes_class(report),
        "exact": facts.exactness(report),
        "method": facts.method_name(report),
        "claims": [
            {"title": facts.claim(report, c["claim"])[0].lower(), "status": c["status"]}
            for c in report["verdict"]["claims"]
        ],
        "values": values,
        "label": lambda metric: measure(metric).label,
        "stopped_by": partial(facts.stopped_by, report),
        "by_construction": BY_CONSTRUCTION,
        **_attacks(report),
        **(_classifier_content(report) if classifier else _language_model_content(report)),
    }


def _language_model_content(report: Report) -> dict[str, object]:
    # What is to be kept, or unseen text where nothing else was given.
    kept = ((name, *facts.values_of(report, name, "perplexity")) for name in ("retain", "holdout"))
    return {
        "further": facts.further_sets(report),
        "leading_changes": leading_changes(report),
        "changed_tasks": changed_beyond_chance(report),
        "limit": partial(facts.limit_of, report),
        "most": facts.perplexity_limit(report),
        "kept": next(
            (
                {"set": name, "before": before, "after": after}
                for name, before, after, _ in kept
                if before and after is not None
            ),
            None,
        ),
    }


def _classifier_content(report: Report) -> dict[str, object]:
    return {
        "score": facts.score_metric(report),
        "forget_score": facts.forget_metric(report),
        "utility_set": facts.utility_set(report),
        "unseen_set": facts.unseen_set(report),
        "recall_of_class": facts.RECALL_OF_CLASS,
        "tug_of_war": [
            facts.to_retrained(report, model).get("tug_of_war") for model in ("target", "unlearned")
        ],
    }


def _attacks(report: Report) -> dict[str, object]:
    """What membership attacks find, the first by loss, and which of them finds most."""

    def interval(metric: str) -> str:
        entry = facts.figure_of(report, "unlearned", "forget", metric)
        return show_interval(metric, entry["low"], entry["high"])

    found = [
        (m, facts.value_of(report, "unlearned", "forget", m)) for m in facts.attacks_on(report)
    ]
    attacks = [(metric, auc) for metric, auc in found if auc is not None]
    return {
        "attacks": attacks,
        "worst_attack": max(attacks, key=lambda one: abs(one[1] - 0.5), default=None),
        "interval": interval,
    }
