r"""Exact and near duplicates between the records to forget and any other records.

A duplicate of a forgotten record that stays in the retain set or the pool teaches it back, so the
tolerance is for false alarms, not for misses. The similarity of two texts is the Jaccard index of
their shingle sets,

.. math:: J(A, B) = |A \cap B| / |A \cup B|,

over word 3-shingles, or over character 5-shingles where either text has fewer than `FEW_WORDS`
words (one changed word would leave a short text hardly a shared word shingle; it also makes
languages that do not space their words comparable). Case and runs of white space do not count.

Candidates come from MinHash with banding (Broder 1997; Leskovec et al., "Mining of Massive
Datasets", chapter 3) and are then compared exactly. With b bands of r rows a pair of similarity s
is missed with probability (1 - s^r)^b; the rows are chosen so that this is at most `MISSED` at the
threshold. A first filter loses nothing: where J(A, B) >= t, at least t |B| of B's shingles stand in
A, hence in some forget text, and most other texts fail that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

WORD_SHINGLE = 3
CHARACTER_SHINGLE = 5
FEW_WORDS = 5
NUM_PERMUTATIONS = 128
MISSED = 1e-6  # greatest probability of missing a pair that is just at the threshold
SEED = 1

Texts = Mapping[int, str]  # by index, without the empty ones
Shingles = frozenset[str]
Pair = tuple[int, int]  # indices of a forget text and another


@dataclass(frozen=True)
class Duplicate:
    """A forget text and another text that says the same.

    Attributes:
        forget: Index of the forget text.
        other: Index of the other text.
        similarity: Jaccard index of their shingles, in (0, 1].
        exact: Equal but for case and white space; the similarity is then 1.
    """

    forget: int
    other: int
    similarity: float
    exact: bool


def find_duplicates(
    forget: Sequence[str], others: Sequence[str], *, threshold: float = 0.8
) -> list[Duplicate]:
    """Every pair of a forget text and another that are duplicates, ordered by their indices.

    Texts that are empty or white space are no duplicates of anything. The result is the same on
    every run.

    Args:
        forget: The texts to forget.
        others: The texts to search, for example the retain set.
        threshold: Least Jaccard index of a near duplicate, in (0, 1].

    Raises:
        ValueError: The threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    ours = {i: text for i, text in enumerate(map(_normalised, forget)) if text}
    theirs = {j: text for j, text in enumerate(map(_normalised, others)) if text}
    exact = _equal_pairs(ours, theirs)
    near = _similar_pairs(ours, theirs, threshold)
    found = [Duplicate(i, j, 1.0, True) for i, j in exact]
    found += [Duplicate(i, j, s, False) for (i, j), s in near.items() if (i, j) not in exact]
    return sorted(found, key=lambda duplicate: (duplicate.forget, duplicate.other))


def jaccard(a: str, b: str) -> float:
    """Jaccard index of two texts' shingles: by words, or by characters if either has few words."""
    a, b = _normalised(a), _normalised(b)
    shingles = _character_shingles if _is_short(a) or _is_short(b) else _word_shingles
    return _jaccard(shingles(a), shingles(b))


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_short(text: str) -> bool:
    return text.count(" ") < FEW_WORDS - 1


def _word_shingles(text: str) -> Shingles:
    words = text.split(" ")
    starts = range(max(1, len(words) - WORD_SHINGLE + 1))
    return frozenset(" ".join(words[i : i + WORD_SHINGLE]) for i in starts)


def _character_shingles(text: str) -> Shingles:
    starts = range(max(1, len(text) - CHARACTER_SHINGLE + 1))
    return frozenset(text[i : i + CHARACTER_SHINGLE] for i in starts)


def _jaccard(a: Shingles, b: Shingles) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _equal_pairs(ours: Texts, theirs: Texts) -> set[Pair]:
    indices: dict[str, list[int]] = defaultdict(list)
    for i, text in ours.items():
        indices[text].append(i)
    return {(i, j) for j, text in theirs.items() for i in indices.get(text, ())}


def _similar_pairs(ours: Texts, theirs: Texts, threshold: float) -> dict[Pair, float]:
    """The similarity of each pair at or above the threshold."""
    our_long = {i: text for i, text in ours.items() if not _is_short(text)}
    their_long = {j: text for j, text in theirs.items() if not _is_short(text)}
    pairs = dict(_join(our_long, their_long, _word_shingles, threshold))
    # A pair is compared by characters if one is short; the other cannot be much longer than it.
    our_reach = max((len(ours[i]) for i in ours.keys() - our_long), default=0) / threshold
    their_reach = max((len(theirs[j]) for j in theirs.keys() - their_long), default=0) / threshold
    our_part = {i: t for i, t in ours.items() if i not in our_long or len(t) <= their_reach}
    their_part = {j: t for j, t in theirs.items() if j not in their_long or len(t) <= our_reach}
    for (i, j), similarity in _join(our_part, their_part, _character_shingles, threshold):
        if i not in our_long or j not in their_long:
            pairs[i, j] = similarity
    return pairs


def _join(
    ours: Texts, theirs: Texts, shingles_of: Callable[[str], Shingles], threshold: float
) -> Iterator[tuple[Pair, float]]:
    if not ours:
        return
    our_shingles = {i: shingles_of(text) for i, text in ours.items()}
    known = frozenset().union(*our_shingles.values())
    rows = _rows_per_band(threshold)
    index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=(NUM_PERMUTATIONS // rows, rows))
    for i, shingles in our_shingles.items():
        index.insert(i, _sketch(shingles))
    for j, text in theirs.items():
        shingles = shingles_of(text)
        if len(shingles & known) / len(shingles) < threshold:
            continue
        for i in index.query(_sketch(shingles)):
            assert isinstance(i, int)
            similarity = _jaccard(our_shingles[i], shingles)
            if similarity >= threshold:
                yield (i, j), similarity


def _rows_per_band(threshold: float) -> int:
    """The most rows, hence the fewest candidates, that miss a pair at the threshold so rarely."""
    powers = (16, 8, 4, 2)  # divisors of the number of permutations, so that none is unused
    enough = (r for r in powers if (1 - threshold**r) ** (NUM_PERMUTATIONS // r) <= MISSED)
    return next(enough, 1)


def _sketch(shingles: Shingles) -> MinHash:
    sketch = MinHash(num_perm=NUM_PERMUTATIONS, seed=SEED)
    sketch.update_batch([shingle.encode() for shingle in shingles])
    return sketch
