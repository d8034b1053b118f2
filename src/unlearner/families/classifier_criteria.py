"""Criteria for a classifier, fixed before the run, and what the results say of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unlearner.data.tag_schemes import has_entities
from unlearner.evaluation.intervals import Value, record_values
from unlearner.evaluation.measure import Scores, shares_right
from unlearner.evaluation.verdict import (
    Claim,
    Criterion,
    Verdict,
    judge_claim,
    judge_membership,
    margin_in_words,
    membership_criterion,
    overall,
)
from unlearner.inference.answers import ClassAnswer
from unlearner.metrics import loss
from unlearner.metrics.base import TOKEN_CLASSIFICATION
from unlearner.settings import CriteriaSettings

RECORD_DEVIATIONS = 4


def forget_score(family: str, labels: Sequence[str]) -> str:
    """The metric that a set is forgotten by: of entities, of texts, or of words one by one."""
    return "f1_entity" if family == TOKEN_CLASSIFICATION and has_entities(labels) else "accuracy"


def kept_score(family: str, labels: Sequence[str]) -> str:
    """The metric of what is to be kept."""
    return forget_score(family, labels) if family == TOKEN_CLASSIFICATION else "f1_macro"


@dataclass(frozen=True)
class ClassifierBaseline:
    """The figures that the criteria rest on: those of the models measured before the run.

    Attributes:
        family: Of the models.
        labels: The names of the model's outputs.
        removes_class: Whether a class is removed and not single records.
        target: The target model's figures by set.
        retrained: The retrained model's, empty where there is none.
        original: Those of the model from before the first request, likewise.
    """

    family: str
    labels: Sequence[str]
    removes_class: bool
    target: Scores
    retrained: Scores
    original: Scores = field(default_factory=dict)


def label_criteria(
    baseline: ClassifierBaseline, settings: CriteriaSettings
) -> tuple[Criterion, ...]:
    """The criteria of a run, from figures of the target and the retrained model alone."""
    found = (
        _class_criteria(baseline)
        if baseline.removes_class
        else _record_criteria(baseline, settings)
    )
    score = kept_score(baseline.family, baseline.labels)
    whose, before = "target", baseline.target
    if baseline.original:
        whose, before = "original", baseline.original
    for role in ("retain", "test" if "test" in baseline.target else "holdout"):
        value = before.get(role, {}).get(score)
        if value is not None:
            source = f"the {whose} model's less {settings.score_drop:g}"
            found.append(
                Criterion("utility", score, role, None, source, value.value - settings.score_drop)
            )
    return tuple(found)


def _class_criteria(baseline: ClassifierBaseline) -> list[Criterion]:
    """The recall of a removed class at or below chance, in training and unseen records."""
    chance = 1 / len(baseline.labels)
    source = f"chance among {len(baseline.labels)} classes"
    return [
        Criterion("forgetting", "accuracy", role, chance, source)
        for role in ("forget", "holdout_class")
        if role in baseline.target
    ]


def _record_criteria(baseline: ClassifierBaseline, settings: CriteriaSettings) -> list[Criterion]:
    """Score and membership AUC equivalent to the retrained model's, else to unseen records'."""
    score, found = forget_score(baseline.family, baseline.labels), []
    forget = baseline.target["forget"]
    given = baseline.retrained.get("forget", {}).get(score)
    unseen = baseline.target.get("holdout", {}).get(score)
    level = given or unseen
    if level is not None:
        whose = "the retrained model's" if given else "the target model's of the holdout set"
        noise = _half_width(level, forget[score].records if score in forget else 0)
        margin = max(settings.score_margin, noise)
        source = f"{whose} within {margin_in_words(margin, settings.score_margin)}"
        low, high = max(0.0, level.value - margin), min(1.0, level.value + margin)
        found.append(Criterion("forgetting", score, "forget", high, source, low))
    if "mia_loss_auc" in forget:
        retrained = baseline.retrained.get("forget", {}).get("mia_loss_auc")
        unseen_records = baseline.target["holdout"]["loss"].records
        known = forget["mia_loss_auc"]
        found.append(
            membership_criterion(
                "mia_loss_auc", known, unseen_records, retrained, settings.auc_margin
            )
        )
    return found


def _half_width(level: Value, records: int) -> float:
    """Half the 95 % interval of the difference from a set of so many records, from the level's."""
    half = (level.high - level.low) / 2
    if not math.isfinite(half) or not records:
        return 0.0
    return half * math.sqrt(1 + level.records / records)


def is_known(
    scores: Scores, score: str, chance: float | None, margin: float
) -> tuple[bool | None, str]:
    """Whether there is something to unlearn, and the answer in one sentence.

    Args:
        score: The metric that the forget set is judged by.
        chance: Recall of a class to be removed by guessing; None where records are removed: those
            are known where they are classified better, or with less loss, than unseen ones.
    """
    forget = scores["forget"]
    value = forget[score].value if score in forget else math.nan
    found = f"{score} {value:.3f}"
    if chance is not None:
        known = bool(value > chance)
        answer = "known" if known else "nothing to unlearn by this measure"
        return known, f"{answer}: {found} of the class, chance is {chance:.3f}"
    if "mia_loss_auc" not in forget:
        return None, f"{found}; without --holdout there are no unseen records to compare with"
    attack, unseen = forget["mia_loss_auc"], scores["holdout"].get(score)
    distinguished = attack.low == attack.low and attack.low > 0.5  # NaN of one record
    better = unseen is not None and score in forget and value > unseen.value + margin
    known = bool(distinguished or better)
    answer = "known" if known else "nothing to unlearn by these measures"
    level = f"unseen records have {unseen.value:.3f}" if unseen else "no level of unseen ones"
    return known, (
        f"{answer}: {found}, {level}; they are told from unseen ones with AUC {attack.value:.3f} "
        "(0.5 is guessing)"
    )


def judge_labels(
    criteria: Sequence[Criterion],
    scores: Mapping[str, Scores],
    records: Sequence[dict[str, str]],
    *,
    removes_class: bool,
) -> Verdict:
    """The verdict on the unlearned model.

    Args:
        scores: By model: unlearned, and target and retrained where they were measured.
        records: Id and status of every forget record, see `label_statuses`.
    """
    unlearned = scores["unlearned"]
    forgetting = judge_claim("forgetting", criteria, unlearned)
    claims = [_with_records(forgetting, records)]
    if not removes_class:
        claims.append(judge_membership(criteria, unlearned, scores.get("target")))
    claims.append(judge_claim("utility", criteria, unlearned))
    return Verdict(
        overall(claims),
        tuple(claims),
        tuple(records),
        tuple(_label_notes(criteria, unlearned)),
        tuple(_label_not_measured(scores, removes_class=removes_class)),
    )


def _with_records(claim: Claim, records: Sequence[dict[str, str]]) -> Claim:
    failed = sum(record["status"] == "not met" for record in records)
    if not failed:
        return claim
    one = f"{failed} of {len(records)} records by themselves are not met; the table names them."
    return Claim(claim.claim, claim.status, f"{claim.reason} {one}")


def label_statuses(
    ids: Sequence[str],
    unlearned: Mapping[str, list[ClassAnswer]],
    retrained: Mapping[str, list[ClassAnswer]] | None,
    *,
    removes_class: bool,
) -> list[dict[str, str]]:
    """Whether each record is classified as if it had not been learned.

    With a retrained model: no more of its labels are given than that model gives. Of a removed
    class: its label is not given. Otherwise its score distinguishes no single record, for unseen
    records are classified right as well; a record fails if the model is surer of its label than of
    any unseen record's, by log-odds beyond the largest and four deviations above the mean.
    """
    right = shares_right(unlearned["forget"])
    if removes_class:
        remembered = {index for index, share in right.items() if share > 0}
    elif retrained is not None:
        fair = shares_right(retrained["forget"])
        remembered = {index for index, share in right.items() if share > fair[index]}
    else:
        sure = _log_odds(unlearned["forget"])
        unseen = list(_log_odds(unlearned["holdout"]).values())
        limit = max(*unseen, float(np.mean(unseen) + RECORD_DEVIATIONS * np.std(unseen)))
        remembered = {index for index, odds in sure.items() if odds > limit}
    return [
        {"id": identifier, "status": "not met" if index in remembered else "met"}
        for index, identifier in enumerate(ids)
    ]


def _log_odds(answers: Sequence[ClassAnswer]) -> dict[int, float]:
    """Log p / (1 - p) of each record's label, p from its mean loss."""
    losses = record_values(answers, loss.metric)
    return {
        index: -value - math.log(max(-math.expm1(-value), 1e-30)) for index, value in losses.items()
    }


def _label_notes(criteria: Sequence[Criterion], unlearned: Scores) -> list[str]:
    """Extreme values, explained."""
    found = []
    for criterion in criteria:
        value = unlearned.get(criterion.set, {}).get(criterion.metric)
        if value is None or criterion.at_least is None or criterion.set != "forget":
            continue
        if value.value < criterion.at_least:
            found.append(
                f"over-unlearned: {criterion.metric} of the forgotten records is "
                f"{value.value:.3f}, below {criterion.at_least:.3f}, where the range of records "
                f"not learned begins ({criterion.source}). That marks them as treated. An earlier "
                "stop (method.max_epochs, method.steps_per_round) or a smaller "
                "method.learning_rate lessens it."
            )
    return found


def _label_not_measured(scores: Mapping[str, Scores], *, removes_class: bool) -> list[str]:
    found = [
        "Robustness as a claim: quantization and pruning attacks, and relearning on some of "
        "the records, were not run."
    ]
    if removes_class:
        found.append("Membership inference as a claim: of a removed class no claim rests on it.")
    if "target" not in scores:
        found.append(
            "The model before unlearning: none was given, so neither a fall of the scores nor "
            "whether the attack could tell anything at all is known."
        )
    if "retrained" not in scores:
        found.append(
            "Comparison with a model retrained without the records: none was given, so unseen "
            "records are the yardstick, and the most that can be said is that the records are "
            "suppressed on the tests run."
        )
    return found
