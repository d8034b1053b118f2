r"""F1 over entities: one is found when its words, all of them and no more, and its type are right.

.. math::
    F_1 = \frac{2 |E \cap \hat E|}{|E| + |\hat E|}

E are the entities of the set's own tags, \hat E those of the predicted ones. In [0, 1]. As
`f1_score(mode="strict")` of seqeval: an entity must also be spelt as the scheme demands, so that in
IOB2 an I- tag that follows no B- tag is none. The scheme is the one that the own tags of all sets
of a run are written in (`data.tag_schemes`); where labels name types without a prefix, an entity is
a run of words of one type. A record without an entity, own or predicted, is left out, and so is
every record where the labels know neither prefixes nor an outside tag "O", as classes of texts and
parts of speech do not. Where a long record was asked in parts, an entity is looked for within each
part.

Reference: Nakayama (2018), seqeval; Tjong Kim Sang and De Meulder (2003), CoNLL-2003.
"""

from functools import lru_cache

import numpy as np
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE2, Token, Tokens

from unlearner.data.tag_schemes import (
    ALLOWED,
    BY_TYPE,
    NO_ENTITIES,
    OUTSIDE,
    Tag,
    split_tags,
    tag_use,
)
from unlearner.inference.answers import ClassAnswer
from unlearner.metrics._confusion import f1_of_sums
from unlearner.metrics.base import CORRECT, TOKEN_CLASSIFICATION, Measure, Metric

SEQEVAL: dict[str, type[Token]] = {
    "IOB2": IOB2,
    "IOB1": IOB1,
    "IOE2": IOE2,
    "IOE1": IOB1,  # of the sentence from its end, for seqeval's own misses entities
    "BIOES": IOBES,
    "BILOU": BILOU,
}


def entities(
    classes: np.ndarray, label_names: tuple[str, ...], scheme: str = ""
) -> set[tuple[str, int, int]]:
    """Type, first word and word behind the last of each entity, from (M,) classes.

    Args:
        scheme: As `TagUse` has it; what the names alone suggest where it is empty.
    """
    scheme = scheme or _scheme_of_names(label_names)
    if scheme == NO_ENTITIES:
        return set()
    tags = _tags_of(label_names, scheme)
    words = [tags[index] for index in classes]
    if scheme != "IOE1":
        return _found(words, SEQEVAL.get(scheme, IOB1))
    turned = [("B" if prefix == "E" else prefix, kind) for prefix, kind in words[::-1]]
    count = len(words)
    return {(kind, count - end, count - start) for kind, start, end in _found(turned, IOB1)}


def _found(words: list[Tag], scheme: type[Token]) -> set[tuple[str, int, int]]:
    found = Tokens([f"{prefix}-{kind}" if kind else prefix for prefix, kind in words], scheme)
    return {(entity.tag, entity.start, entity.end) for entity in found.entities}


@lru_cache(maxsize=64)
def _scheme_of_names(label_names: tuple[str, ...]) -> str:
    return tag_use(label_names).scheme


@lru_cache(maxsize=64)
def _tags_of(label_names: tuple[str, ...], scheme: str) -> tuple[Tag, ...]:
    """Prefix and type of each output; one that the scheme does not know is outside."""
    outside = (OUTSIDE, "")
    if scheme == BY_TYPE:
        return tuple(outside if name == OUTSIDE else ("I", name) for name in label_names)
    tags = split_tags(label_names)
    known = (tags[name] for name in label_names)
    return tuple(tag if tag[0] in ALLOWED[scheme] else outside for tag in known)


def entity_counts(answer: ClassAnswer) -> np.ndarray:
    """(3,) entities found, falsely found and missed; NaN where a probability is."""
    if (answer.scheme or _scheme_of_names(answer.label_names)) == NO_ENTITIES:
        return np.zeros(3)
    if np.isnan(answer.class_log_probs).any():
        return np.full(3, np.nan)
    own = entities(answer.labels, answer.label_names, answer.scheme)
    said = entities(answer.predicted, answer.label_names, answer.scheme)
    return np.array([len(own & said), len(said - own), len(own - said)])


metric = Metric(
    counts=entity_counts,
    of_counts=f1_of_sums,
    better="higher",
    families=(TOKEN_CLASSIFICATION,),
    shown=Measure("F1 (entities)", "Names and other spans found exactly.", CORRECT, order=130),
)
