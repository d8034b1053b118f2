"""Text to token windows, with the labels that count.

T tokens. A record longer than the model's context becomes several windows that overlap by one
token, so that every token but the record's first is a label at most once and nothing is cut off.
Which of a record's tokens are template, prompt and response is said in `tokens.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from unlearner.data.record import Record, RecordSet
from unlearner.data.tokens import Encoder, Layout, RecordTokens
from unlearner.errors import UserError

# The continuation that BLEU and BERTScore compare, in tokens (ICU generates 50).
CONTINUATION_TOKENS = 50


def spans(scored: np.ndarray, *, first_counts: bool) -> list[tuple[int, int]]:
    """The runs of tokens that count, each from its first token to behind its last.

    Args:
        scored: (T-1,) bool, see `Window`.
        first_counts: See `Window`.
    """
    counts = np.concatenate([scored[:1] & first_counts, scored, [False]])
    edges = np.flatnonzero(counts[1:] != counts[:-1]) + 1
    ends = [0, *edges.tolist()] if counts[0] else edges.tolist()
    return list(zip(ends[::2], ends[1::2], strict=True))


def end_of_span(runs: Sequence[tuple[int, int]], place: int) -> int:
    """The end of the run that holds the token at a place; the place itself where none does."""
    return next((stop for start, stop in runs if start <= place < stop), place)


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of one record.

    Attributes:
        record: Index of the record in its set.
        id: The record's id.
        input_ids: (T,) int64.
        scored: (T-1,) bool, entry t-1 says whether token t is a label that counts.
        prefix: Prompt length from which the continuation of this window is compared as text.
        first_counts: Whether token 0, which is no label, is of the same text as token 1.
        end: The token that ends the response or the text, which models learn in fine-tuning and
            nothing else counts; 0 where the window has none.
    """

    record: int
    id: str
    input_ids: np.ndarray
    scored: np.ndarray
    prefix: int
    first_counts: bool = True
    end: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def stop(self) -> int:
        """Where the continuation behind `prefix` ends, see `end_of_span`."""
        return end_of_span(spans(self.scored, first_counts=self.first_counts), self.prefix)

    @property
    def begins_response(self) -> bool:
        """Whether a response that was asked for begins at `prefix`."""
        counts = np.concatenate([self.scored[:1] & self.first_counts, self.scored])
        return bool(counts[self.prefix] and not counts[self.prefix - 1])

    def with_end(self) -> "Window":
        """The window whose labels that count include the end token."""
        if not self.end:
            return self
        scored = self.scored.copy()
        scored[self.end - 1] = True
        return replace(self, scored=scored)


@dataclass(frozen=True)
class TokenizedSet:
    """A record set and its windows."""

    name: str
    records: tuple[Record, ...]
    windows: tuple[Window, ...]
    source: str
    notes: tuple[str, ...] = ()  # what was done to records that people should know

    def __len__(self) -> int:
        return len(self.records)

    @property
    def groups(self) -> list[str]:
        """The unit of resampling of each record: its subject, or itself."""
        return [record.group for record in self.records]

    @property
    def num_tokens(self) -> int:
        """Tokens of the records; one that two windows share counts once."""
        return sum(len(window) - 1 for window in self.windows) + len(self.records)

    def windows_of(self, records: Sequence[int]) -> list[Window]:
        """The windows of the given records, in their order."""
        wanted = set(records)
        return [window for window in self.windows if window.record in wanted]

    def subset(self, records: Sequence[int]) -> "TokenizedSet":
        """The set of some records, numbered anew in the order given."""
        place = {record: index for index, record in enumerate(records)}
        windows = [
            replace(window, record=place[window.record])
            for window in self.windows
            if window.record in place
        ]
        windows.sort(key=lambda window: window.record)
        kept = tuple(self.records[record] for record in records)
        return TokenizedSet(self.name, kept, tuple(windows), self.source)

    def sequences(self) -> list[list[int]]:
        """The tokens of every record, its windows joined again."""
        return [tokens.tolist() for tokens in self.arrays()]

    def arrays(self) -> list[np.ndarray]:
        """The tokens of every record; of a record of one window the window's own, not a copy."""
        pieces: list[list[np.ndarray]] = [[] for _ in self.records]
        for window in self.windows:
            some = pieces[window.record]
            some.append(window.input_ids[1:] if some else window.input_ids)
        return [some[0] if len(some) == 1 else np.concatenate(some) for some in pieces]


def tokenize_set(
    records: RecordSet, tokenizer: PreTrainedTokenizerBase, layout: Layout
) -> TokenizedSet:
    """Every record of the set as windows of at most `layout.max_length` tokens.

    Raises:
        UserError: A record is too short to be predicted (under 2 tokens), or the tokenizer has no
            chat template or end-of-text token where one is needed.
    """
    if layout.append_eos and tokenizer.eos_token_id is None:
        raise UserError("data.append_eos: the tokenizer has no end-of-text token; leave it false")
    windows: list[Window] = []
    encoder = Encoder(tokenizer, layout)
    encoded = encoder.encode_all(records.records)
    for index, record in enumerate(records):
        try:
            tokens = next(encoded)
        except UserError as error:
            raise UserError(f"{records.name} {records.source}, {error}") from None
        if layout.append_eos:
            tokens = tokens.ended_by(int(tokenizer.eos_token_id))  # type: ignore
        if len(tokens.ids) < 2:
            raise UserError(
                f"{records.name} {records.source}, record {record.id!r}: {len(tokens.ids)} token; "
                "at least 2 are needed for one to be predicted; leave the record out"
            )
        if not any(start < stop for start, stop in tokens.responses):
            raise UserError(
                f"{records.name} {records.source}, record {record.id!r}: nothing of its response "
                "is left in what the template makes of it; check the tokenizer's chat template"
            )
        windows += _windows(index, record.id, tokens, layout)
    return TokenizedSet(
        records.name, records.records, tuple(windows), records.source, encoder.notes()
    )


def _windows(index: int, identifier: str, tokens: RecordTokens, layout: Layout) -> Iterator[Window]:
    ids = np.asarray(tokens.ids, dtype=np.int64)
    counted, step = tokens.counted(layout.scope), layout.max_length - 1
    for start in range(0, len(ids) - 1, step):
        stop = min(start + layout.max_length, len(ids))
        window = Window(
            record=index,
            id=identifier,
            input_ids=ids[start:stop],
            scored=counted[start + 1 : stop],
            prefix=1,
            first_counts=bool(counted[start]),
            end=tokens.end - start if start < tokens.end < stop else 0,
        )
        yield replace(window, prefix=_prefix(window, start, tokens))


def _prefix(window: Window, start: int, tokens: RecordTokens) -> int:
    """Where the continuation that is compared as text begins.

    At the last response that was asked for and begins in the window, else in the last run of
    counted tokens, so that half of it and 50 tokens at most are left.
    """
    begun = [first - start for first, _ in tokens.responses if first > 0]
    asked = [place for place in begun if 0 < place < len(window)]
    if asked:
        return asked[-1]
    runs = spans(window.scored, first_counts=window.first_counts) or [(0, len(window))]
    first, stop = runs[-1]
    return max(1, stop - min(CONTINUATION_TOKENS, (stop - first) // 2))


def tail_text(
    tokens: Sequence[int] | np.ndarray, tokenizer: PreTrainedTokenizerBase, num_tokens: int = 100
) -> str:
    """The text of the last tokens: what retrieval embeds (ICU, section on the analogous set)."""
    last = np.asarray(tokens[-num_tokens:]).tolist()
    return str(tokenizer.decode(last, skip_special_tokens=True))


def text_ids(some: TokenizedSet, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The tokens of every record's own text, without what a template adds: what is compared.

    Of records that were tokenized without a template they are the windows' own.
    """
    found = some.arrays()
    for place, record in enumerate(some.records):
        if record.is_asked:
            ids = tokenizer(record.content, add_special_tokens=False)["input_ids"]
            found[place] = np.asarray(ids, dtype=np.int64)
    return found


def contents(some: TokenizedSet, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every record as text; those given as token ids are decoded."""
    if all(record.content for record in some.records):
        return [record.content for record in some.records]
    return [
        record.content or tail_text(ids, tokenizer, len(ids))
        for record, ids in zip(some.records, some.arrays(), strict=True)
    ]
