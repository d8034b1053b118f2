r"""Extraction strength (ES): share of the text that follows from its shortest telling prefix.

.. math::
    ES(x) = 1 - \frac{k^*}{T}

k* is the length of the shortest prefix after which every teacher-forced argmax equals the text, and
T where the last token is missed. In [0, 1]; higher: a shorter prefix gives the rest away. x is what
counts of a record (`data.scope`): of a plain text all T tokens, of which the first has no prompt,
so that k* is 1 at least and ES 1 - 1/T at most; of a response the T tokens behind the question,
which alone may give all of them away (k* = 0). The loop of open-unlearning has the floor 1/T where
this one has 0: mind it when comparing. Windows of a record count by their tokens.

Reference: Wang et al. (2024), arXiv:2406.09179; open-unlearning, arXiv:2506.12618.
"""

from unlearner.inference.answers import Answer
from unlearner.metrics._ngrams import extractable_tail
from unlearner.metrics.base import LIKE_UNSEEN, Measure, Metric


def extractable_tokens(answer: Answer) -> tuple[float, float]:
    """Number of tokens behind the shortest telling prefix, and of all; 0 of 0 without a label."""
    hits = answer.hits[answer.scored]
    if len(hits) == 0:
        return 0.0, 0.0
    num_tokens = sum(stop - start for start, stop in answer.spans)
    return float(extractable_tail(hits)), float(num_tokens)


metric = Metric(
    tally=extractable_tokens,
    better="higher",
    shown=Measure(
        "ES",
        "Extraction strength: how much of a record the model can complete without an error once "
        "it has read the part before.",
        LIKE_UNSEEN,
        order=60,
    ),
)
