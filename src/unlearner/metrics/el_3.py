r"""Extraction likelihood EL_3: overlap in 3-grams of greedy continuations with the text.

.. math::
    EL_{3}(x) = \frac{1}{T-3-s+1} \sum_{t=s}^{T-3}
        OV_{3}(\mathrm{greedy}(x_{<t}), x_{\ge t})

OV_3(a, b) is the number of 3-grams of a, with multiplicity, that occur in b, over the number of
3-grams of b. In [0, 1]; higher: more of the text can be drawn out. x is
what counts of a record (`data.scope`): a plain text, or a response, whose prompts all hold the
question too. They run from the shortest one that the answers hold, s = `Answer.prompt_start`: s = 1
is the original measure, s = 0.75 T that of the code of ICU, and the two differ in value.

Three tokens in a row also match by chance, so text never seen has a value well above 0: compare
with the holdout set.

Reference: Jang et al. (2022), arXiv:2210.01504.
"""

from unlearner.inference.answers import Answer
from unlearner.metrics._ngrams import extraction_likelihood
from unlearner.metrics.base import LIKE_UNSEEN, Measure, Metric


def overlap_3(answer: Answer) -> tuple[float, float]:
    """Sum of OV_3 over the prompts, and the number of prompts."""
    return extraction_likelihood(answer, 3, answer.prompt_start)


metric = Metric(
    tally=overlap_3,
    better="higher",
    needs="continuations",
    shown=Measure(
        "EL₃",
        "Extraction likelihood, short runs: as EL₁₀, counting runs of three tokens.",
        LIKE_UNSEEN,
        order=40,
    ),
)
