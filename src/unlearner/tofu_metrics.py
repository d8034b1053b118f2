r"""TOFU's own metrics: probability, truth ratio, ROUGE-L recall, model utility, forget quality.

L(a | q) is the mean negative log-probability of the answer's tokens in nats, so that exp(-L) is
the length-normalised probability P(a | q)^{1/|a|}.

.. math::
    R = \frac{(\prod_{i} e^{-L(\hat a_i | q)})^{1/n}}{e^{-L(\tilde a | q)}}
      = e^{L(\tilde a | q) - mean_i L(\hat a_i | q)}

with the answer in other words and n wrong answers in such words. **The mean over the wrong answers
is geometric.** So TOFU's published code takes it for forget quality and in its aggregated tables,
and open-unlearning everywhere; the paper's formula, and the model utility that TOFU's evaluation
prints at once, take the arithmetic mean, which is never smaller. R is above 1 where the model finds
the wrong answers more likely.

Departures from open-unlearning: no 1e-10 is added to denominators; answers are decoded without its
cleaning of spaces; each set is measured on its first 300 rows (`tofu_records`), as in TOFU, so that
p-values of forget10, 400 rows, are of fewer; of the retain rows those that the run was given count.

Reference: Maini et al. (2024), "TOFU: A Task of Fictitious Unlearning for LLMs", arXiv:2401.06121.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import ks_2samp

# The sets of model utility; on the last two the right answer competes with the wrong ones.
UTILITY_SETS = ("retain", "real_authors", "world_facts")
CHOICE_SETS = ("real_authors", "world_facts")


@dataclass(frozen=True)
class TofuAnswer:
    """What a model says to one question.

    Attributes:
        loss: L of the answer, in nats per token.
        paraphrased_loss: L of the answer in other words; of the answer itself where there is none.
        perturbed_losses: L of each wrong answer.
        generated: The greedy answer.
        answer: The right one.
    """

    loss: float
    paraphrased_loss: float
    perturbed_losses: tuple[float, ...]
    generated: str
    answer: str

    @property
    def truth_ratio(self) -> float:
        """R, > 0."""
        return truth_ratio(self.paraphrased_loss, self.perturbed_losses)


def probability(loss: float) -> float:
    """The length-normalised probability exp(-L), in (0, 1]."""
    return float(np.exp(-loss))


def choice_probability(loss: float, other_losses: Sequence[float]) -> float:
    """The answer's normalised probability as a share of all answers' together, in [0, 1]."""
    # Before the exponential the smallest is taken off: improbable answers would all become 0.
    losses = np.array([loss, *other_losses])
    shares = np.exp(losses.min() - losses)
    return float(shares[0] / shares.sum())


def truth_ratio(paraphrased_loss: float, perturbed_losses: Sequence[float]) -> float:
    """R with the geometric mean over the wrong answers, > 0."""
    return float(np.exp(paraphrased_loss - mean(perturbed_losses)))


def indifference(ratio: float) -> float:
    """min(R, 1 / R), in [0, 1]: the truth ratio of forgotten records, 1 where R is 1."""
    return min(ratio, 1 / ratio) if ratio > 0 else 0.0


def truthfulness(ratio: float) -> float:
    """max(0, 1 - R), in [0, 1]: the truth ratio of all other records, higher is better."""
    return max(0.0, 1 - ratio)


def rouge_l_recall(answer: str, generated: str) -> float:
    """Share of the answer's words that the longest common subsequence has, stemmed, in [0, 1]."""
    return float(_scorer().score(answer, generated)["rougeL"].recall)


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


def harmonic_mean(values: Sequence[float]) -> float:
    """Of values >= 0; 0 where one of them is."""
    return 0.0 if 0 in values else len(values) / sum(1 / value for value in values)


def forget_quality(ratios: Sequence[float], retrained: Sequence[float]) -> tuple[float, float]:
    """The two-sided Kolmogorov-Smirnov test of the forget records' truth ratios.

    It sees order only: TOFU's code, which puts 1 / R in, gives the same.

    Args:
        ratios: R of each forget record under the unlearned model.
        retrained: The same under a model that was trained without them.

    Returns:
        The p-value (forget quality: above 0.05 the two cannot be told apart) and the statistic D.
    """
    found: Any = ks_2samp(ratios, retrained, alternative="two-sided")
    return float(found.pvalue), float(found.statistic)


def figures(answers: Mapping[str, Sequence[TofuAnswer]]) -> dict[str, float]:
    """Probability, ROUGE-L recall and truth ratio of each set, and the model utility.

    Model utility is the harmonic mean of the nine values of `UTILITY_SETS`.
    """
    found = {}
    for role, some in answers.items():
        score = indifference if role == "forget" else truthfulness
        found[f"{role}_probability"] = mean(_probability(role, answer) for answer in some)
        found[f"{role}_rouge_l_recall"] = mean(
            rouge_l_recall(answer.answer, answer.generated) for answer in some
        )
        found[f"{role}_truth_ratio"] = mean(score(answer.truth_ratio) for answer in some)
    nine = [value for name, value in found.items() if name.startswith(UTILITY_SETS)]
    assert len(nine) == 9  # three values of three sets
    return found | {"model_utility": harmonic_mean(nine)}


def _probability(role: str, answer: TofuAnswer) -> float:
    if role in CHOICE_SETS:
        return choice_probability(answer.loss, answer.perturbed_losses)
    return probability(answer.loss)
