r"""Share of greedy continuations that only repeat themselves.

A continuation of n >= 10 tokens is degenerate when

.. math::
    \frac{|\text{distinct 4-grams}|}{n - 3} < 0.5 \quad \text{or} \quad
    \frac{H(\text{token histogram})}{\log n} < 0.5

The first catches loops, the second a salad of few tokens, whose 4-grams may all differ. In [0, 1];
lower is better. A continuation that the model ends before 10 tokens is no loop and counts as sound;
where the text has no room for 10 tokens nothing can be said, and it is left out. Sound says
nothing about sense.

The limits are measured. Of pieces of text people wrote (TinyStories, WikiText, TOFU, Grimm,
Shakespeare, by a vocabulary of 50,257 and one of 512) they call 16 of 286,364 degenerate at 10
tokens and 8 of 225,282 at 20 to 200, nearly all of them rows of tables; and all of the same pieces
when made to loop with a period of up to a third of their length.

Reference: distinct-n, Li et al. (2016), arXiv:1510.03055.
"""

import numpy as np

from unlearner.inference.answers import Answer
from unlearner.metrics._ngrams import distinct_ngrams, token_evenness
from unlearner.metrics.base import Measure, Metric

MIN_TOKENS = 10

MIN_DISTINCT = 0.5

MIN_EVENNESS = 0.5


def is_degenerate(ids: np.ndarray) -> bool:
    """Whether the tokens only repeat themselves; never so for fewer than `MIN_TOKENS`."""
    if len(ids) < MIN_TOKENS:
        return False
    return distinct_ngrams(ids, 4) < MIN_DISTINCT or token_evenness(ids) < MIN_EVENNESS


def repetition(answer: Answer) -> tuple[float, float]:
    """1 or 0 with weight 1, or 0 of 0 where the window has no room to tell."""
    if answer.stop(answer.prefix) - answer.prefix < MIN_TOKENS:
        return 0.0, 0.0
    return float(is_degenerate(answer.continuation(answer.prefix))), 1.0


metric = Metric(
    tally=repetition,
    better="lower",
    rate=True,
    needs="continuations",
    shown=Measure(
        "Degenerate output",
        "Share of continuations that only repeat themselves.",
        "Lower is better everywhere: gibberish is not forgetting.",
        order=180,
    ),
)
