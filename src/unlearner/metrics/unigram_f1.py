r"""F1 of the words of a response that the model gives and of the one that stands in the dialogue.

.. math::
    F_1 = \frac{2 P R}{P + R}, \quad P = \frac{m}{c}, \quad R = \frac{m}{r}

c and r are the numbers of words of the model's response and of the dialogue's, m how many the two
have in common, each word as often as in both. In [0, 1]; higher: more of the same words.

Words are those of ParlAI's published definition, in this order: lower case; each of the 32 ASCII
signs of punctuation is a space; the articles "a", "an" and "the" are left out; what stands between
spaces is a word. A dialogue's response that has no word is left out, where ParlAI counts 0. Text
written without spaces is one word.

The model's response is its own, greedy and to its end: see `inference/dialogue.py`. Only dialogues
have one.

Reference: Miller et al. (2017), ParlAI, arXiv:1705.06476; used of dialogues by ICU,
arXiv:2407.20271.
"""

import re
import string
from collections import Counter

from unlearner.inference.answers import Answer
from unlearner.metrics.base import Measure, Metric

SPACES = str.maketrans(dict.fromkeys(string.punctuation, " "))
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def compared_words(text: str) -> list[str]:
    """The words that count, in their order."""
    return ARTICLES.sub(" ", text.lower().translate(SPACES)).split()


def overlap_f1(answer: Answer) -> tuple[float, float]:
    """F1 of one response with weight 1, or 0 of 0 where the dialogue's has no words."""
    own, given = compared_words(answer.reference_text), compared_words(answer.continuation_text)
    if not own:
        return 0.0, 0.0
    common = (Counter(own) & Counter(given)).total()
    return 2 * common / (len(own) + len(given)), 1.0  # 2PR / (P + R), and 0 where m is 0


metric = Metric(
    tally=overlap_f1,
    better="higher",
    needs="dialogue",
    shown=Measure(
        "Unigram F1",
        "How many words the model’s own response in a dialogue shares with the one that was given.",
        "It should stay where it was; a few percent to a fifth is usual of small models.",
        order=85,
    ),
)
