"""What a record is, and the sets that a run works on."""

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unlearner.data.spelling import normalised


@dataclass(frozen=True)
class Record:
    """One record as the user gave it.

    Exactly one of the forms is filled. For a causal language model: `text`; `prompt` and
    `response`; `messages`, each as JSON, perhaps with `tools`; or `input_ids`. For a sequence
    classifier: `text`, perhaps `text_pair`, and `label`. For a token classifier: `tokens` and
    `tags`, of equal length. Labels and tags are names.
    """

    id: str
    text: str = ""
    prompt: str = ""
    response: str = ""
    input_ids: tuple[int, ...] = ()
    subject: str = ""  # the person or source that the record is about; empty: unknown
    text_pair: str = ""
    label: str = ""
    tokens: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    tools: str = ""  # what a conversation may call, as JSON

    @property
    def is_asked(self) -> bool:
        """Whether it has prompts beside responses."""
        return bool(self.prompt or self.messages)

    @property
    def group(self) -> str:
        """The subject, or the record itself where no subject is given: the unit of resampling."""
        return self.subject or self.id

    @property
    def content(self) -> str:
        """The record's text as one string; empty for a record given as token ids.

        That of a conversation is without its system prompts, which many records share.
        """
        if self.messages:
            turns = [json.loads(message) for message in self.messages]
            said = [turn for turn in turns if turn["role"] not in SYSTEM]
            return " ".join(text for turn in said for _, text in message_texts(turn))
        if self.tokens:
            return " ".join(self.tokens)
        if self.text_pair:
            return f"{self.text} {self.text_pair}"
        return self.text or f"{self.prompt} {self.response}".strip()


SYSTEM = ("system", "developer")
REASONING = ("reasoning_content", "reasoning", "thinking")


def message_texts(message: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The texts of a message: reasoning, content, and the names and arguments of calls.

    Each with its place: the keys and positions that lead to it.
    """
    for name in (*REASONING, "content"):
        if isinstance(message.get(name), str):
            yield (name,), message[name]
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if not isinstance(call, dict):
            continue
        nested = isinstance(call.get("function"), dict)
        function, path = (call["function"], ("function",)) if nested else (call, ())
        for name in ("name", "arguments"):
            value = function.get(name)
            if isinstance(value, str | dict):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield ("tool_calls", number, *path, name), text


def fields_beside(message: str) -> str:
    """A message, as JSON, without its texts."""
    given: Any = json.loads(message)
    for path, _ in list(message_texts(given)):
        inner = given
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = ""
    return json.dumps(given, ensure_ascii=False)


@dataclass(frozen=True)
class RecordSet:
    """Records of one role (forget, retain, pool, holdout) and where they came from.

    Attributes:
        source: A path, a data set id, or "memory".
        reading: What was read and what was not, in words.
        label_numbers: Labels that the source gives as numbers of outputs.
    """

    name: str
    records: tuple[Record, ...]
    source: str
    reading: str = field(default="", compare=False)
    label_numbers: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def digest_records(records: Iterable[Record], key: bytes) -> str:
    """HMAC-SHA256 of records in their order, over every field, lengths first."""
    code = hmac.new(key, digestmod=hashlib.sha256)
    for record in records:
        fields = (record.id, record.text, record.prompt, record.response, record.subject)
        ids = ",".join(map(str, record.input_ids))
        labelled = (record.text_pair, record.label, *record.tokens, *record.tags)
        spoken = (*record.messages, record.tools) if record.messages else ()
        for text in (*fields, ids, *(labelled if any(labelled) else ()), *spoken):
            data = text.encode("utf-8", "surrogatepass")
            code.update(len(data).to_bytes(8, "big") + data)
    return "hmac-sha256:" + code.hexdigest()


def digest_content(record: Record, key: bytes) -> str:
    """HMAC-SHA256 of what a record says, the same under another id, label, case or Unicode form.

    By it a record is known again in another file. Without the key it cannot be found by guessing.
    """
    text = normalised(record.content) or ",".join(map(str, record.input_ids))
    return _keyed("record", text, key)


def digest_subject(subject: str, key: bytes) -> str:
    """HMAC-SHA256 of the name of a subject, the same in another spelling (`data/spelling.py`)."""
    return _keyed("subject", normalised(subject), key)


def _keyed(what: str, text: str, key: bytes) -> str:
    """Half of the code, which is enough to tell 2^64 of them apart; what it is of goes first."""
    data = f"{what}\0".encode() + text.encode("utf-8", "surrogatepass")
    return hmac.new(key, data, hashlib.sha256).hexdigest()[:32]
