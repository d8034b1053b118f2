"""Exact TF-IDF cosines of a few texts with very many, a block of texts at a time.

Only the terms of the few texts can give a product, so only their columns are kept; the lengths of
the other texts' vectors need the frequency of every term, counted block by block. The values are
those of scikit-learn's `TfidfVectorizer(ngram_range=(1, 2))`: the count of a term in the text times
1 + ln((1 + n) / (1 + df)), where df of all n texts have it; scaled to length 1.

Shapes: F texts to search for, P texts to search in, N texts of a block, V terms of the F texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unlearner.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")  # scikit-learn's own pattern drops one-letter words

BLOCK = 16_384  # texts


@dataclass(frozen=True)
class TfIdf:
    """Vectors of length 1, or 0 for a text without words: (F, V), and (N, V) for each block."""

    queries: csr_matrix
    blocks: Sequence[csr_matrix]

    def cosines(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The cosines of these queries with each block of texts in turn, (rows, N)."""
        # A product of sparse by dense runs along the rows; of sparse by sparse it took far longer.
        queries_VR = self.queries[rows].T.toarray()
        for texts_NV in self.blocks:
            yield np.ascontiguousarray((texts_NV @ queries_VR).T)


def tf_idf(queries: Sequence[str], texts: Sequence[str], excluded: Collection[int] = ()) -> TfIdf:
    """The TF-IDF vectors of F and P texts, single words and pairs weighted over both sides.

    Args:
        excluded: Indices of texts that do not count; their vectors are 0.

    Raises:
        UserError: There is no word in any text.
    """
    vocabulary: dict[str, int] = {}
    sides = [_Block.of(queries, vocabulary)]
    for start in range(0, len(texts), BLOCK):
        some = enumerate(texts[start : start + BLOCK], start)
        kept = ["" if index in excluded else text for index, text in some]
        sides.append(_Block.of(kept, vocabulary))
    if not vocabulary:
        raise UserError("the texts to compare are all empty; give records with words in them")
    frequencies = _Frequencies()
    for block in sides:
        frequencies.add(*block.frequencies())
    terms, counts = frequencies.total()
    size = len(queries) + len(texts) - len(excluded)
    idf = np.log((1 + size) / (1 + counts)) + 1
    columns = np.unique(sides[0].terms()[0])
    queries_FV, *blocks = (block.vectors(terms, idf, columns) for block in sides)
    return TfIdf(queries_FV, blocks)


@dataclass(frozen=True)
class _Block:
    """The words of some texts, one after the other, and how many each text has."""

    words: np.ndarray  # int32 numbers in the vocabulary
    lengths: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], vocabulary: dict[str, int]) -> _Block:
        words: list[int] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        number = vocabulary.setdefault
        for i, text in enumerate(texts):
            found = WORDS_AND_MARKS.findall(text.lower())
            words += [number(word, len(vocabulary)) for word in found]
            lengths[i] = len(found)
        return cls(np.array(words, dtype=np.int32), lengths)

    def terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The terms, sorted; and of each pair of a text and a term in it both and how often.

        A word is the term of its number, a pair of words the second with the first, plus 1, above.
        """
        texts = np.repeat(np.arange(len(self.lengths)), self.lengths)
        words = self.words.astype(np.int64)
        within = texts[1:] == texts[:-1]
        pairs = ((words[:-1] + 1 << 32) | words[1:])[within]
        terms, place = np.unique(np.concatenate((words, pairs)), return_inverse=True)
        owner = np.concatenate((texts, texts[1:][within]))
        cells, counts = np.unique(owner * len(terms) + place, return_counts=True)
        owner, place = np.divmod(cells, max(1, len(terms)))
        return terms, owner, place, counts

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """The terms, and in how many texts each stands."""
        terms, _, place, _ = self.terms()
        return terms, np.bincount(place, minlength=len(terms))

    def vectors(self, all_terms: np.ndarray, idf: np.ndarray, columns: np.ndarray) -> csr_matrix:
        """One row a text, of the length 1 over all terms, cut down to the terms of the columns."""
        from scipy.sparse import csr_matrix

        terms, owner, place, counts = self.terms()
        weights = counts * idf[np.searchsorted(all_terms, terms)][place]
        squares = np.bincount(owner, weights**2, minlength=len(self.lengths))
        column = np.searchsorted(columns, terms)
        column[column == len(columns)] = 0
        kept = (columns[column] == terms)[place] if len(columns) else np.zeros(len(place), bool)
        owner, values = owner[kept], weights[kept]
        values = (values / np.sqrt(squares[owner])).astype(np.float32)
        shape = (len(self.lengths), len(columns))
        return csr_matrix((values, (owner, column[place[kept]])), shape=shape)


class _Frequencies:
    """In how many texts each term stands, added up block by block.

    Blocks wait until they are as large as the table, so that each number is moved few times.
    """

    def __init__(self) -> None:
        self.terms, self.counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, terms: np.ndarray, counts: np.ndarray) -> None:
        self.waiting.append((terms, counts))
        if sum(len(some) for some, _ in self.waiting) > len(self.terms):
            self.total()

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """All terms so far, sorted, and their counts."""
        together = [(self.terms, self.counts), *self.waiting]
        terms = np.concatenate([some for some, _ in together])
        counts = np.concatenate([some for _, some in together])
        order = np.argsort(terms, kind="stable")
        terms, counts = terms[order], counts[order]
        first = np.flatnonzero(np.diff(terms, prepend=-1))
        if len(terms):
            self.terms, self.counts = terms[first], np.add.reduceat(counts, first)
        self.waiting = []
        return self.terms, self.counts
