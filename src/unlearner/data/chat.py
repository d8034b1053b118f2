"""Records as the text that a chat template makes of them, and where their turns stand in it.

A template is a program that came with a model: it may trim texts, strip earlier reasoning, merge
turns, or refuse a conversation. Where the turns stand is therefore seen by what changes when one of
them is replaced. Where the template marks what the model writes (`{% generation %}`), a turn counts
as answered only there.
"""

import copy
import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from unlearner.data.record import Record, message_texts
from unlearner.errors import UserError

Message = Mapping[str, Any]
Span = tuple[int, int]

# Characters for private use, which no record or template has at these places: what stands in for a
# turn shows where the turn begins and ends, whatever the template does to it.
STAND_IN = "\ue000turn\ue001"

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
TODAY = "strftime_now"  # the function by which templates read the clock


@dataclass(frozen=True)
class Rendered:
    """A record as the one text that is tokenized; all else in it is the template's.

    Attributes:
        prompts: Where each turn begins and ends that was asked, in characters.
        responses: Likewise of each turn that was answered, in their order.
    """

    text: str
    prompts: tuple[Span, ...]
    responses: tuple[Span, ...]


class ChatTemplate:
    """The chat template of a tokenizer, on a day.

    Args:
        date: The day that it takes for today, ISO 8601; today itself where empty.

    Raises:
        UserError: The tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, date: str = "") -> None:
        if not tokenizer.chat_template:
            raise UserError(
                "data.chat: the tokenizer has no chat template; use data.template instead"
            )
        self.tokenizer, self.date = tokenizer, date

    def render(self, record: Record) -> Rendered:
        """A conversation, or a prompt and its response, by the template.

        Raises:
            UserError: The template refuses it.
        """
        if record.messages:
            messages = [json.loads(message) for message in record.messages]
        else:
            messages = [
                {"role": "user", "content": record.prompt},
                {"role": "assistant", "content": record.response},
            ]
        tools = json.loads(record.tools) if record.tools else None
        scored = [message.pop("weight", 1) != 0 for message in messages]
        rendering = _Rendering(self._source(tools), self.tokenizer, tools, record)
        text = rendering.text(messages)
        marked = rendering.marked(messages, text)
        prompts: list[Span] = []
        responses: list[Span] = []
        for place, message in enumerate(messages):
            for span in rendering.places(messages, place, text):
                answered = message["role"] == "assistant" and scored[place]
                if answered and (marked is None or _within(span, marked)):
                    responses.append(span)
                else:
                    prompts.append(span)
        return Rendered(text, _in_order(prompts), _in_order(responses))

    def _source(self, tools: object) -> str:
        source = self.tokenizer.get_chat_template(tools=tools)  # type: ignore[arg-type]
        return frozen(source, self.date) if TODAY in source else source


def reads_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template asks which day it is."""
    template = tokenizer.chat_template
    return TODAY in (json.dumps(template) if isinstance(template, dict) else str(template))


def frozen(source: str, date: str) -> str:
    """A template to which it is always the same day.

    A macro of the function's name goes before it; it replaces each code of a format.
    """
    day = datetime.date.fromisoformat(date) if date else datetime.datetime.now().date()
    moment = datetime.datetime.combine(day, datetime.time())
    codes = [f"%-{letter}" for letter in "dmjyHIMS"] + [f"%{c}" for c in "aAbBcdHIjmMpSUwWxXyY"]
    replaced = "".join(f".replace({code!r}, {moment.strftime(code)!r})" for code in codes)
    # Behind a block a line end would be cut off, behind an expression it is not.
    macro = f"{{% macro {TODAY}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{{{{ '' }}}}"
    return macro + source


@dataclass(frozen=True)
class _Rendering:
    """One record's conversation under a template."""

    source: str
    tokenizer: PreTrainedTokenizerBase
    tools: list[dict[str, Any]] | None
    record: Record

    def text(self, messages: Sequence[Message]) -> str:
        """What the template makes of some messages.

        Raises:
            UserError: It refuses them.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=self.tools,  # type: ignore[arg-type]
                    chat_template=self.source,
                    tokenize=False,
                )
            )
        except Exception as error:  # noqa: BLE001 - a template is a program of somebody else's
            why = str(error) if str(error) and str(error) in self.source else type(error).__name__
            raise UserError(
                f"record {self.record.id!r}: the model's chat template refuses it ({why}); change "
                "its turns to what the template allows, or leave the record out"
            ) from None

    def marked(self, messages: Sequence[Message], text: str) -> list[Span] | None:
        """What the template marks as the model's own; None where it marks nothing."""
        if not GENERATION.search(self.source):
            return None
        try:
            special: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
            found: Any = render_jinja_template(
                [[dict(message) for message in messages]],  # type: ignore[arg-type]
                tools=self.tools,  # type: ignore[arg-type]
                chat_template=self.source,
                return_assistant_tokens_mask=True,
                **special,
            )
            (rendered,), (spans,) = found
        except Exception:  # noqa: BLE001 - likewise; it has been rendered without the marks before
            return None
        return list(spans) if rendered == text and spans else None

    def places(self, messages: Sequence[Message], place: int, text: str) -> Iterator[Span]:
        """Where the texts of one message stand."""
        for path, _ in message_texts(messages[place]):
            changed = [copy.deepcopy(dict(message)) for message in messages]
            _replace(changed[place], path)
            other = self.text(changed)
            start = shared_start(text, other)
            # Not into what the two share at the beginning, which may go on at the end.
            left = min(len(text), len(other)) - start
            behind = min(left, shared_start(text[::-1], other[::-1]))
            yield start, len(text) - behind


def _replace(message: dict[str, Any], path: Sequence[str | int]) -> None:
    inner: Any = message
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = STAND_IN if isinstance(inner[path[-1]], str) else {STAND_IN: STAND_IN}


def _within(span: Span, marked: Sequence[Span]) -> bool:
    return any(start <= span[0] and span[1] <= stop for start, stop in marked)


def _in_order(spans: Sequence[Span]) -> tuple[Span, ...]:
    return tuple(sorted({span for span in spans if span[0] < span[1]}))


def shared_start(one: Sequence[object], other: Sequence[object]) -> int:
    """The length to which two sequences begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
