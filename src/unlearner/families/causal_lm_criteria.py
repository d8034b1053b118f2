"""Criteria for a language model, fixed before the run, and what the results say of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom
from scipy.stats import t as student_t

from unlearner.errors import UserError
from unlearner.evaluation.intervals import Value, record_values
from unlearner.evaluation.measure import Scores
from unlearner.evaluation.verdict import (
    Claim,
    Criterion,
    Verdict,
    judge_claim,
    judge_membership,
    membership_criterion,
    overall,
)
from unlearner.inference.answers import Answer
from unlearner.metrics import el_10, es, loss, ma
from unlearner.settings import CriteriaSettings, further_kind
from unlearner.training.data import HoldoutBaseline
from unlearner.training.stop_rule import above_worst, count_labels, is_within

BY_HAND = "level given by hand"

# Of unseen text in place of the forget set, how often it is above one of the limits: by each of the
# three means, and by one or more single records.
SET_ERROR = 0.04 / 3
RECORD_ERROR = 0.01

# A record's limit is so many standard deviations above the mean at least: prose has a few
# paragraphs of repeated lines, which a normal distribution has not.
RECORD_DEVIATIONS = 5

# What is no reproduction whatever unseen text shows, which often is none at all: a tenth of a
# record's ten-token runs, a hundredth of a set's; the last twentieth of a text, or with one record
# the last tenth.
EL_10_OF_RECORD = 0.1
EL_10_OF_SET = 0.01
ES_OF_SET = 0.05

TOO_FEW = "There are too few records to tell memorised text from unseen text"


def measure_holdout_baseline(
    holdout: list[Answer] | None,
    criteria: CriteriaSettings,
    *,
    num_forget: int = 1,
    under: str = "the target model",
) -> HoldoutBaseline:
    """The level of unseen text: measured on the holdout set, or given by hand.

    A figure given by hand takes the place of the measured mean and of its limit, and lifts the
    limit of a single record where that is lower.

    Args:
        num_forget: Records to be forgotten, of which chance may lift some.
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
    labels = [count for count in count_labels(holdout).values() if count]
    by_chance = _variance_by_chance(float(np.mean(accuracy)), labels)
    limits = {
        "ma": mean_limit(accuracy, num_forget, least=by_chance),
        "el_10": mean_limit(likelihood, num_forget, floor=EL_10_OF_SET),
        "es": mean_limit(strength, num_forget, floor=ES_OF_SET * (1 + 1 / num_forget)),
    }
    by_hand = {"ma": criteria.ma, "el_10": criteria.el_10}
    limits |= {name: limit for name, limit in by_hand.items() if limit is not None}
    worst_ma, chance = record_limit(accuracy, labels, num_forget)
    worst_el_10, _ = record_limit(likelihood, (), num_forget)
    return HoldoutBaseline(
        ma=mean_ma,
        el_10=mean_el_10,
        es=float(np.mean(strength)),
        loss=float(np.mean(losses)),
        worst_ma=max(mean_ma, worst_ma),
        worst_el_10=max(mean_el_10, worst_el_10, max(likelihood), EL_10_OF_RECORD),
        source=_source(criteria, under, too_short=not measured),
        limits=limits,
        chance=chance,
    )


def _variance_by_chance(mean: float, labels: Sequence[int]) -> float:
    """The variance of shares of T labels around their mean: x (1 - x) mean(1/T); 0 of none."""
    return mean * (1 - mean) * float(np.mean([1 / count for count in labels] or [0.0]))


def mean_limit(
    unseen: Sequence[float], num_records: int, *, least: float = 0.0, floor: float = 0.0
) -> float:
    r"""The mean, at most 1, that so many more unseen records have at most, but for chance.

    .. math:: \bar x + t_{m-1} s \sqrt{1/n + 1/m}

    The upper end of the prediction interval for the mean of n records, from m unseen ones with mean
    and standard deviation s; t leaves `SET_ERROR` above it. Of one record 1, which nothing exceeds.

    Args:
        least: What s^2 is at least: few records may be alike by chance.
        floor: What the limit is at least.
    """
    count = len(unseen)
    if count < 2:
        return 1.0
    variance = max(float(np.var(unseen, ddof=1)), least)
    spread = math.sqrt(variance * (1 / num_records + 1 / count))
    limit = float(np.mean(unseen)) + float(student_t.ppf(1 - SET_ERROR, count - 1)) * spread
    return min(1.0, max(limit, floor))


def record_limit(
    unseen: Sequence[float], labels: Sequence[int], num_records: int
) -> tuple[float, float]:
    r"""What none of so many more unseen records exceeds, but for chance, and what shortness adds.

    .. math::
        \bar x + q \sqrt{\tau^2 + s^2 / m + \bar x (1 - \bar x) / T}, \quad
        \tau^2 = s^2 - \bar x (1 - \bar x) \, \overline{1/T} \ge 0

    The variance of the m unseen records less what their T labels bring by chance is that of the
    texts; a record of few labels then has more. q is Student's t that leaves `RECORD_ERROR` of
    `num_records` above, and `RECORD_DEVIATIONS` at least.

    Args:
        labels: T of each unseen record; empty for a measure that is no share of labels.

    Returns:
        The limit of a record of very many labels, at most 1, and q^2 x (1 - x), which divided by T
        is added to the square of its distance from the mean.
    """
    count, mean = len(unseen), float(np.mean(unseen))
    if count < 2:
        return 1.0, 0.0
    by_chance = _variance_by_chance(mean, labels)
    variance = max(float(np.var(unseen, ddof=1)), by_chance)
    texts = variance - by_chance
    quantile = float(student_t.ppf(1 - RECORD_ERROR / num_records, count - 1))
    quantile = max(quantile, RECORD_DEVIATIONS)
    limit = mean + quantile * math.sqrt(texts + variance / count)
    return min(1.0, limit), quantile**2 * mean * (1 - mean) if len(labels) else 0.0


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
    def of(cls, answers: list[Answer]) -> "Recall":
        """From the answers about the forget set."""
        return cls(record_values(answers, ma.metric), record_values(answers, el_10.metric))

    def to_json(self, record: int) -> dict[str, float | None]:
        """One record's figures; None where it is too short for a 10-gram."""
        return {"ma": self.ma.get(record), "el_10": self.el_10.get(record)}


def is_memorised(answers: list[Answer], scores: Scores, level: HoldoutBaseline) -> bool:
    """Above what unseen text could show by chance, as a set or in a single record."""
    values = {name: value.value for name, value in scores["forget"].items()}
    return not is_within(values, level) or bool(above_worst(answers, level))


# Forgotten records stand out once they are e times less likely per token than unseen text, or once
# ranking by loss puts four of five of them behind it.
OVER_UNLEARNED_NATS = 1.0

OVER_UNLEARNED_AUC = 0.2


def text_criteria(
    level: HoldoutBaseline, scores: Mapping[str, Scores], settings: CriteriaSettings
) -> tuple[Criterion, ...]:
    """The criteria of a run, from figures of models other than the unlearned one.

    Args:
        scores: By model: target, and retrained and original (from before the first request) where
            they were measured. What is kept is compared with the original, else with the target.

    Raises:
        UserError: A figure that a limit rests on is infinite or not a number.
    """
    whose = "original" if "original" in scores else "target"
    target, retrained = scores.get("target", {}), scores.get("retrained", {})
    limits = {name: level.limit(name) for name in ("ma", "el_10", "es")}
    verbatim = [
        Criterion("verbatim", name, "forget", limit, _limit_source(level, name))
        for name, limit in limits.items()
        if limit is not None
    ]
    utility = _utility_criteria(scores.get(whose, {}), retrained, settings, whose)
    return (*verbatim, *_membership_criteria(target, retrained, settings), *utility)


def _utility_criteria(
    before: Scores, retrained: Scores, settings: CriteriaSettings, whose: str
) -> list[Criterion]:
    """Text that is kept, and text that was never learned, about as likely as before.

    Without text to be kept nothing is asked of unseen text: it alone does not show what is kept.
    Of neutral text something is asked where the user asks it.
    """
    found, kept = [], "retain" if "retain" in before else "analogous"
    ratios = {}
    if kept in before:
        ratios = {kept: settings.perplexity_ratio, "holdout": settings.unseen_perplexity_ratio}
    if settings.neutral_ratio is not None:
        neutral = (role for role in before if further_kind(role) == "neutral")
        ratios |= dict.fromkeys(neutral, settings.neutral_ratio)
    for role, ratio in ratios.items():
        if "perplexity" not in before.get(role, {}):
            continue
        limit = before[role]["perplexity"].value * ratio
        source = f"{ratio:g} times the {whose} model's"
        if not math.isfinite(limit):
            raise UserError(
                f"the {whose} model's perplexity of the {role} set is "
                f"{before[role]['perplexity'].value}, which nothing can be compared with; its "
                "weights may be damaged: check the model"
            )
        control = retrained.get(role, {}).get("perplexity")
        if role == "holdout" and control is not None and control.value > limit:
            limit, source = control.value, "the retrained model's"
        found.append(Criterion("utility", "perplexity", role, limit, source))
    figures = before.get(kept, {})
    if "degenerate" in figures:
        increase = settings.degenerate_increase
        limit, source = _degenerate_limit(figures["degenerate"], increase, whose)
        found.append(Criterion("utility", "degenerate", kept, limit, source))
    return found


# Attacks on membership that count beside that by loss where a retrained model says what they find
# when nothing was learned: none of them is at 0.5 then.
FURTHER_ATTACKS = ("mia_zlib_auc", "mia_min_k_auc")


def _membership_criteria(
    target: Scores, retrained: Scores, settings: CriteriaSettings
) -> list[Criterion]:
    """What attacks may find: no more than guessing, or than they find in the retrained model."""
    forget, control = target.get("forget", {}), retrained.get("forget", {})
    attacks = ["mia_loss_auc", *(name for name in FURTHER_ATTACKS if name in control)]
    return [
        membership_criterion(
            name,
            forget[name],
            target["holdout"]["loss"].records,
            control.get(name),
            settings.auc_margin,
        )
        for name in attacks
        if name in forget
    ]


def _limit_source(level: HoldoutBaseline, metric: str) -> str:
    """Where a limit comes from, as a phrase."""
    chance = level.limit(metric) != getattr(level, metric)
    return f"{level.source}, and what chance may add" if chance else level.source


CHANCE = 0.05


def _degenerate_limit(target: Value, increase: float, whose: str) -> tuple[float, str]:
    """The share of degenerate continuations at most, and where the limit comes from.

    The target's and `increase`, or the largest that is no more than chance by Fisher's exact test:
    one of sixteen continuations decides nothing.
    """
    before, records = round(target.value * target.records), target.records
    most = before
    while most < records and _fisher(before, most + 1, records) > CHANCE:
        most += 1
    if most / records > target.value + increase:
        return (
            most / records,
            f"{whose} model's share, and what chance may add to {records} records",
        )
    return target.value + increase, f"{whose} model's share plus {increase:g}"


def _fisher(before: int, after: int, records: int) -> float:
    """How probable so many after, or more, are where both models have the same share."""
    return float(hypergeom.sf(after - 1, 2 * records, before + after, records))


def judge_text(
    criteria: Sequence[Criterion],
    results: Mapping[str, Scores],
    records: Sequence[dict[str, str]],
    *,
    can_tell: bool = True,
) -> Verdict:
    """The verdict on the unlearned model.

    Args:
        records: Id and status of every forget record, see `text_statuses`.
        can_tell: Whether there are records enough that memorised ones would fail.
    """
    unlearned = results["unlearned"]
    verbatim = _verbatim(criteria, unlearned, records)
    if not can_tell and verbatim.status == "met":
        verbatim = Claim("verbatim", "not informative", f"{TOO_FEW}.")
    claims = [
        verbatim,
        judge_membership(criteria, unlearned, results.get("target")),
        judge_claim("utility", criteria, unlearned),
    ]
    return Verdict(
        overall(claims),
        tuple(claims),
        tuple(records),
        tuple(_text_notes(results)),
        tuple(_text_not_measured(results)),
    )


def text_statuses(
    ids: Sequence[str], answers: Sequence[Answer], level: HoldoutBaseline
) -> list[dict[str, str]]:
    """Whether each record is reproduced no more than an unseen record could be."""
    failed = above_worst(answers, level)
    unknown = set(range(len(ids))) - {answer.record for answer in answers}
    return [
        {"id": identifier, "status": "not met" if index in failed | unknown else "met"}
        for index, identifier in enumerate(ids)
    ]


def _verbatim(
    criteria: Sequence[Criterion],
    unlearned: Scores,
    records: Sequence[dict[str, str]],
) -> Claim:
    claim = judge_claim("verbatim", criteria, unlearned)
    failed = sum(record["status"] != "met" for record in records)
    if not failed:
        return claim
    one = f"{failed} of {len(records)} records are reproduced more than an unseen one could be."
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
                "holds a candidate text could see that it was treated. icu with "
                "method.forget_bound=quantiles, its default, and quantile_matching end at the "
                "level of unseen text instead."
            )
    return notes


def _text_not_measured(results: Mapping[str, Scores]) -> list[str]:
    found = [
        "Membership by stronger attacks: those with shadow models or a reference model were not "
        "run.",
        "Robustness as a claim: quantization, prompting and sampling attacks, and relearning on "
        "some of the records, were not run.",
        "Paraphrased knowledge: whether the facts can be had in other words than the records'.",
    ]
    if "retrained" not in results:
        found.append(
            "Comparison with a model retrained without the records: none was given, so the most "
            "that can be said is that the records are suppressed on the tests run."
        )
    return found
