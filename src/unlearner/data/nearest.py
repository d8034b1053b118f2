"""Exact nearest neighbours of texts by cosine, with a sentence encoder or with TF-IDF.

Shapes: F texts to search for, P texts to search in, N of them in a block, k neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unlearner.data.embeddings import embedded
from unlearner.data.encoding import MINI_LM, Encoder, is_cached
from unlearner.data.tfidf import tf_idf

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
