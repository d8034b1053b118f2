"""Criteria for a language model, fixed before the run, and what the results say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unlearner.errors import UserError
from unlearner.evaluation.intervals import record_values
from unlearner.evaluation.measure import Scores
from unlearner.evaluation.verdict import Claim, Criterion, Verdict, judge_claim, overall
from unlearner.inference.answers import Answer
from unlearner.metrics import el_10, es, loss, ma
from unlearner.settings import CriteriaSettings
from unlearner.training.data import HoldoutBaseline
from unlearner.training.stop_rule import above_worst

RECORD_DEVIATIONS = 4

BY_HAND = "level given by hand"


def measure_holdout_baseline(
    holdout: list[Answer] | None, criteria: CriteriaSettings, *, under: str = "the target model"
) -> HoldoutBaseline:
    """The level of unseen text: measured on the holdout set, or given by hand.

    A figure given by hand takes the place of the measured mean, and lifts the limit of a single
    record where that is lower.

    Args:
        under: The model that the answers are of, in words.

    Raises:
        UserError: There is neither holdout text nor a level given by hand.
    """
    if holdout is None and not criteria.by_hand:
        raise UserError(
            "--holdout: text like the forget set that the model never saw is needed to know when "
            "a record is forgotten; give a file, or both criteria.ma and criteria.el_10 by hand"
        )
    if holdout is None:
        assert criteria.ma is not None
        assert criteria.el_10 is not None
        return HoldoutBaseline(
            criteria.ma, criteria.el_10, None, None, criteria.ma, criteria.el_10, BY_HAND
        )
    accuracy = list(record_values(holdout, ma.metric).values())
    measured = list(record_values(holdout, el_10.metric).values())
    likelihood = measured or [0.0]  # no run of ten tokens comes back
    strength = list(record_values(holdout, es.metric).values())
    losses = list(record_values(holdout, loss.metric).values())
    mean_ma = float(np.mean(accuracy)) if criteria.ma is None else criteria.ma
    mean_el_10 = float(np.mean(likelihood)) if criteria.el_10 is None else criteria.el_10
    return HoldoutBaseline(
        ma=mean_ma,
        el_10=mean_el_10,
        es=float(np.mean(strength)),
        loss=float(np.mean(losses)),
        worst_ma=max(mean_ma, record_limit(accuracy)),
        worst_el_10=max(mean_el_10, record_limit(likelihood)),
        source=_source(criteria, under, too_short=not measured),
    )


def record_limit(unseen: Sequence[float]) -> float:
    """The share, at most 1, above which a single record is more than unseen text would be.

    The largest of the unseen records, or four standard deviations above their mean. By the largest
    alone, one of as many other unseen records would be above it every second time.
    """
    spread = float(np.mean(unseen) + RECORD_DEVIATIONS * np.std(unseen))
    return min(1.0, max(*unseen, spread))


def _source(criteria: CriteriaSettings, under: str, *, too_short: bool) -> str:
    """Where the figures of a level come from, as a phrase."""
    mean = f"mean of the holdout set under {under}"
    if too_short and criteria.el_10 is None:
        mean += " (0 for EL_10, which none of its records is long enough for)"
    by_hand = {"MA": criteria.ma, "EL_10": criteria.el_10}
    given = [name for name, value in by_hand.items() if value is not None]
    return f"{BY_HAND} for {' and '.join(given)}, else the {mean}" if given else mean


@dataclass(frozen=True)
class Recall:
    """MA and EL_10 of each forget record, by index."""

    ma: dict[int, float]
    el_10: dict[int, float]

    @classmethod
    def of(cls, answers: list[Answer]) -> Recall:
        """From the answers about the forget set."""
        return cls(record_values(answers, ma.metric), record_values(answers, el_10.metric))

    def to_json(self, record: int) -> dict[str, float | None]:
        """One record's figures; None where it is too short for a 10-gram."""
        return {"ma": self.ma.get(record), "el_10": self.el_10.get(record)}


def is_memorised(answers: list[Answer], scores: Scores, level: HoldoutBaseline) -> bool:
    """Above what unseen text could show by chance, as a set or in a single record."""
    if above_worst(answers, level):
        return True
    unseen, forget = scores.get("holdout", {}), scores["forget"]
    for name, limit in (("ma", level.ma), ("el_10", level.el_10)):
        if name not in forget:
            continue
        high = unseen[name].high if name in unseen else limit
        limit = max(limit, high) if high == high else limit  # the interval of one record is NaN
        if forget[name].value > limit:
            return True
    return False


# Forgotten records stand out once they are e times less likely per token than unseen text, or once
# ranking by loss puts four of five of them behind it.
OVER_UNLEARNED_NATS = 1.0

OVER_UNLEARNED_AUC = 0.2


def text_criteria(
    level: HoldoutBaseline, target: Scores, settings: CriteriaSettings
) -> tuple[Criterion, ...]:
    """The criteria of a run, from the target model's figures alone.

    Raises:
        UserError: A figure that a limit rests on is infinite or not a number.
    """
    found = [
        Criterion("verbatim", "ma", "forget", level.ma, level.source),
        Criterion("verbatim", "el_10", "forget", level.el_10, level.source),
    ]
    if level.es is not None:
        found.append(Criterion("verbatim", "es", "forget", level.es, level.source))
    kept = "retain" if "retain" in target else "analogous"
    figures = target.get(kept, {})
    if "perplexity" in figures:
        limit = figures["perplexity"].value * settings.perplexity_ratio
        if not math.isfinite(limit):
            raise UserError(
                f"the target model's perplexity of the {kept} set is "
                f"{figures['perplexity'].value}, which nothing can be compared with; its weights "
                "may be damaged: check the model"
            )
        source = f"{settings.perplexity_ratio:g} times the target model's"
        found.append(Criterion("utility", "perplexity", kept, limit, source))
    if "degenerate" in figures:
        limit = figures["degenerate"].value + settings.degenerate_increase
        source = f"target model's share plus {settings.degenerate_increase:g}"
        found.append(Criterion("utility", "degenerate", kept, limit, source))
    return tuple(found)


def judge_text(
    criteria: Sequence[Criterion], results: Mapping[str, Scores], records: Sequence[dict[str, str]]
) -> Verdict:
    """The verdict on the unlearned model.

    Args:
        records: Id and status of every forget record, see `text_statuses`.
    """
    unlearned = results["unlearned"]
    claims = [_verbatim(criteria, unlearned, records)]
    claims.append(judge_claim("utility", criteria, unlearned))
    return Verdict(
        overall(claims),
        tuple(claims),
        tuple(records),
        tuple(_text_notes(results)),
        tuple(_text_not_measured(results)),
    )


def text_statuses(
    ids: Sequence[str], recall: Recall, level: HoldoutBaseline
) -> list[dict[str, str]]:
    """Whether each record is reproduced no more than unseen records are."""
    found = []
    for index, identifier in enumerate(ids):
        low = (
            recall.ma.get(index, math.inf) <= level.worst_ma
            and recall.el_10.get(index, 0.0) <= level.worst_el_10  # too short for it: MA decides
        )
        found.append({"id": identifier, "status": "met" if low else "not met"})
    return found


def _verbatim(
    criteria: Sequence[Criterion],
    unlearned: Scores,
    records: Sequence[dict[str, str]],
) -> Claim:
    claim = judge_claim("verbatim", criteria, unlearned)
    failed = sum(record["status"] != "met" for record in records)
    if not failed:
        return claim
    one = f"{failed} of {len(records)} records are reproduced more than any unseen record."
    reason = one if claim.status == "met" else f"{claim.reason} {one}"
    return Claim("verbatim", "not met", reason)


def _text_notes(results: Mapping[str, Scores]) -> list[str]:
    """Extreme values, explained."""
    after = results["unlearned"]
    forget, holdout = after.get("forget", {}), after.get("holdout", {})
    notes = []
    if "loss" in forget and "loss" in holdout:
        gap = forget["loss"].value - holdout["loss"].value
        auc = forget["mia_loss_auc"].value if "mia_loss_auc" in forget else 0.5
        if gap > OVER_UNLEARNED_NATS or auc < OVER_UNLEARNED_AUC:
            notes.append(
                f"over-unlearned: the forgotten records are less likely to the model than text it "
                f"has never seen (mean loss {forget['loss'].value:.1f} against "
                f"{holdout['loss'].value:.1f} nats per token; an observer who ranks texts by their "
                f"loss tells the two apart with AUC {auc:.2f}, where 0.5 is guessing). Whoever "
                "holds a candidate text could see that it was treated. A bound on the ascent "
                "(method.forget_bound=token, the default of icu) lessens this."
            )
    return notes


def _text_not_measured(results: Mapping[str, Scores]) -> list[str]:
    found = [
        "Membership inference as a claim: the loss attack's AUC is shown, no claim rests on it.",
        "Robustness: relearning, quantization, prompting and sampling attacks were not run.",
        "Paraphrased knowledge: whether the facts can be had in other words than the records'.",
    ]
    if "retrained" not in results:
        found.append(
            "Comparison with a model retrained without the records: none was given, so the most "
            "that can be said is that the records are suppressed on the tests run."
        )
    return found
