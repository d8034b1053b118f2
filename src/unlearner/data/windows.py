"""Text to token windows, with the labels that count.

T tokens. A record longer than the model's context becomes several windows that overlap by one
token, so that every token but the record's first is a label at most once and nothing is cut off.

A record has regions. The template is what a chat template or a joining template adds, its own
system prompt and the tokenizer's special tokens included; the prompt is what was asked, the
response what is answered. A record of plain text is one region, and so is one of token ids. Labels
of the template never count; those of the prompt count in the scope "sequence" alone. The token that
ends a response, or an end-of-text token that was appended, is no part of the text: models learn it
in fine-tuning, and nothing else counts it.
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
        scope: "sequence" scores prompt and response, "response" the response alone.
        max_length: Longest window in tokens.
        append_eos: End every record with the tokenizer's end-of-text token.
    """

    template: str = "{prompt} {response}"
    chat: bool = False
    scope: str = "response"
    max_length: int = 1024
    append_eos: bool = False

    def join(self, prompt: str, response: str) -> Rendered:
        """A prompt with its response, and where the two stand in it."""
        before, between = self.template.split("{prompt}")
        between, after = between.split("{response}")
        asked = len(before), len(before) + len(prompt)
        answered = asked[1] + len(between), asked[1] + len(between) + len(response)
        return Rendered(f"{before}{prompt}{between}{response}{after}", (asked,), (answered,))


@dataclass(frozen=True)
class Rendered:
    """A record as the one text that is tokenized; all else in it is the template's.

    Attributes:
        prompts: Where each turn begins and ends that was asked, in characters.
        responses: Likewise of each turn that was answered, in their order.
    """

    text: str
    prompts: tuple[tuple[int, int], ...]
    responses: tuple[tuple[int, int], ...]


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

    def with_end(self) -> Window:
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
    for index, (record, tokens) in enumerate(zip(records, encoded, strict=True)):
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
    return TokenizedSet(records.name, records.records, tuple(windows), records.source)


@dataclass(frozen=True)
class _Tokens:
    """One record as T tokens.

    Attributes:
        ids: The tokens.
        prompts: From the first token to behind the last of each turn that was asked.
        responses: Likewise of each turn that was answered; the whole of a plain text.
        end: The place of the token that ends the text; 0 where there is none.
    """

    ids: list[int]
    prompts: tuple[tuple[int, int], ...] = ()
    responses: tuple[tuple[int, int], ...] = ()
    end: int = 0

    def ended_by(self, token: int) -> _Tokens:
        """With an end-of-text token behind all."""
        return replace(self, ids=[*self.ids, token], end=len(self.ids))

    def counted(self, scope: str) -> np.ndarray:
        """(T,) bool: the tokens of the regions that count in a scope."""
        counts = np.zeros(len(self.ids), dtype=bool)
        for start, stop in (*self.responses, *(self.prompts if scope == "sequence" else ())):
            counts[start:stop] = True
        return counts


def _windows(index: int, identifier: str, tokens: _Tokens, layout: Layout) -> Iterator[Window]:
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


def _prefix(window: Window, start: int, tokens: _Tokens) -> int:
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


def _encode_all(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, layout: Layout
) -> Iterator[_Tokens]:
    """As `_encode`; plain texts many at a time, which fast tokenizers share among their threads."""
    for start in range(0, len(records), AT_ONCE):
        some = records[start : start + AT_ONCE]
        plain = [not (record.prompt or record.input_ids) for record in some]
        if tokenizer.is_fast and all(plain):
            texts = [record.text for record in some]
            found = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)
            yield from (_one_region(ids) for ids in found["input_ids"])
        else:
            yield from (_encode(record, tokenizer, layout) for record in some)


def _one_region(ids: Sequence[int]) -> _Tokens:
    return _Tokens(list(ids), responses=((0, len(ids)),))


def _encode(record: Record, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> _Tokens:
    """The tokens of a record, and which of them are whose."""
    if record.input_ids:
        return _one_region(record.input_ids)
    if not record.prompt:
        return _one_region(tokenizer(record.text)["input_ids"])
    rendered = (
        render_chat(record.prompt, record.response, tokenizer)
        if layout.chat
        else layout.join(record.prompt, record.response)
    )
    special = not layout.chat  # a chat template writes its own special tokens
    if tokenizer.is_fast:
        encoded = tokenizer(rendered.text, add_special_tokens=special, return_offsets_mapping=True)
        ids, place = list(encoded["input_ids"]), _ByOffsets(encoded["offset_mapping"])
    else:
        ids = list(tokenizer(rendered.text, add_special_tokens=special)["input_ids"])
        place = _ByBeginnings(rendered.text, ids, tokenizer)
    # A token on the border of a prompt and its response is the response's.
    responses = tuple(place.of(start, stop) for start, stop in rendered.responses)
    begun = {first for first, _ in responses}
    asked = (place.of(start, stop) for start, stop in rendered.prompts)
    prompts = tuple((first, last - (last - 1 in begun)) for first, last in asked)
    last = responses[-1][1] if responses else 0
    return _Tokens(ids, prompts, responses, end=last if layout.chat and last < len(ids) else 0)


class _ByOffsets:
    """Finds tokens by where each stands in the text."""

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        self.starts, self.ends = np.array(offsets, dtype=int).reshape(-1, 2).T

    def of(self, start: int, stop: int) -> tuple[int, int]:
        """The first token of some characters and the one behind their last."""
        found = np.flatnonzero((self.ends > start) & (self.starts < stop))
        return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


class _ByBeginnings:
    """Finds tokens of a tokenizer that says nothing of places: by the tokens of what goes before.

    They are the whole text's as far as the two begin alike: a space at the end of the shorter may
    be none of the longer's.
    """

    def __init__(self, text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
        self.text, self.tokenizer = text, tokenizer
        self.ids = self._tokens(text)
        count = len(self.ids)
        places = range(len(ids) - count + 1)
        self.first = next((i for i in places if ids[i : i + count] == self.ids), 0)

    def of(self, start: int, stop: int) -> tuple[int, int]:
        """The first token of some characters and the one behind their last."""
        first, last = (
            self.first + _shared_start(self._tokens(self.text[:place]), self.ids)
            for place in (start, stop)
        )
        return first, max(first, last)

    def _tokens(self, text: str) -> list[int]:
        """Without the special tokens around the whole."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


# Characters for private use, which no record or template has at these places: what stands in for a
# turn shows where the turn begins and ends, whatever the template does to it.
STAND_IN = "\ue000turn\ue001"


def render_chat(prompt: str, response: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """A prompt and its response by the tokenizer's chat template.

    Raises:
        UserError: The tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise UserError("data.chat: the tokenizer has no chat template; use data.template instead")
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    places = []
    for place in range(len(turns)):
        changed = [dict(turn) for turn in turns]
        changed[place]["content"] = STAND_IN
        other = str(tokenizer.apply_chat_template(changed, tokenize=False))
        start = _shared_start(text, other)
        # Not into what the two share at the beginning, which may go on at the end.
        left = min(len(text), len(other)) - start
        behind = min(left, _shared_start(text[::-1], other[::-1]))
        places.append((start, len(text) - behind))
    return Rendered(text, (places[0],), (places[1],))


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


def text_ids(some: TokenizedSet, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The tokens of every record's own text, without what a template adds: what is compared.

    Of records that were tokenized without a template they are the windows' own.
    """
    found = some.arrays()
    for place, record in enumerate(some.records):
        if record.prompt:
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
