"""Criteria fixed before the run, and what the results say of them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unlearner.evaluation.intervals import Value

# Of one model: its figures by set and metric.
Figures = Mapping[str, Mapping[str, Value]]

Results = Mapping[str, Figures]


@dataclass(frozen=True)
class Criterion:
    """Limits of one figure: `metric` on `set` at most `at_most`, at least `at_least`, or both."""

    claim: str
    metric: str
    set: str
    at_most: float | None
    source: str
    at_least: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As the report holds it, without the limit that it has not."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def highest(self) -> float:
        """The limit from above, infinite where there is none."""
        return math.inf if self.at_most is None else self.at_most

    @property
    def could_fail(self) -> bool:
        """Whether a share between 0 and 1 can be outside the limits at all."""
        return not (self.holds(0.0) and self.holds(1.0))

    def holds(self, value: float) -> bool:
        """Whether a value is within; one that is infinite or not a number never is."""
        low = -math.inf if self.at_least is None else self.at_least
        return math.isfinite(value) and low <= value <= self.highest

    def in_words(self, value: float) -> str:
        """The value and its limits."""
        if self.at_least is None:
            limits = f"the limit {self.at_most:.4g}"
        elif self.at_most is None:
            limits = f"at least {self.at_least:.4g} is asked for"
        else:
            limits = f"the range {self.at_least:.4g} to {self.at_most:.4g}"
        return f"{self.metric} of {self.set} is {value:.4g}, {limits}"


@dataclass(frozen=True)
class Claim:
    """One claim and whether it holds: "met", "not met", "not measured" or "not informative"."""

    claim: str
    status: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What may be said about the unlearned model.

    Attributes:
        status: "met" when every claim is met; "not met" when one is not; else "not measured".
        records: For every forget record its id and its own status.
        notes: Observations in words, such as over-unlearning.
        not_measured: What this run cannot say anything about.
    """

    status: str
    claims: tuple[Claim, ...]
    records: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    not_measured: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As the report holds it."""
        return json.loads(json.dumps(asdict(self)))


CONFIDENCE, TWO_SIDED_95 = 0.95, 1.96


def auc_noise(members: int, others: int) -> float:
    """Half the 95 % interval of the AUC of two sets that do not differ (Mann and Whitney 1947).

    At most 0.5, which no AUC is beyond. Of one member, whose AUC is its rank among the others, it
    is exact; else by the normal approximation.
    """
    if members == 1:
        ends = math.floor((1 - CONFIDENCE) / 2 * (others + 1))  # ranks beyond it, on either side
        return 0.5 - ends / others
    return min(0.5, TWO_SIDED_95 * math.sqrt((members + others + 1) / (12 * members * others)))


def membership_criterion(
    metric: str, target: Value, unseen: int, retrained: Value | None, margin: float
) -> Criterion:
    """An attack's AUC of the forget set, between guessing and the retrained model's.

    With few records the retrained model's is off 0.5 by chance; 0.5 itself is no failure.

    Args:
        target: That of the target model.
        unseen: The number of unseen records.
        margin: How far outside of the two it may be; never less than chance allows so few records.
    """
    ends = (0.5, 0.5 if retrained is None else retrained.value)
    wide = max(margin, auc_noise(target.records, unseen))
    whose = "guessing" if retrained is None else "guessing to the retrained model's"
    source = f"{whose} within {margin_in_words(wide, margin)}"
    low, high = max(0.0, min(ends) - wide), min(1.0, max(ends) + wide)
    return Criterion("membership", metric, "forget", high, source, low)


def margin_in_words(margin: float, asked: float) -> str:
    """The margin, and why it is wider than it was asked for."""
    why = "" if margin <= asked else ", which as few records show by chance"
    return f"{margin:.3g}{why}"


def digest_criteria(criteria: Sequence[Criterion]) -> str:
    """SHA-256 of the criteria, to show afterwards that they are the ones fixed before."""
    text = json.dumps([criterion.to_json() for criterion in criteria], sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def overall(claims: Sequence[Claim]) -> str:
    """The status of all claims: met if each is; one not measured, or not informative, is not."""
    statuses = {claim.status for claim in claims}
    if "not met" in statuses:
        return "not met"
    return "met" if statuses == {"met"} else "not measured"


def judge_claim(name: str, criteria: Sequence[Criterion], unlearned: Figures) -> Claim:
    """All criteria of a claim against the unlearned model's figures."""
    mine = [criterion for criterion in criteria if criterion.claim == name]
    if not mine:
        return Claim(name, "not measured", "There was no text to measure it on.")
    failed, missing, held = [], [], []
    for criterion in mine:
        value = unlearned.get(criterion.set, {}).get(criterion.metric)
        if value is None:
            missing.append(f"{criterion.metric} of {criterion.set}")
            continue
        found = held if criterion.holds(value.value) else failed
        found.append(criterion.in_words(value.value))
    two_sided = any(criterion.at_least is not None for criterion in mine)
    if failed:
        wrong = "Outside the limits" if two_sided else "Above the limit"
        return Claim(name, "not met", f"{wrong}: {'; '.join(failed)}.")
    if missing:
        return Claim(name, "not measured", f"Not measured: {'; '.join(missing)}.")
    right = "Within the limits" if two_sided else "At or below every limit"
    return Claim(name, "met", f"{right}: {'; '.join(held)}.")


AS_LEARNED = "The records are still recognisable as learned."

AS_TREATED = "The records are recognisable as treated."


def judge_membership(
    criteria: Sequence[Criterion], unlearned: Figures, target: Figures | None
) -> Claim:
    """What membership attacks say, and which way they tell the records from unseen ones.

    An attack that does not tell them in the target model either, or that no AUC would fail, shows
    nothing by not telling them in the unlearned one.

    Args:
        target: The target model's figures; None where it was not measured.
    """
    mine = [criterion for criterion in criteria if criterion.claim == "membership"]
    claim = judge_claim("membership", mine, unlearned)
    if not mine:
        return replace(claim, reason="There were no unseen records to compare with (--holdout).")
    found = {one: _value_of(one, unlearned) for one in mine}
    learned = any(found[one] > one.highest for one in mine)
    treated = any(one.at_least is not None and found[one] < one.at_least for one in mine)
    if claim.status == "not met":
        ways = [way for way, so in ((AS_LEARNED, learned), (AS_TREATED, treated)) if so]
        return replace(claim, reason=" ".join([claim.reason, *ways]))
    if claim.status != "met":
        return claim
    tells = [one for one in mine if one.could_fail]
    if not tells:
        reason = "There are so few records that any AUC can be chance; give more unseen ones."
        return Claim("membership", "not informative", f"{reason} {claim.reason}")
    if target is not None and not any(_value_of(one, target) > one.highest for one in tells):
        aucs = ", ".join(f"{_value_of(one, target):.3f}" for one in tells)
        reason = (
            "The attack does not tell the records from unseen ones in the target model either (AUC "
            f"{aucs}), so that it says nothing about the unlearned one."
        )
        return Claim("membership", "not informative", f"{reason} {claim.reason}")
    return claim


def _value_of(criterion: Criterion, figures: Figures) -> float:
    value = figures.get(criterion.set, {}).get(criterion.metric)
    return math.nan if value is None else value.value
