"""The scheme that the tags of words are written in, told by how data use them.

The label names do not tell: CoNLL-2003's are the same where B- only parts two entities of one type
(IOB1, as it was published) and where B- begins every entity (IOB2, as it is often converted), and
read by the wrong one of the two most entities are none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OUTSIDE = "O"  # the tag of a word that belongs to no entity: a label, but not a class to find

# Of each scheme the prefixes that it allows; of schemes that do equally well, the first.
ALLOWED = {
    "IOB2": "BI",
    "IOB1": "IB",
    "IOE2": "EI",
    "IOE1": "IE",
    "BIOES": "BIES",
    "BILOU": "BILU",
}
BY_TYPE = "types"  # names without prefixes: an entity is a run of words of one type
NO_ENTITIES = "none"  # neither prefixes nor a tag O, as parts of speech

# Letters that some write for another: BMES, BMEWO.
SAME_PREFIX = {"M": "I", "W": "S"}

Tag = tuple[str, str]  # prefix and type; ("O", "") outside


@dataclass(frozen=True)
class TagUse:
    """How a data set uses its tags.

    Attributes:
        scheme: A key of `ALLOWED`, `BY_TYPE` or `NO_ENTITIES`.
        num_tagged: Words with another tag than O.
        num_broken: How often a tag stands where the scheme does not allow it.
    """

    scheme: str
    num_tagged: int
    num_broken: int


def split_tags(names: Iterable[str]) -> dict[str, Tag]:
    """Prefix and type of each name; empty where the names bear no prefixes, as in B-place.

    The prefix may also stand behind the type, as in place-B.
    """
    unique = sorted(set(names) - {OUTSIDE})
    for pattern in (r"(?P<p>[BIELSUMW])([-_](?P<t>.*))?", r"(?P<t>.+)[-_](?P<p>[BIELSUMW])"):
        found = [re.fullmatch(pattern, name, re.IGNORECASE | re.DOTALL) for name in unique]
        tags: dict[str, Tag] = {OUTSIDE: (OUTSIDE, "")}
        for match in found:
            if match is None:
                break
            prefix = match["p"].upper()
            tags[match[0]] = SAME_PREFIX.get(prefix, prefix), match["t"] or ""
        else:
            return tags if unique else {}
    return {}


def tag_use(names: Sequence[str], sentences: Iterable[Sequence[str]] = ()) -> TagUse:
    """The scheme that the fewest tags of the sentences break.

    Of equal ones it is one that allows every name, and whose first tag of an entity has a name.

    Args:
        names: Of the model's outputs.
        sentences: The tags of every sentence, of all sets of a run: a few sentences may hold
            nothing that tells two schemes apart.
    """
    tags = split_tags(names)
    pairs: Counter[tuple[str, str]] = Counter()
    for sentence in sentences:
        pairs.update(zip((OUTSIDE, *sentence), (*sentence, OUTSIDE), strict=True))
    num_tagged = sum(count for (_, second), count in pairs.items() if second != OUTSIDE)
    if not tags:
        return TagUse(BY_TYPE if OUTSIDE in names else NO_ENTITIES, num_tagged, 0)
    prefixes = {tags[name][0] for name in names} - {OUTSIDE}

    def broken(scheme: str) -> int:
        return sum(
            count
            for (first, second), count in pairs.items()
            if breaks(scheme, tags[first], tags[second])
        )

    def misfit(scheme: str) -> tuple[int, int, bool]:
        allowed = ALLOWED[scheme]
        return broken(scheme), len(prefixes - {*allowed}), allowed[0] not in prefixes

    best = min(ALLOWED, key=misfit)
    return TagUse(best, num_tagged, broken(best))


def has_entities(names: Sequence[str]) -> bool:
    """Whether a tagger's outputs mark spans: by prefixes, or beside a tag for words outside."""
    return OUTSIDE in names or bool(split_tags(names))


def breaks(scheme: str, first: Tag, second: Tag) -> bool:
    """Whether the second tag cannot follow the first, or is none of the scheme at all."""
    (before, type_before), (prefix, type_here) = first, second
    if prefix != OUTSIDE and prefix not in ALLOWED[scheme]:
        return True
    same_type = OUTSIDE not in (before, prefix) and type_before == type_here
    if scheme == "IOB2":
        return prefix == "I" and not same_type
    if scheme == "IOB1":
        return prefix == "B" and not same_type
    if scheme == "IOE2":
        return before == "I" and not same_type
    if scheme == "IOE1":
        return before == "E" and not same_type
    is_open, goes_on = before in "BI", prefix in "IEL"  # BIOES and BILOU
    return is_open != goes_on or (is_open and not same_type)
