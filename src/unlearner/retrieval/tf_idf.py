r"""TF-IDF vectors of single words and pairs of them, in memory that a million texts leave free.

.. math:: v_t = n_t \, (1 + \log \frac{1 + N}{1 + N_t}), \quad v / |v|

with n_t how often a term stands in a text, N texts on both sides and N_t of them with the term.
These are the numbers of scikit-learn's `TfidfVectorizer(ngram_range=(1, 2))`, whose vocabulary is a
dictionary of every pair of words as text: of a large pool nearly all of its memory and half of its
time. Here a term is a number made of its two words', nothing is hashed, and only terms of the
queries become columns. Shapes: F queries, P texts, D terms of the queries.
"""

import logging
import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, vstack

from unlearner.errors import UserError

WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")
BLOCK = 8192  # texts; bounds the arrays of their terms
PENDING = 1 << 22  # terms of blocks that are counted together
SECOND = np.int64(32)  # bits of the second word's number, which is 0 where there is none
LOG_EVERY = 16  # blocks

logger = logging.getLogger(__name__)


def tf_idf_vectors(queries: Sequence[str], texts: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """The vectors of the queries (F, D) and of the texts (P, D), float32.

    They have length 1 over all terms, of which the queries' are columns.

    Raises:
        UserError: There is no word in any text.
    """
    blocks = [queries, *(texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))]
    numbers: dict[str, int] = {}
    words = [_Block(block, numbers) for block in blocks]
    if not numbers:
        raise UserError("the texts to compare are all empty; give records with words in them")
    frequencies, num_texts = _Frequencies(), len(queries) + len(texts)
    for number, some in enumerate(words):
        frequencies.add(*some.terms()[:2])
        _log("counted the terms of", number, len(words))
    frequencies.settle()
    columns = _by_name(words[0].terms()[0], list(numbers))
    rows = []
    for number, some in enumerate(words):
        rows.append(_weighted(some, frequencies, columns, num_texts))
        _log("weighted", number, len(words))
    return rows[0], csr_matrix(vstack(rows[1:], format="csr"))


def _log(what: str, number: int, count: int) -> None:
    if number and number % LOG_EVERY == 0:
        logger.info("%s %s of %s blocks of %s texts", what, number, count - 1, BLOCK)


class _Block:
    """The words of a block's texts as numbers, 4 bytes each."""

    def __init__(self, texts: Sequence[str], numbers: dict[str, int]) -> None:
        found = [WORDS_AND_MARKS.findall(text.lower()) for text in texts]
        self.lengths = np.array([len(words) for words in found], dtype=np.int64)
        every = (numbers.setdefault(word, len(numbers)) for words in found for word in words)
        self.ids = np.fromiter(every, dtype=np.int32, count=int(self.lengths.sum()))

    def terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The block's terms in order, in how many of its texts each is; then by text and term.

        Returns:
            The terms (M,), their texts' number (M,), the place text * M + term of each pair that
            there is (K,), and how often it is there (K,).
        """
        ids, text = self.ids.astype(np.int64), np.repeat(np.arange(len(self.lengths)), self.lengths)
        inner = np.flatnonzero(text[1:] == text[:-1])
        keys = np.concatenate([ids << SECOND, (ids[inner] << SECOND) | (ids[inner + 1] + 1)])
        terms, places = np.unique(keys, return_inverse=True)
        holders = np.concatenate([text, text[inner]])
        pairs, counts = np.unique(holders * max(1, len(terms)) + places, return_counts=True)
        in_texts = np.bincount(pairs % max(1, len(terms)), minlength=len(terms))
        return terms, in_texts, pairs, counts


class _Frequencies:
    """In how many texts each term is, in the order of the terms."""

    def __init__(self) -> None:
        self.terms = np.zeros(0, dtype=np.int64)
        self.counts = np.zeros(0, dtype=np.int32)
        self.pending: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, terms: np.ndarray, counts: np.ndarray) -> None:
        """Count a block's."""
        self.pending.append((terms, counts.astype(np.int32)))
        if sum(len(some) for some, _ in self.pending) > max(PENDING, len(self.terms) // 2):
            self.settle()

    def settle(self) -> None:
        """Put what was counted in order."""
        terms = np.concatenate([self.terms, *(some for some, _ in self.pending)])
        counts = np.concatenate([self.counts, *(some for _, some in self.pending)])
        self.pending = []
        order = np.argsort(terms, kind="stable")
        terms, counts = terms[order], counts[order]
        starts = np.flatnonzero(np.concatenate([[True], terms[1:] != terms[:-1]]))
        self.terms, self.counts = terms[starts], np.add.reduceat(counts, starts)

    def of(self, terms: np.ndarray) -> np.ndarray:
        """Those of some terms, all of which were counted."""
        return self.counts[np.searchsorted(self.terms, terms)]


def _by_name(terms: np.ndarray, words: list[str]) -> np.ndarray:
    """The terms in the order of their text, in which products are summed up."""
    first, second = terms >> SECOND, (terms & ((1 << SECOND) - 1)) - 1
    names = [
        words[one] if other < 0 else f"{words[one]} {words[other]}"
        for one, other in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return terms[sorted(range(len(names)), key=names.__getitem__)]


def _weighted(
    block: _Block, frequencies: _Frequencies, columns: np.ndarray, num_texts: int
) -> csr_matrix:
    """A block's vectors in the given columns."""
    terms, _, pairs, counts = block.terms()
    shape = len(block.lengths), len(columns)
    if not len(terms):
        return csr_matrix(shape, dtype=np.float32)
    inverse = 1 + np.log((1 + num_texts) / (1 + frequencies.of(terms)))
    row, term = np.divmod(pairs, len(terms))
    weights = counts * inverse[term]
    lengths = np.sqrt(np.bincount(row, weights**2, minlength=shape[0]))
    order = np.argsort(columns)
    place = np.minimum(np.searchsorted(columns, terms, sorter=order), len(columns) - 1)
    column = np.where(columns[order[place]] == terms, order[place], -1) if len(columns) else -1
    kept = np.flatnonzero(np.broadcast_to(column, terms.shape)[term] >= 0)
    values = (weights[kept] / lengths[row[kept]]).astype(np.float32)
    columns_of = np.broadcast_to(column, terms.shape)[term[kept]]
    found = csr_matrix((values, (row[kept], columns_of)), shape=shape)
    found.sort_indices()
    return found
