"""How far a classifier is from the one trained without the forget set, which is the aim itself."""

import math
from collections.abc import Mapping

from unlearner.evaluation.intervals import Value

Scores = Mapping[str, Mapping[str, Value]]


def tug_of_war(gap_forget: float, gap_retain: float, gap_test: float) -> float:
    """(1 - |forget|) (1 - |retain|) (1 - |test|) of the gaps between two models' scores.

    In [0, 1] for scores in [0, 1]; 1 where the two models score alike on all three sets, so that
    neither forgetting nor keeping can be bought with the other.

    Reference: Zhao et al. (2024), arXiv:2406.01257, with the score for the accuracy.
    """
    return (1 - abs(gap_forget)) * (1 - abs(gap_retain)) * (1 - abs(gap_test))


def distance_to_retrained(
    model_scores: Scores, retrained_scores: Scores, score: str
) -> dict[str, object]:
    """The distances that are known, as a report holds them; gaps are the model's minus the other.

    - `f1_gap`: the gap of the score on every set that both models have it for. On the forget set
      above 0 means that more is remembered than a model knows that never saw the records.
    - `tug_of_war`: of the forget set, the retain set and the test set or, without one, the holdout
      set.
    - `mia_auc_gap`: the gap of `mia_loss_auc` on the forget set.

    What is not known of both models is left out.

    Args:
        model_scores: The model's values, by set and metric.
        retrained_scores: The retrained model's, likewise.
        score: The metric that says how well a set is classified, `f1_micro` for instance.
    """
    every = {name: _gap(model_scores, retrained_scores, name, score) for name in model_scores}
    gaps = {name: gap for name, gap in every.items() if gap is not None}
    found: dict[str, object] = {"f1_gap": gaps} if gaps else {}
    unseen = "test" if "test" in gaps else "holdout"
    if {"forget", "retain", unseen} <= gaps.keys():
        found["tug_of_war"] = tug_of_war(gaps["forget"], gaps["retain"], gaps[unseen])
    attack = _gap(model_scores, retrained_scores, "forget", "mia_loss_auc")
    if attack is not None:
        found["mia_auc_gap"] = attack
    return found


def _gap(model: Scores, retrained: Scores, name: str, metric: str) -> float | None:
    """The model's value minus the retrained model's; None where either is unknown."""
    values = [scores.get(name, {}).get(metric) for scores in (model, retrained)]
    known = [value.value for value in values if value and math.isfinite(value.value)]
    return known[0] - known[1] if len(known) == 2 else None
