"""How far a model is from the one trained without the forget set, which is the aim itself."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import ks_2samp

from unlearner.evaluation.intervals import Value
from unlearner.functional import label_margins
from unlearner.inference.answers import Answer, ClassAnswer

Scores = Mapping[str, Mapping[str, Value]]

# Margins are cut off here, in nats: a probability of 0 or 1 would make them infinite.
MOST_MARGIN = 100.0


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


def margin_kl(answers: Sequence[ClassAnswer]) -> float | None:
    r"""KL of the model's margins of a set from the retrained model's, both taken to be Gaussian.

    .. math::
        KL = \ln \frac{s_r}{s} + \frac{s^2 + (m - m_r)^2}{2 s_r^2} - \frac{1}{2}, \quad
        margin = \log \frac{p_y}{1 - p_y}

    with m and s the mean and the standard deviation over the set's labelled positions of the margin
    of the own label y, of the retrained model m_r and s_r. In nats, >= 0; lower is better: 0 where
    the two distributions have the same mean and spread.

    Reference: after KLoM of Georgiev et al. (2024), arXiv:2410.23232.
    Differs from the paper: there the two distributions are of one record over many unlearned and
    many retrained models, and the mean over records counts. Here there is one model of each, so the
    distributions are over the records, and a record that is known too well can be made up for by
    one that is known too badly; and Gaussians stand for histograms.

    Returns:
        None where fewer than two positions have a retrained model's answer, or where all margins of
        a model are equal.
    """
    known = [answer for answer in answers if answer.retrained is not None]
    if sum(len(answer.labels) for answer in known) < 2:
        return None
    labels = np.concatenate([answer.labels for answer in known])
    own = own_margins([answer.class_log_probs for answer in known], labels)
    other = own_margins(
        [answer.retrained for answer in known if answer.retrained is not None], labels
    )
    spread, wanted = float(own.std()), float(other.std())
    if spread == 0 or wanted == 0:
        return None
    apart = float(own.mean() - other.mean())
    return math.log(wanted / spread) + (spread**2 + apart**2) / (2 * wanted**2) - 0.5


def margin_kls(answers: Mapping[str, Sequence[ClassAnswer]]) -> dict[str, object]:
    """`margin_kl` of every set that it is known of, as a report holds it; empty where of none."""
    every = {name: margin_kl(some) for name, some in answers.items()}
    found = {name: value for name, value in every.items() if value is not None}
    return {"margin_kl": found} if found else {}


def token_loss_ks(own: Sequence[Answer], other: Sequence[Answer]) -> float | None:
    r"""Kolmogorov-Smirnov distance of two models' token losses on the same set.

    .. math:: KS = \max_x |F_{own}(x) - F_{other}(x)|

    with F the share of the set's scored tokens whose loss -log p(y_t) is at most x. In [0, 1]: 0
    where both models find as many tokens as easy and as hard, whichever tokens they are. The mean
    of the losses can be right while their spread gives the records away; this sees both.

    Returns:
        None where no token is scored.
    """
    losses = [[-one.log_probs[one.scored] for one in some] for some in (own, other)]
    mine, theirs = (np.concatenate([np.zeros(0), *some]) for some in losses)
    if not len(mine) or not len(theirs):
        return None
    statistic, _ = np.asarray(ks_2samp(mine, theirs, method="asymp"))
    return float(statistic)


def token_loss_distances(
    answers: Mapping[str, Sequence[Answer]], retrained: Mapping[str, Sequence[Answer]]
) -> dict[str, object]:
    """`token_loss_ks` of every set that both models were asked, as a report holds it."""
    every = {
        name: token_loss_ks(answers[name], retrained[name]) for name in answers if name in retrained
    }
    found = {name: value for name, value in every.items() if value is not None}
    return {"token_loss_ks": found} if found else {}


def own_margins(log_probs: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """(N,) log p / (1 - p) of each position's own label, in nats, cut off at `MOST_MARGIN`."""
    given = torch.from_numpy(np.concatenate(log_probs)), torch.from_numpy(labels)
    return label_margins(*given).numpy().astype(float).clip(-MOST_MARGIN, MOST_MARGIN)
