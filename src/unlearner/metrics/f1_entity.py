r"""F1 over entities: one is found when its words, all of them and no more, and its type are right.

.. math::
    F_1 = \frac{2 |E \cap \hat E|}{|E| + |\hat E|}

E are the entities of the set's own tags, \hat E those of the predicted ones. In [0, 1]. As
`f1_score(mode="strict")` of seqeval: an entity must also be spelt as the scheme demands, so that in
IOB2 an I- tag that follows no B- tag is none. The scheme is the one that the names of the model's
labels are written in; where they name types without a prefix, an entity is a run of words of one
type. A record without an entity, own or predicted, is left out, and so is every record where the
labels know no outside tag "O", as classes of texts and parts of speech do not. Where a long record
was asked in parts, an entity is looked for within each part.

Reference: Nakayama (2018), seqeval; Tjong Kim Sang and De Meulder (2003), CoNLL-2003.
"""

from __future__ import annotations

import re

import numpy as np
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE2, Token, Tokens

from unlearner.inference.answers import ClassAnswer
from unlearner.metrics._confusion import f1_of_sums
from unlearner.metrics.base import CORRECT, OUTSIDE, TOKEN_CLASSIFICATION, Measure, Metric

# By the prefixes that each allows; of several that would do, the first.
SCHEMES = {"IO": IOB1, "BIO": IOB2, "IOE": IOE2, "BIOES": IOBES, "BILOU": BILOU}


def scheme_of(label_names: tuple[str, ...]) -> type[Token] | None:
    """The scheme whose prefixes the names bear, as in B-person; None where they bear none."""
    if not all(re.fullmatch(r"O|[BIELSU]([-_].*)?", name) for name in label_names):
        return None
    prefixes = {name[0] for name in label_names}
    return next((scheme for allowed, scheme in SCHEMES.items() if prefixes <= set(allowed)), None)


def entities(classes: np.ndarray, label_names: tuple[str, ...]) -> set[tuple[str, int, int]]:
    """Type, first word and word behind the last of each entity, from (M,) classes."""
    names = [label_names[index] for index in classes]
    scheme = scheme_of(label_names)
    if scheme is None:
        scheme, names = IOB1, [name if name == OUTSIDE else f"I-{name}" for name in names]
    return {(found.tag, found.start, found.end) for found in Tokens(names, scheme).entities}


def entity_counts(answer: ClassAnswer) -> np.ndarray:
    """(3,) entities found, falsely found and missed; NaN where a probability is."""
    if OUTSIDE not in answer.label_names:
        return np.zeros(3)
    if np.isnan(answer.class_log_probs).any():
        return np.full(3, np.nan)
    own = entities(answer.labels, answer.label_names)
    said = entities(answer.predicted, answer.label_names)
    return np.array([len(own & said), len(said - own), len(own - said)])


metric = Metric(
    counts=entity_counts,
    of_counts=f1_of_sums,
    better="higher",
    families=(TOKEN_CLASSIFICATION,),
    shown=Measure("F1 (entities)", "Names and other spans found exactly.", CORRECT, order=130),
)
