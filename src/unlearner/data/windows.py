"""Text to token windows, with the labels that count.

T tokens. A record longer than the model's context becomes several windows that overlap by one
token, so that every token but the record's first is a label exactly once and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError

# The continuation that BLEU and BERTScore compare, in tokens (ICU generates 50).
CONTINUATION_TOKENS = 50
AT_ONCE = 1024  # texts that go to the tokenizer together


@dataclass(frozen=True)
class Layout:
    """How a record becomes a token sequence.

    Attributes:
        template: Joins a prompt and its response; holds `{prompt}` before `{response}`.
        chat: Use the tokenizer's own chat template instead.
        scope: "sequence" scores every label, "response" only those of the response.
        max_length: Longest window in tokens.
        append_eos: End every record with the tokenizer's end-of-text token.
    """

    template: str = "{prompt} {response}"
    chat: bool = False
    scope: str = "sequence"
    max_length: int = 1024
    append_eos: bool = False

    def join(self, prompt: str, response: str) -> tuple[str, int]:
        """The text of a prompt with its response, and the character where the response begins."""
        before, between = self.template.split("{prompt}")
        between, after = between.split("{response}")
        start = f"{before}{prompt}{between}"
        return f"{start}{response}{after}", len(start)


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of one record.

    Attributes:
        record: Index of the record in its set.
        id: The record's id.
        input_ids: (T,) int64.
        scored: (T-1,) bool, entry t-1 says whether token t is a label that counts.
        prefix: Prompt length from which the continuation of this window is compared as text.
    """

    record: int
    id: str
    input_ids: np.ndarray
    scored: np.ndarray
    prefix: int

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class TokenizedSet:
    """A record set and its windows."""

    name: str
    records: tuple[Record, ...]
    windows: tuple[Window, ...]
    source: str

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

    def subset(self, records: Sequence[int]) -> TokenizedSet:
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
    encoded = _encode_all(records.records, tokenizer, layout)
    for index, (record, (ids, response_start)) in enumerate(zip(records, encoded, strict=True)):
        if layout.append_eos:
            ids = [*ids, tokenizer.eos_token_id]
        if len(ids) < 2:
            raise UserError(
                f"{records.name} {records.source}, record {record.id!r}: {len(ids)} token; at "
                "least 2 are needed for one to be predicted; leave the record out"
            )
        windows += _windows(index, record.id, ids, response_start, layout)
    return TokenizedSet(records.name, records.records, tuple(windows), records.source)


def _windows(
    index: int, identifier: str, ids: list[int], response_start: int, layout: Layout
) -> Iterator[Window]:
    tokens = np.asarray(ids, dtype=np.int64)
    step = layout.max_length - 1
    for start in range(0, len(tokens) - 1, step):
        piece = tokens[start : start + layout.max_length]
        labels = np.arange(start + 1, start + len(piece))
        scored = labels >= response_start if layout.scope == "response" else labels > 0
        prefix = response_start - start
        if not 0 < prefix < len(piece):
            prefix = max(1, len(piece) - min(CONTINUATION_TOKENS, len(piece) // 2))
        yield Window(index, identifier, piece, scored, prefix)


def _encode_all(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, layout: Layout
) -> Iterator[tuple[list[int], int]]:
    """As `_encode`; plain texts many at a time, which fast tokenizers share among their threads."""
    for start in range(0, len(records), AT_ONCE):
        some = records[start : start + AT_ONCE]
        plain = [not (record.prompt or record.input_ids) for record in some]
        if tokenizer.is_fast and all(plain):
            texts = [record.text for record in some]
            found = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)
            yield from ((ids, 0) for ids in found["input_ids"])
        else:
            yield from (_encode(record, tokenizer, layout) for record in some)


def _encode(
    record: Record, tokenizer: PreTrainedTokenizerBase, layout: Layout
) -> tuple[list[int], int]:
    """Token ids, and the position of the first token of the response (0: there is no prompt)."""
    if record.input_ids:
        return list(record.input_ids), 0
    if not record.prompt:
        return list(tokenizer(record.text)["input_ids"]), 0
    text, response_at = (
        _chat(record, tokenizer) if layout.chat else layout.join(record.prompt, record.response)
    )
    special = not layout.chat  # a chat template writes its own special tokens
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        first = next((i for i, end in enumerate(ends) if end > response_at), len(ends))
        return list(encoded["input_ids"]), first
    before = tokenizer(text[:response_at], add_special_tokens=special)["input_ids"]
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    # Not len(before): a space or end-of-text token at its end may be none of the whole text's.
    return ids, _shared_start(before, ids)


def _chat(record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    if not tokenizer.chat_template:
        raise UserError("data.chat: the tokenizer has no chat template; use data.template instead")
    turn = [{"role": "user", "content": record.prompt}]
    start = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    turn.append({"role": "assistant", "content": record.response})
    text = str(tokenizer.apply_chat_template(turn, tokenize=False))
    # Not len(start): a template may ask for an answer with words that it leaves out of a given one.
    return text, _shared_start(start, text)


def _shared_start(one: Sequence[object], other: Sequence[object]) -> int:
    """The length to which two sequences begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def tail_text(
    tokens: Sequence[int] | np.ndarray, tokenizer: PreTrainedTokenizerBase, num_tokens: int = 100
) -> str:
    """The text of the last tokens: what retrieval embeds (ICU, section on the analogous set)."""
    last = np.asarray(tokens[-num_tokens:]).tolist()
    return str(tokenizer.decode(last, skip_special_tokens=True))


def contents(some: TokenizedSet, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every record as text; those given as token ids are decoded."""
    if all(record.content for record in some.records):
        return [record.content for record in some.records]
    return [
        record.content or tail_text(ids, tokenizer, len(ids))
        for record, ids in zip(some.records, some.arrays(), strict=True)
    ]
