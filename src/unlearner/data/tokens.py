"""Records to tokens, and which of them are whose.

A record has regions. The template is what a chat template or a joining template adds, its own
system prompt and the tokenizer's special tokens included; the prompt is what was asked, the
response what is answered. A record of plain text is one region, and so is one of token ids. Labels
of the template never count; those of the prompt count in the scope "sequence" alone. The token that
ends a response, or an end-of-text token that was appended, is no part of the text: models learn it
in fine-tuning, and nothing else counts it.

T tokens.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase

from unlearner.data.chat import ChatTemplate, Rendered, shared_start
from unlearner.data.record import Record, fields_beside
from unlearner.errors import UserError

AT_ONCE = 1024  # texts that go to the tokenizer together


@dataclass(frozen=True)
class Layout:
    """How a record becomes a token sequence.

    Attributes:
        template: Joins a prompt and its response; holds `{prompt}` before `{response}`.
        chat: Use the tokenizer's own chat template instead; conversations always do.
        scope: "sequence" scores prompt and response, "response" the response alone.
        max_length: Longest window in tokens.
        append_eos: End every record with the tokenizer's end-of-text token.
        date: The day that a chat template takes for today; empty for today itself.
    """

    template: str = "{prompt} {response}"
    chat: bool = False
    scope: str = "response"
    max_length: int = 1024
    append_eos: bool = False
    date: str = ""

    def join(self, prompt: str, response: str) -> Rendered:
        """A prompt with its response, and where the two stand in it."""
        before, between = self.template.split("{prompt}")
        between, after = between.split("{response}")
        asked = len(before), len(before) + len(prompt)
        answered = asked[1] + len(between), asked[1] + len(between) + len(response)
        return Rendered(f"{before}{prompt}{between}{response}{after}", (asked,), (answered,))


@dataclass(frozen=True)
class RecordTokens:
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

    def ended_by(self, token: int) -> "RecordTokens":
        """With an end-of-text token behind all."""
        return replace(self, ids=[*self.ids, token], end=len(self.ids))

    def counted(self, scope: str) -> np.ndarray:
        """(T,) bool: the tokens of the regions that count in a scope."""
        counts = np.zeros(len(self.ids), dtype=bool)
        for start, stop in (*self.responses, *(self.prompts if scope == "sequence" else ())):
            counts[start:stop] = True
        return counts


class Encoder:
    """Records to tokens, by one tokenizer and layout; counts what had to be changed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.chat = ChatTemplate(tokenizer, layout.date) if layout.chat else None
        self.begun_twice = self.defused = 0

    def encode_all(self, records: Sequence[Record]) -> Iterator[RecordTokens]:
        """As `encode`; plain texts many at a time, which fast tokenizers share among threads."""
        for start in range(0, len(records), AT_ONCE):
            some = records[start : start + AT_ONCE]
            plain = [not (record.is_asked or record.input_ids) for record in some]
            if self.tokenizer.is_fast and all(plain):
                texts = [record.text for record in some]
                found = self.tokenizer(
                    texts, return_attention_mask=False, return_token_type_ids=False
                )
                yield from (_one_region(self._begun_once(ids)) for ids in found["input_ids"])
            else:
                yield from (self.encode(record) for record in some)

    def encode(self, record: Record) -> RecordTokens:
        """The tokens of a record, and which of them are whose."""
        if record.input_ids:
            return _one_region(record.input_ids)
        if not record.is_asked:
            return _one_region(self._begun_once(self.tokenizer(record.text)["input_ids"]))
        self._check_fields(record)
        by_chat = self.layout.chat or bool(record.messages)
        rendered = (
            self._chat().render(record)
            if by_chat
            else self.layout.join(record.prompt, record.response)
        )
        ids, place = self._located(rendered, special=not by_chat)
        # A token on the border of a prompt and its response is the response's.
        responses = tuple(place.of(start, stop) for start, stop in rendered.responses)
        begun = {first for first, _ in responses}
        asked = (place.of(start, stop) for start, stop in rendered.prompts)
        prompts = tuple((first, last - (last - 1 in begun)) for first, last in asked)
        last = responses[-1][1] if responses else 0
        return RecordTokens(ids, prompts, responses, end=last if by_chat and last < len(ids) else 0)

    def _chat(self) -> ChatTemplate:
        self.chat = self.chat or ChatTemplate(self.tokenizer, self.layout.date)
        return self.chat

    def _located(
        self, rendered: Rendered, *, special: bool
    ) -> "tuple[list[int], _ByOffsets | _ByBeginnings]":
        """The tokens, and what finds those of some characters.

        Args:
            special: Add the tokenizer's special tokens; a chat template writes its own.
        """
        pieces = _cut(rendered.text, self._control_texts(rendered))
        self.defused += len(pieces) > 1
        encoded = [self._encoded(piece, special and len(pieces) == 1) for piece in pieces]
        ids = [token for one in encoded for token in one["input_ids"]]
        start, offsets = 0, []
        if self.tokenizer.is_fast:
            for piece, one in zip(pieces, encoded, strict=True):
                offsets += [(start + a, start + b) for a, b in one["offset_mapping"]]
                start += len(piece)
        if special and len(pieces) > 1:
            first, last = _special_around(self.tokenizer)
            ids = [*first, *ids, *last]
            offsets = [*[(0, 0)] * len(first), *offsets, *[(0, 0)] * len(last)]
        once = self._begun_once(ids) if special else ids
        if self.tokenizer.is_fast:
            return once, _ByOffsets(offsets[len(ids) - len(once) :])
        return once, _ByBeginnings(rendered.text, once, self.tokenizer, pieces)

    def _encoded(self, text: str, special: bool) -> BatchEncoding:
        if self.tokenizer.is_fast:
            return self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return self.tokenizer(text, add_special_tokens=special)

    def _begun_once(self, ids: Sequence[int]) -> list[int]:
        """Without a second token of beginning, where the text had its own."""
        first = self.tokenizer.bos_token_id
        if len(ids) > 1 and first is not None and ids[0] == ids[1] == first:
            self.begun_twice += 1
            return list(ids[1:])
        return list(ids)

    def _control_texts(self, rendered: Rendered) -> list[int]:
        """Where control tokens are written in a record's own texts: behind their first character.

        There they are text: what a record says must not end its turn, or begin another's.
        """
        regions = zip((rendered.prompts, rendered.responses), self._controls, strict=True)
        return sorted(
            {
                place + 1
                for spans_of, controls in regions
                for start, stop in spans_of
                for control in controls
                for place in _places(rendered.text, control, start, stop)
            }
        )

    def _check_fields(self, record: Record) -> None:
        """Refuse control tokens in what a template may write anywhere, such as tools.

        Raises:
            UserError: There is one.
        """
        for field in (*map(fields_beside, record.messages), record.tools):
            if any(control in field for control in self._controls[0]):
                raise UserError(
                    f"record {record.id!r}: a control token of the tokenizer is written in its "
                    "tools or in a field of a message beside the text; leave it out"
                )

    @cached_property
    def _controls(self) -> tuple[list[str], list[str]]:
        """Texts of control tokens, those of prompts and those of responses.

        All special tokens, and of others those that the template itself writes. A model's own tags,
        such as those around reasoning, may stand in a response.
        """
        source = f"{self.tokenizer.chat_template} {self.layout.template}"
        added = self.tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special]
        others = [t.content for t in added if not t.special and t.content.strip()]
        others = [text for text in others if text in source and re.search(r"[<\[|]", text)]
        untagged = [text for text in others if not re.fullmatch(r"</?\w+>", text)]
        return [*special, *others], [*special, *untagged]

    def notes(self) -> tuple[str, ...]:
        """What was changed, in words."""
        notes = []
        if self.begun_twice:
            notes.append(
                f"{self.begun_twice} begin with the tokenizer's token of beginning, which it would "
                "add: it stands there once"
            )
        if self.defused:
            notes.append(
                f"{self.defused} hold the text of control tokens, which are read as text, not as "
                "control tokens"
            )
        return tuple(notes)


def _cut(text: str, places: Sequence[int]) -> list[str]:
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def _special_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and behind a text."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    count = len(bare)
    places = range(len(whole) - count + 1)
    first = next((i for i in places if whole[i : i + count] == bare), 0)
    return whole[:first], whole[first + count :]


def _one_region(ids: Sequence[int]) -> RecordTokens:
    return RecordTokens(list(ids), responses=((0, len(ids)),))


def _places(text: str, part: str, start: int, stop: int) -> Iterator[int]:
    """Where a part of a text begins, between two places."""
    place = text.find(part, start, stop)
    while place >= 0:
        yield place
        place = text.find(part, place + 1, stop)


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

    def __init__(
        self,
        text: str,
        ids: list[int],
        tokenizer: PreTrainedTokenizerBase,
        pieces: Sequence[str],
    ) -> None:
        self.text, self.tokenizer, self.pieces = text, tokenizer, pieces
        self.ids = self._tokens(text)
        count = len(self.ids)
        places = range(len(ids) - count + 1)
        self.first = next((i for i in places if ids[i : i + count] == self.ids), 0)

    def of(self, start: int, stop: int) -> tuple[int, int]:
        """The first token of some characters and the one behind their last."""
        first, last = (
            self.first + shared_start(self._tokens(self.text[:place]), self.ids)
            for place in (start, stop)
        )
        return first, max(first, last)

    def _tokens(self, text: str) -> list[int]:
        """Of a beginning of the text, without the special tokens around the whole."""
        ids, left = [], len(text)
        for piece in self.pieces:
            some, left = piece[:left], left - len(piece[:left])
            if some:
                ids += self.tokenizer(some, add_special_tokens=False)["input_ids"]
        return ids
