"""ICU's analogous set: for each forget record the nearest pool record that does not repeat it.

Reference: Tang et al. (2024), arXiv:2407.20271, section on contrastive learning enhancement.
Differs from the paper, which takes the nearest neighbour as it is: of the authors' own 640 pairs
510 share a 10-gram with the text to be forgotten and 212 contain all of it, so that learning the
pair preserves what is to be forgotten. Here the pair shares no run of `max_overlap` tokens, and is
no near duplicate of any forget record.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unlearner.data.duplicates import find_duplicates
from unlearner.data.nearest import TF_IDF, Search, make_search
from unlearner.data.pairing import one_to_one
from unlearner.errors import UserError

FALLBACK_CANDIDATES = 200  # nearest ones among which the least overlapping are sought
DEEPER = 4  # factor by which a search that found too few goes deeper
REPEATED_SHARE = 0.8  # of a forget record, in one run, that rules a fresh record out
TOKEN = np.dtype(np.int64)
Found = tuple[tuple[int, ...], tuple[float, ...]]  # indices and scores, of equal length


@dataclass(frozen=True)
class Texts:
    """A record set as retrieval needs it: three sequences with an entry for each record.

    Attributes:
        tails: What is embedded, for example the text of each record's last 100 tokens.
        contents: The whole text of each record, for the search of near duplicates.
        ids: All token ids (>= 0) of each record, for the overlap.
    """

    tails: Sequence[str]
    contents: Sequence[str]
    ids: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        lengths = (len(self.tails), len(self.contents), len(self.ids))
        if len(set(lengths)) > 1:
            raise ValueError(f"tails, contents and ids must be of equal length, got {lengths}")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Retrieved:
    """The pool records that go with each forget record.

    Attributes:
        neighbours: For each forget record the pool records that may be its pair, nearest first:
            `num_neighbours` of them, fewer where no more pass, more where a pair of its own for
            every record asks for it. Where none passes, the least overlapping, least first.
        scores: Their cosines, of the same shape.
        encoder: What embedded the texts: a path or id, or "tf-idf".
        excluded: Pool records that are near duplicates of a forget record, used for none.
        overlapping: Number of forget records for which no pool record passes.
        overlap: Longest token run that each forget record shares with its first neighbour.
    """

    neighbours: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    encoder: str
    excluded: tuple[int, ...]
    overlapping: int
    overlap: tuple[int, ...]


def retrieve(
    forget: Texts,
    pool: Texts,
    *,
    num_neighbours: int = 1,
    encoder: str | None = "auto",
    max_overlap: int = 10,
    near_duplicate: float = 0.8,
) -> Retrieved:
    """The nearest pool records of each forget record, by cosine, that do not repeat it.

    A pool record passes for a forget record if the two share no run of `max_overlap` tokens, nor
    all of a forget record that is shorter than that, and it is excluded for all if it is a near
    duplicate of any. Where no pool record passes, the least overlapping are taken, and counted, of
    the nearest `FALLBACK_CANDIDATES` (or as many as there are forget records, if that is more).

    Args:
        forget: The records to forget.
        pool: Records that may be learned in their place.
        num_neighbours: How many to find for each forget record, >= 1.
        encoder: "auto": all-MiniLM-L6-v2 if the local hub cache has it, else TF-IDF, with no
            download; "tf-idf" or None; or the path or id of a sentence-transformers model.
        max_overlap: Length in tokens of the shortest run that must not be shared, >= 1.
        near_duplicate: Jaccard index from which a pool record is a near duplicate, in (0, 1].

    Raises:
        UserError: No pool record is left to use, or the encoder cannot be loaded.
    """
    if min(num_neighbours, max_overlap) < 1:
        got = f"{num_neighbours} and {max_overlap}"
        raise ValueError(f"num_neighbours and max_overlap must be at least 1, got {got}")
    duplicates = find_duplicates(forget.contents, pool.contents, threshold=near_duplicate)
    excluded = {duplicate.other for duplicate in duplicates}
    usable = [index for index in range(len(pool)) if index not in excluded]
    if not usable:
        raise UserError(
            f"pool: none of its {len(pool)} records is usable, {len(excluded)} are near duplicates "
            f"of records to forget (similarity >= {near_duplicate}); give a pool of other texts"
        )
    tails = [pool.tails[p] for p in usable]
    search, encoder = make_search(forget.tails, tails, encoder or TF_IDF)
    candidates = _Candidates(forget.ids, [pool.ids[p] for p in usable], search, max_overlap)
    candidates.deepen(range(len(forget)), num_neighbours)
    candidates.deepen_until_all_differ(num_neighbours)
    found = [candidates.found[row] for row in range(len(forget))]
    neighbours = tuple(tuple(usable[i] for i in indices) for indices, _ in found)
    firsts = [pool.ids[indices[0]] for indices in neighbours]
    return Retrieved(
        neighbours=neighbours,
        scores=tuple(scores for _, scores in found),
        encoder=encoder,
        excluded=tuple(sorted(excluded)),
        overlapping=len(candidates.overlapping),
        overlap=tuple(map(longest_shared_run, forget.ids, firsts)),
    )


def assign_pairs(retrieved: Retrieved) -> tuple[int, ...]:
    """One pool index for each forget record, each used once where the pool has enough.

    Greedy, the nearest pair of all first; a record that then finds none free makes others move on
    to their next. Records that are still left over are paired in the same way among themselves, so
    that pool records are used again only where there is no other way, and evenly.
    """
    pairs: dict[int, int] = {}
    rows = range(len(retrieved.neighbours))
    while left := [row for row in rows if row not in pairs]:
        neighbours = [retrieved.neighbours[row] for row in left]
        scores = [retrieved.scores[row] for row in left]
        pairs |= {left[i]: index for i, index in one_to_one(neighbours, scores).items()}
    return tuple(pairs[row] for row in rows)


def repeating(
    forget_ids: Sequence[Sequence[int]], pool_ids: Sequence[Sequence[int]], max_overlap: int
) -> set[int]:
    """Pool records in which most of a forget record, in one run of tokens, stands.

    A long text around a forget record is no near duplicate of it, and would teach it all the same.
    Most is four fifths: half of a short record can be a question that is asked about everybody.
    Shorter runs than `max_overlap` do not count, but a forget record that is itself shorter does.
    """
    known: dict[int, set[bytes]] = defaultdict(set)
    for ids in forget_ids:
        n = min(len(ids), max(max_overlap, math.ceil(REPEATED_SHARE * len(ids))))
        known[n].update(_ngrams(ids, n) if n else ())
    return {
        index
        for index, ids in enumerate(pool_ids)
        if any(gram in grams for n, grams in known.items() if n for gram in _ngrams(ids, n))
    }


def longest_shared_run(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest run of tokens that stands in both; at most len(a) * len(b) steps."""
    return _longest_shared_runs(a, [b])[0]


def shares_ngram(a: Sequence[int], b: Sequence[int], n: int) -> bool:
    """Whether some run of n tokens stands in both: the longest shared run is at least n >= 1."""
    return not set(_ngrams(a, n)).isdisjoint(_ngrams(b, n))


def _ngrams(ids: Sequence[int], n: int) -> Iterator[bytes]:
    # Slices of one buffer are hashed several times faster than tuples of n numbers.
    buffer, width = np.asarray(ids, dtype=TOKEN).tobytes(), n * TOKEN.itemsize
    for start in range(0, len(buffer) - width + 1, TOKEN.itemsize):
        yield buffer[start : start + width]


def _longest_shared_runs(ids: Sequence[int], others: Sequence[Sequence[int]]) -> list[int]:
    """The longest run that `ids` shares with each of the others, all at once.

    run[j] is the length of the run that ends at token j of the others and at the token of `ids`
    reached; a -1, which no token equals, stands before each of the others and ends every run.
    """
    joined = np.concatenate([np.array([-1, *other], dtype=TOKEN) for other in others])
    starts = np.cumsum([0, *(len(other) + 1 for other in others[:-1])])
    run = np.zeros(len(joined), dtype=np.int32)
    longest = run.copy()
    for token in ids:
        run[1:] = np.where(joined[1:] == token, run[:-1] + 1, 0)
        np.maximum(longest, run, out=longest)
    return np.maximum.reduceat(longest, starts).tolist()


class _Candidates:
    """For each forget record the usable pool records that may be its pair, found as deep as asked.

    Indices here count the usable pool records.
    """

    def __init__(
        self,
        forget_ids: Sequence[Sequence[int]],
        pool_ids: Sequence[Sequence[int]],
        search: Search,
        max_overlap: int,
    ) -> None:
        self.forget_ids, self.pool_ids, self.search = forget_ids, pool_ids, search
        self.forget_ngrams, self.pool_ngrams = _shared_ngrams(forget_ids, pool_ids, max_overlap)
        self.found: dict[int, Found] = {}
        self.overlapping: dict[int, Found] = {}  # where none passes: the least overlapping first

    def deepen(self, rows: Sequence[int], depth: int) -> None:
        """Find `depth` candidates for each of these forget records, or all there are."""
        for row in self.overlapping.keys() & rows:
            indices, scores = self.overlapping[row]
            self.found[row] = (indices[:depth], scores[:depth])
        rows = [row for row in rows if row not in self.overlapping]
        size = len(self.pool_ids)
        k = min(size, 2 * depth + 14)
        while rows:
            results = zip(rows, *self.search(rows, k), strict=True)
            rows = [
                row
                for row, scores, indices in results
                if not self._keep(row, scores, indices, depth=min(depth, size))
            ]
            k = min(size, DEEPER * k)

    def deepen_until_all_differ(self, depth: int) -> None:
        """Go on from this depth until each forget record has a pair of its own, or cannot have one.

        With as many candidates as there are forget records one is always free: that is enough. A
        smaller pool is searched whole, so that all of it serves.
        """
        rows = range(len(self.forget_ids))
        enough = min(len(rows), len(self.pool_ids))
        asked = dict.fromkeys(rows, depth)
        while True:
            found = [self.found[row] for row in rows]
            pairs = one_to_one([indices for indices, _ in found], [scores for _, scores in found])
            open_rows = [r for r in rows if len(self.found[r][0]) == asked[r] < enough]
            more = [row for row in open_rows if row not in pairs] or open_rows
            if len(pairs) == len(rows) or not more:
                return
            depth = min(DEEPER * depth, enough)
            asked |= dict.fromkeys(more, depth)
            self.deepen(more, depth)

    def _keep(self, row: int, scores: np.ndarray, indices: np.ndarray, depth: int) -> bool:
        """Keep the first candidates that pass; false if more must be looked at to have enough."""
        ngrams = self.forget_ngrams[row]
        passing: list[int] = []
        for position, index in enumerate(indices.tolist()):
            if ngrams.isdisjoint(self.pool_ngrams[index]):
                passing.append(position)
            if len(passing) == depth:
                break
        if len(passing) < depth and len(indices) < len(self.pool_ids):
            return False
        if not passing:
            order = self._least_overlapping(row, indices)
            self.overlapping[row] = _taken(order, indices, scores)
            passing = order[:depth]
        self.found[row] = _taken(passing, indices, scores)
        return True

    def _least_overlapping(self, row: int, indices: np.ndarray) -> list[int]:
        enough = max(FALLBACK_CANDIDATES, len(self.forget_ids))
        nearest = [self.pool_ids[index] for index in indices[:enough].tolist()]
        runs = _longest_shared_runs(self.forget_ids[row], nearest)
        return np.argsort(runs, kind="stable").tolist()


def _taken(positions: list[int], indices: np.ndarray, scores: np.ndarray) -> Found:
    return tuple(indices[positions].tolist()), tuple(scores[positions].tolist())


def _shared_ngrams(
    forget_ids: Sequence[Sequence[int]], pool_ids: Sequence[Sequence[int]], max_overlap: int
) -> tuple[list[frozenset[bytes]], list[frozenset[bytes]]]:
    """The n-grams of each forget record, and of each pool record those that any of them has.

    n is `max_overlap`, or the length of a forget record that is shorter.
    """
    ours: list[frozenset[bytes]] = []
    known: dict[int, set[bytes]] = defaultdict(set)
    for ids in forget_ids:
        n = min(max_overlap, len(ids))
        ours.append(frozenset(_ngrams(ids, n)) if n else frozenset())
        known[n] |= ours[-1]
    theirs = [
        frozenset(
            gram for n, grams in known.items() if n for gram in _ngrams(ids, n) if gram in grams
        )
        for ids in pool_ids
    ]
    return ours, theirs
