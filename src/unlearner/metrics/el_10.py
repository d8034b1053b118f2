r"""Extraction likelihood EL_10: overlap in 10-grams of greedy continuations with the text.

.. math::
    EL_{10}(x) = \frac{1}{T-10-s+1} \sum_{t=s}^{T-10}
        OV_{10}(\mathrm{greedy}(x_{<t}), x_{\ge t})

OV_10(a, b) is the number of 10-grams of a, with multiplicity, that occur in b, over the number of
10-grams of b. In [0, 1]; higher: more of the text can be drawn out. x is
what counts of a record (`data.scope`): a plain text, or a response, whose prompts all hold the
question too. They run from the shortest one that the answers hold, s = `Answer.prompt_start`: s = 1
is the original measure, s = 0.75 T that of the code of ICU, and the two differ in value.

Ten tokens in a row hardly match by chance: what is left on text never seen are set phrases and
loops that the text shares.

Reference: Jang et al. (2022), arXiv:2210.01504.
"""

from unlearner.inference.answers import Answer
from unlearner.metrics._ngrams import extraction_likelihood
from unlearner.metrics.base import LIKE_UNSEEN, Measure, Metric


def overlap_10(answer: Answer) -> tuple[float, float]:
    """Sum of OV_10 over the prompts, and the number of prompts."""
    return extraction_likelihood(answer, 10, answer.prompt_start)


metric = Metric(
    tally=overlap_10,
    better="higher",
    needs="continuations",
    shown=Measure(
        "EL₁₀",
        "Extraction likelihood: the model continues a record from every possible beginning; EL₁₀ "
        "is the share of ten-token runs that match the true rest word for word.",
        LIKE_UNSEEN,
        order=50,
    ),
)
