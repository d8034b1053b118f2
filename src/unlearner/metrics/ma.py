r"""Memorization accuracy (MA): share of tokens that are the model's most probable ones.

.. math::
    MA(x) = \frac{1}{T-1} \sum_{t=1}^{T-1} [\arg\max p(\cdot | x_{<t}) = x_t]

In [0, 1]; higher: more of the text is memorised. Over the labels that count: of a plain text all
T-1, as it is defined; of other records those of the response, or of prompt and response
(`data.scope`), never those of a template.

Reference: Tirumala et al. (2022), arXiv:2205.10770; as a stop rule Jang et al. (2022),
arXiv:2210.01504.
"""

from unlearner.inference.answers import Answer
from unlearner.metrics.base import LIKE_UNSEEN, Measure, Metric


def memorized_tokens(answer: Answer) -> tuple[float, float]:
    """Number of labels hit, and of labels that count."""
    hits = answer.hits[answer.scored]
    return float(hits.sum()), float(len(hits))


metric = Metric(
    tally=memorized_tokens,
    better="higher",
    shown=Measure(
        "MA",
        "Memorisation accuracy: how often the model's first guess for the next token of a record "
        "is right.",
        LIKE_UNSEEN,
        order=30,
    ),
)
