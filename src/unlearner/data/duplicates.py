r"""Exact and near duplicates between the records to forget and any other records.

A duplicate of a forgotten record that stays in the retain set or the pool teaches it back, so the
tolerance is for false alarms, not for misses. The similarity of two texts is the Jaccard index of
their shingle sets,

.. math:: J(A, B) = |A \cap B| / |A \cup B|,

over word 3-shingles, or over character 5-shingles where either text has fewer than `FEW_WORDS`
words (one changed word would leave a short text hardly a shared word shingle; it also makes
languages that do not space their words comparable). Case and runs of white space do not count.

The forget texts are few, so their shingles are indexed and the others pass by one at a time. The
search is exact: where J(A, B) >= t, at least t |B| of B's shingles stand in A. All but
t |B| - 1 of B's shingles therefore cannot miss A; the rarest in the index are taken, and who has
none of them is no duplicate (the prefix filter of Chaudhuri et al., ICDE 2006). Most texts end
after their first (1 - t) |B| + 1 shingles, which no forget text has.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WORD_SHINGLE = 3
CHARACTER_SHINGLE = 5
FEW_WORDS = 5
ROUNDING = 1e-6  # far above that of t |B|, far below the 1 between two counts


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
    forget: Sequence[str], others: Iterable[str], *, threshold: float = 0.8
) -> list[Duplicate]:
    """Every pair of a forget text and another that are duplicates, ordered by their indices.

    Texts that are empty or white space are no duplicates of anything. None is missed. Memory grows
    with the forget texts and the pairs found only; the others are read once.

    Args:
        forget: The texts to forget.
        others: The texts to search, for example the retain set.
        threshold: Least Jaccard index of a near duplicate, in (0, 1].

    Raises:
        ValueError: The threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    search = _Search([_normalised(text) for text in forget], threshold)
    found = [
        Duplicate(i, j, similarity, exact)
        for j, text in enumerate(others)
        for i, similarity, exact in search(_normalised(text))
    ]
    return sorted(found, key=lambda duplicate: (duplicate.forget, duplicate.other))


def jaccard(a: str, b: str) -> float:
    """Jaccard index of two texts' shingles: by words, or by characters if either has few words."""
    a, b = _normalised(a), _normalised(b)
    shingles = _character_shingles if _is_short(a) or _is_short(b) else _word_shingles
    return _jaccard(set(shingles(a)), set(shingles(b)))


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_short(text: str) -> bool:
    return text.count(" ") < FEW_WORDS - 1


def _word_shingles(text: str) -> Iterator[str]:
    words = text.split(" ")
    if len(words) < WORD_SHINGLE:
        return iter([text])
    return map(" ".join, zip(*(words[i:] for i in range(WORD_SHINGLE)), strict=False))


def _character_shingles(text: str) -> Iterator[str]:
    starts = range(max(1, len(text) - CHARACTER_SHINGLE + 1))
    return (text[i : i + CHARACTER_SHINGLE] for i in starts)


class _Kind(NamedTuple):
    """A kind of shingles: all those of a text in order, and how many it has at most."""

    shingles: Callable[[str], Iterator[str]]
    at_most: Callable[[str], int]


WORDS = _Kind(_word_shingles, lambda text: text.count(" ") + 1)
CHARACTERS = _Kind(_character_shingles, len)


def _jaccard(a: set[str], b: set[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class _Search:
    """The duplicates of one text after another among the forget texts, all of them normalised."""

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        self.texts = texts
        full = [i for i, text in enumerate(texts) if text]
        long = [i for i in full if not _is_short(texts[i])]
        short = [i for i in full if _is_short(texts[i])]
        self.by_words = _Index(texts, long, WORDS, threshold)
        self.by_characters = _Index(texts, short, CHARACTERS, threshold)
        self.long_by_characters = _Index(texts, long, CHARACTERS, threshold)

    def __call__(self, text: str) -> Iterator[tuple[int, float, bool]]:
        """Indices of the duplicates, their similarities, and whether the texts are equal."""
        other = self.long_by_characters if _is_short(text) else self.by_words
        for index in (self.by_characters, other) if text else ():
            for i, similarity in index.similar(text):
                yield i, similarity, self.texts[i] == text


class _Index:
    """Which of some forget texts, the members, hold a shingle.

    A member is entered when the first text comes that has enough shingles to be like it: those of
    a long one by characters are many, and hardly ever looked for.
    """

    def __init__(
        self, texts: Sequence[str], members: Sequence[int], kind: _Kind, threshold: float
    ) -> None:
        self.texts, self.kind, self.threshold = texts, kind, threshold
        self.sizes = {i: len(self._shingles(i)) for i in members}
        self.waiting = sorted(members, key=lambda i: -self.sizes[i])  # the smallest last
        self.most = max(self.sizes.values(), default=0) / threshold  # that a text like one has
        self.holders: dict[str, list[int]] = defaultdict(list)

    def similar(self, text: str) -> Iterator[tuple[int, float]]:
        """The members at or above the threshold, in no order, and their similarities."""
        if self.waiting:
            self._enter(self.kind.at_most(text) / self.threshold)
        if not self.holders or self._too_strange(text):
            return
        own = set(self.kind.shingles(text))
        least = math.ceil(self.threshold * len(own) - ROUNDING)  # shingles to be shared
        rarest = sorted(own, key=lambda shingle: len(self.holders.get(shingle, ())))
        rarest = rarest[: len(own) - least + 1]
        for i in {i for shingle in rarest for i in self.holders.get(shingle, ())}:
            if not least <= self.sizes[i] <= len(own) / self.threshold + ROUNDING:
                continue
            similarity = _jaccard(self._shingles(i), own)
            if similarity >= self.threshold:
                yield i, similarity

    def _enter(self, size: float) -> None:
        while self.waiting and self.sizes[self.waiting[-1]] <= size + ROUNDING:
            i = self.waiting.pop()
            for shingle in self._shingles(i):
                self.holders[shingle].append(i)

    def _shingles(self, i: int) -> set[str]:
        return set(self.kind.shingles(self.texts[i]))

    def _too_strange(self, text: str) -> bool:
        """Whether more than (1 - t) of its shingles are in no member, so that it is like none."""
        allowed = (1 - self.threshold) * min(self.most, self.kind.at_most(text)) + ROUNDING
        strange = set()
        for shingle in self.kind.shingles(text):
            if shingle not in self.holders:
                strange.add(shingle)
                if len(strange) > allowed:
                    return True
        return False
