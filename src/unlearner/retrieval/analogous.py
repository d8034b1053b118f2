"""ICU's analogous set: which pool records are learned while others are forgotten.

"fixed" is the paper's: one partner for each forget record, found once. "fresh" draws other records
of the pool for every step, so that no few of them are memorised in place of the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from unlearner.data.batches import Deck
from unlearner.data.windows import TokenizedSet, Window, contents, tail_text, text_ids
from unlearner.retrieval.neighbours import Retrieved, Texts, assign_pairs, retrieve
from unlearner.retrieval.overlap import longest_shared_run, repeating

NUM_NEIGHBOURS = 64  # for each forget record


class AnalogousSettings(Protocol):
    """The settings of a method that decide its analogous set."""

    @property
    def pairs(self) -> str: ...
    @property
    def encoder(self) -> str: ...
    @property
    def max_overlap(self) -> int: ...
    @property
    def max_analogous(self) -> int: ...


@dataclass
class AnalogousSet:
    """Pool records to learn from, and the order in which they are drawn.

    Attributes:
        records: Pool indices of the set's records.
        chosen: Those records, numbered anew.
        partners: For each forget record the index of its partner in `chosen`; empty with fresh
            pairs, where none has one of its own.
        found: How they were found.
        longest_shared_run: Most tokens in a row that a forget record shares with its partner, or
            with the one it would have.
    """

    records: list[int]
    chosen: TokenizedSet
    partners: list[int]
    found: Retrieved
    longest_shared_run: int
    _deck: Deck = field(default_factory=Deck)

    @property
    def windows(self) -> Sequence[Window]:
        return self.chosen.windows

    def partners_of(self, forget_records: Sequence[int]) -> list[int]:
        """Indices into `windows` of the partners of some forget records."""
        partners = {self.partners[record] for record in forget_records}
        return [i for i, window in enumerate(self.windows) if window.record in partners]

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Indices of `count` windows, each drawn once before any is drawn again."""
        return self._deck.draw(count, len(self.windows), generator)


def find_analogous(
    forget: TokenizedSet,
    pool: TokenizedSet,
    tokenizer: PreTrainedTokenizerBase,
    settings: AnalogousSettings,
) -> AnalogousSet:
    """Retrieve each forget record's neighbours in the pool and choose the set to learn from.

    With fixed pairs the set is the partners; else the nearest records of the pool up to
    `max_analogous`, without near duplicates of forget records and what repeats most of one.
    """
    ours, theirs = (
        Texts([tail_text(ids, tokenizer) for ids in ids_of], contents(records, tokenizer), ids_of)
        for records, ids_of in ((some, text_ids(some, tokenizer)) for some in (forget, pool))
    )
    found = retrieve(
        ours,
        theirs,
        encoder=settings.encoder,
        num_neighbours=min(NUM_NEIGHBOURS, len(pool)),
        max_overlap=settings.max_overlap,
    )
    pairs = assign_pairs(found)
    fresh: list[int] = []
    if settings.pairs != "fixed":
        banned = {*found.excluded, *repeating(ours.ids, theirs.ids, settings.max_overlap)}
        fresh = list(islice(_by_rank(found, len(pool), banned), settings.max_analogous))
    records = sorted(fresh or {*pairs})
    index_of = {record: index for index, record in enumerate(records)}
    longest = max(longest_shared_run(ours.ids[i], theirs.ids[pair]) for i, pair in enumerate(pairs))
    partners = [] if fresh else [index_of[partner] for partner in pairs]
    return AnalogousSet(records, pool.subset(records), partners, found, longest)


def _by_rank(found: Retrieved, pool_size: int, banned: set[int]) -> Iterator[int]:
    """Pool records by the best rank that they have with any forget record, then the rest."""
    given = {None, *banned}  # None fills shorter lists of neighbours up
    ranked = chain.from_iterable(zip_longest(*found.neighbours))
    for record in chain(ranked, range(pool_size)):
        if record not in given:
            given.add(record)
            yield record
