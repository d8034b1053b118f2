r"""ROUGE-L F1 of the greedy continuation against the text's own.

.. math::
    F_1 = \frac{2 P R}{P + R}, \quad P = \frac{LCS}{c}, \quad R = \frac{LCS}{r}

LCS is the length of the longest common subsequence of words, c and r the lengths of continuation
and text. In [0, 1]; higher: closer to the text. Lower-cased, not stemmed. Words are runs of letters
and digits of any script. On ASCII text that is what rouge-score itself does; elsewhere it drops the
letters, and a text known by heart would have 0 in another script. A text without words is left out.
Text written without spaces needs measures over tokens (EL, MA).

Reference: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
"""

import re
from collections.abc import Callable
from functools import cache

from unlearner.inference.answers import Answer
from unlearner.metrics.base import CONTINUATION, Measure, Metric

WORD = re.compile(r"[^\W_]+")


class _Words:
    """What rouge-score takes for a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())


@cache
def _rouge_l() -> Callable[[str, str], float]:
    """F1 of a text and what a model makes of it."""
    # Heavy: it brings a language toolkit, which a report that only names the metric can do without.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return lambda text, other: float(scorer.score(text, other)["rougeL"].fmeasure)


def longest_common_subsequence_f1(answer: Answer) -> tuple[float, float]:
    """ROUGE-L F1 of one continuation with weight 1, or 0 of 0 where the text has no words."""
    if not WORD.search(answer.reference_text):
        return 0.0, 0.0
    return _rouge_l()(answer.reference_text, answer.continuation_text), 1.0


metric = Metric(
    tally=longest_common_subsequence_f1,
    better="higher",
    needs="continuations",
    shown=Measure(
        "ROUGE-L",
        "Longest sequence of words, in order, that continuation and truth share.",
        CONTINUATION,
        order=80,
    ),
)
