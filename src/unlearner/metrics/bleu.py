r"""Sentence BLEU of the greedy continuation against the text's own, up to 4-grams.

.. math::
    BLEU = \min(1, e^{1 - r/c}) \left(\prod_{n=1}^{4} p_n\right)^{1/4}

p_n is the clipped n-gram precision, c and r are the lengths in words of continuation and text. In
[0, 1]; higher: closer to the text. Unsmoothed, lower-cased, words by the rules of mteval-v13a
(sacrebleu): a continuation that shares no word 4-gram has 0. A text of fewer than four words can
share none and is left out. Text written without spaces needs measures over tokens (EL, MA).

Reference: Papineni et al. (2002), doi:10.3115/1073083.1073135; Post (2018), arXiv:1804.08771.
"""

from functools import cache

from sacrebleu.metrics.bleu import BLEU

from unlearner.inference.answers import Answer
from unlearner.metrics.base import CONTINUATION, Measure, Metric

ORDER = 4


@cache
def _bleu_scorer() -> BLEU:
    return BLEU(lowercase=True, smooth_method="none", max_ngram_order=ORDER)


def sentence_bleu(answer: Answer) -> tuple[float, float]:
    """BLEU of one continuation with weight 1, or 0 of 0 where the text has too few words."""
    # The corpus of one sentence is sentence BLEU; sacrebleu's own warns about every unsmoothed one.
    score = _bleu_scorer().corpus_score([answer.continuation_text], [[answer.reference_text]])
    if score.ref_len < ORDER:
        return 0.0, 0.0
    return min(score.score / 100, 1.0), 1.0  # rounding takes a perfect match to 100.00000000000004


metric = Metric(
    tally=sentence_bleu,
    better="higher",
    needs="continuations",
    shown=Measure(
        "BLEU",
        "Overlap in short runs of words between continuation and truth.",
        CONTINUATION,
        order=70,
    ),
)
