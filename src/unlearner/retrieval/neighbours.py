"""ICU's analogous set: for each forget record the nearest pool record that does not repeat it.

Reference: Tang et al. (2024), arXiv:2407.20271, section on contrastive learning enhancement.
Differs from the paper, which takes the nearest neighbour as it is: of the authors' own 640 pairs
510 share a 10-gram with the text to be forgotten and 212 contain all of it, so that learning the
pair preserves what is to be forgotten. Here the pair shares no run of `max_overlap` tokens, and is
no near duplicate of any forget record.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unlearner.data.duplicates import find_duplicates
from unlearner.errors import UserError
from unlearner.retrieval.encoder import MINI_LM, Encoder, embedded, is_cached
from unlearner.retrieval.overlap import Ids, longest_shared_run, longest_shared_runs, shared_runs
from unlearner.retrieval.tfidf import tf_idf

logger = logging.getLogger(__name__)

TF_IDF = "tf-idf"

ROWS_AT_ONCE = 256  # bounds the dense block of similarities

# For rows of the F texts, their cosines with each block of the P texts in turn: (rows, N).
Cosines = Callable[[np.ndarray], Iterator[np.ndarray]]

# For rows of the F texts and a slice of the P texts: the pairs that do not count, as two arrays,
# places in `rows` and places in the slice.
Barred = Callable[[np.ndarray, slice], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Search:
    """A search for the nearest of P texts; a block of them is compared at a time.

    Attributes:
        cosines: Compares.
        encoder: What the vectors are: a path or id, or "tf-idf".
        excluded: Indices of texts that are not to be found, sorted.
    """

    cosines: Cosines
    encoder: str
    excluded: np.ndarray

    def __call__(
        self, rows: Sequence[int], k: int, barred: Barred | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest texts of each row, best first, ties to the lower index.

        Returns:
            Cosines and indices, (rows, k); -inf and -1 where fewer texts count.
        """
        parts = [
            self._nearest(np.asarray(rows[start : start + ROWS_AT_ONCE]), k, barred)
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        scores, indices = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(indices)

    def _nearest(
        self, rows: np.ndarray, k: int, barred: Barred | None
    ) -> tuple[np.ndarray, np.ndarray]:
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        indices = np.full((len(rows), k), -1, dtype=np.int64)
        start = 0
        for cosines in self.cosines(rows):
            block = slice(start, start + cosines.shape[1])
            first, last = np.searchsorted(self.excluded, (block.start, block.stop))
            cosines[:, self.excluded[first:last] - start] = -np.inf
            if barred is not None:
                cosines[barred(rows, block)] = -np.inf
            _merge(scores, indices, cosines, start)
            start = block.stop
        return scores, indices


def _merge(scores: np.ndarray, indices: np.ndarray, cosines: np.ndarray, start: int) -> None:
    """Enter a block, whose first text has the index `start`, into the best found so far.

    Blocks come in order and sorting is stable, so that of equal cosines the lower index is first.
    """
    better = cosines > scores[:, -1:]
    for row in np.flatnonzero(better.any(axis=1)):
        places = np.flatnonzero(better[row])
        all_scores = np.concatenate((scores[row], cosines[row, places]))
        all_indices = np.concatenate((indices[row], places + start))
        order = np.argsort(-all_scores, kind="stable")[: scores.shape[1]]
        scores[row], indices[row] = all_scores[order], all_indices[order]


def make_search(
    queries: Sequence[str], texts: Sequence[str], encoder: str, excluded: Collection[int] = ()
) -> Search:
    """A search for the nearest `texts` of each of `queries`.

    TF-IDF counts single words and pairs, weighted over both sides.

    Args:
        queries: F texts.
        texts: P texts, at least one.
        encoder: "auto": all-MiniLM-L6-v2 if the local hub cache has it, else TF-IDF, with no
            download; "tf-idf"; or the path or id of a sentence-transformers model.
        excluded: Indices of texts that are not to be found, nor embedded.

    Raises:
        UserError: The encoder cannot be loaded, its vectors cannot be kept, or TF-IDF finds no word
            in any text.
    """
    automatic = encoder == "auto"
    if automatic:
        encoder = MINI_LM if is_cached(MINI_LM) else TF_IDF
        logger.info("nearest neighbours by %s", encoder)
    if encoder == TF_IDF:
        cosines = tf_idf(queries, texts, excluded).cosines
    else:
        model = Encoder.load(encoder, local_only=automatic)
        blocks = embedded(model, texts, excluded)
        cosines = dense_cosines(model.embed(queries), blocks)
    return Search(cosines, encoder, np.array(sorted(excluded), dtype=np.int64))


def dense_cosines(queries_FD: np.ndarray, blocks: Sequence[np.ndarray]) -> Cosines:
    """The comparison of vectors of length 1 with blocks of others, (N, D)."""

    def cosines(rows: np.ndarray) -> Iterator[np.ndarray]:
        return (queries_FD[rows] @ texts_ND.T for texts_ND in blocks)

    return cosines


def one_to_one(
    neighbours: Sequence[Sequence[int]], scores: Sequence[Sequence[float]]
) -> dict[int, int]:
    """A neighbour of its own for as many rows as can have one, the highest score of all first."""
    pairs: dict[int, int] = {}
    owners: dict[int, int] = {}
    left: list[int] = []
    heap = [(-row_scores[0], row, 0) for row, row_scores in enumerate(scores)]
    heapq.heapify(heap)
    while heap:
        _, row, position = heapq.heappop(heap)
        if neighbours[row][position] not in owners:
            pairs[row] = neighbours[row][position]
            owners[pairs[row]] = row
        elif position + 1 < len(neighbours[row]):
            heapq.heappush(heap, (-scores[row][position + 1], row, position + 1))
        else:
            left.append(row)
    for row in left:
        _make_room(row, neighbours, pairs, owners)
    return pairs


def _make_room(
    row: int, neighbours: Sequence[Sequence[int]], pairs: dict[int, int], owners: dict[int, int]
) -> None:
    """Give the row a pair by the shortest chain of others that move on; none if there is no chain.

    One step of Berge's augmenting paths, breadth first.
    """
    wanted_by: dict[int, int] = {}
    queue = deque([row])
    while queue:
        asking = queue.popleft()
        for index in neighbours[asking]:
            if index in wanted_by:
                continue
            wanted_by[index] = asking
            if index in owners:
                queue.append(owners[index])
                continue
            free: int | None = index
            while free is not None:
                mover = wanted_by[free]
                left_behind = pairs.get(mover)
                pairs[mover], owners[free] = free, mover
                free = left_behind
            return


FALLBACK_CANDIDATES = 200  # nearest ones among which the least overlapping are sought

DEEPER = 4  # factor by which a search that left a record without a pair of its own goes deeper

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
    ids: Sequence[Ids]

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
    if len(excluded) == len(pool):
        raise UserError(
            f"pool: none of its {len(pool)} records is usable, {len(excluded)} are near duplicates "
            f"of records to forget (similarity >= {near_duplicate}); give a pool of other texts"
        )
    search = make_search(forget.tails, pool.tails, encoder or TF_IDF, excluded)
    candidates = _Candidates(forget.ids, pool.ids, search, max_overlap)
    candidates.deepen(range(len(forget)), num_neighbours)
    candidates.deepen_until_all_differ(num_neighbours)
    found = [candidates.found[row] for row in range(len(forget))]
    neighbours = tuple(indices for indices, _ in found)
    firsts = [pool.ids[indices[0]] for indices in neighbours]
    return Retrieved(
        neighbours=neighbours,
        scores=tuple(scores for _, scores in found),
        encoder=search.encoder,
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


class _Candidates:
    """For each forget record the pool records that may be its pair, found as deep as asked."""

    def __init__(
        self, forget_ids: Sequence[Ids], pool_ids: Sequence[Ids], search: Search, max_overlap: int
    ) -> None:
        self.forget_ids, self.pool_ids, self.search = forget_ids, pool_ids, search
        self.usable = len(pool_ids) - len(search.excluded)
        self.ours, self.theirs = shared_runs(forget_ids, pool_ids, max_overlap)
        self.found: dict[int, Found] = {}
        self.overlapping: dict[int, Found] = {}  # where none passes: the least overlapping first

    def deepen(self, rows: Sequence[int], depth: int) -> None:
        """Find `depth` candidates for each of these forget records, or all there are."""
        for row in self.overlapping.keys() & rows:
            self.found[row] = _first(self.overlapping[row], depth)
        rows = [row for row in rows if row not in self.overlapping]
        passing = self._search(rows, min(depth, self.usable), self._barred)
        self.found |= {row: found for row, found in passing if found[0]}
        for row, found in self._least_overlapping([row for row in rows if row not in self.found]):
            self.overlapping[row] = found
            self.found[row] = _first(found, depth)

    def deepen_until_all_differ(self, depth: int) -> None:
        """Go on from this depth until each forget record has a pair of its own, or cannot have one.

        With as many candidates as there are forget records one is always free: that is enough. A
        smaller pool is searched whole, so that all of it serves.
        """
        rows = range(len(self.forget_ids))
        enough = min(len(rows), self.usable)
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

    def _search(
        self, rows: Sequence[int], k: int, barred: Barred | None = None
    ) -> Iterator[tuple[int, Found]]:
        """The k nearest of each of these rows, fewer where fewer count; some rows at a time."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            for row, scores, indices in zip(some, *self.search(some, k, barred), strict=True):
                counts = indices >= 0
                yield row, (tuple(indices[counts].tolist()), tuple(scores[counts].tolist()))

    def _barred(self, rows: np.ndarray, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of these rows and this block of the pool that share a run."""
        return (self.ours[rows] @ self.theirs[block].T).nonzero()

    def _least_overlapping(self, rows: Sequence[int]) -> Iterator[tuple[int, Found]]:
        """Of the nearest records of each of these rows those first that share the shortest runs."""
        enough = min(self.usable, max(FALLBACK_CANDIDATES, len(self.forget_ids)))
        for row, (indices, scores) in self._search(rows, enough):
            runs = longest_shared_runs(
                self.forget_ids[row], [self.pool_ids[index] for index in indices]
            )
            order = np.argsort(runs, kind="stable").tolist()
            yield row, (tuple(indices[i] for i in order), tuple(scores[i] for i in order))


def _first(found: Found, depth: int) -> Found:
    indices, scores = found
    return indices[:depth], scores[:depth]
