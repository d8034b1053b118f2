"""Conversations as data sets write them, read as the messages that chat templates take.

`messages` of role and content with whatever stands beside them, ShareGPT's `conversations` of from
and value, TRL's `prompt` and `completion` as lists of messages, and a prompt and its response with
earlier turns or a system prompt in columns of their own.
"""

import json
import re
from collections.abc import Sequence

from unlearner.data.fields import check_unicode, read_text
from unlearner.data.problems import kind
from unlearner.data.readers import Row, parse_json

# Names of who speaks, to those that templates know; others stay as they are.
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
ROLE = re.compile(r"[A-Za-z][A-Za-z_\-]{0,29}")
PAIRS = '["what was asked", "what was answered"]'
EXAMPLE = 'such as {"role": "user", "content": "..."}'


def read_messages(row: Row, value: object, system: object = None) -> tuple[str, ...]:
    """Each message of a conversation as JSON.

    Args:
        value: The list of messages, or the list as JSON.
        system: A system prompt that stands in a column of its own.
    """
    messages = [_message(row, place, one) for place, one in enumerate(_turns(row, value), 1)]
    if system is not None and system != "" and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": read_text(row, "system", system)})
    return _checked(row, messages)


def read_exchange(row: Row, prompt: object, completion: object) -> tuple[str, ...]:
    """The messages of a prompt and its completion, of which the completion alone is answered."""
    asked = [_message(row, place, one) for place, one in enumerate(_turns(row, prompt, "user"), 1)]
    answers = _turns(row, completion, "assistant")
    answered = [_message(row, place, one) for place, one in enumerate(answers, len(asked) + 1)]
    for message in asked:
        if message["role"] == "assistant":
            message["weight"] = 0
    return _checked(row, [*asked, *answered])


def read_earlier(row: Row, history: object, system: object) -> list[dict[str, object]]:
    """The turns before a prompt, from columns of their own; empty where those are.

    Args:
        history: Pairs of what was asked and what was answered, as LLaMA-Factory has them, or turns.
        system: The system prompt.
    """
    earlier: list[dict[str, object]] = []
    if system is not None and not (isinstance(system, str) and not system.strip()):
        earlier.append({"role": "system", "content": read_text(row, "system", system)})
    if isinstance(history, str):
        history = parse_json(history, row.number) if history.strip() else None
    if history is None or history in ([], ()):
        return earlier
    if not isinstance(history, list | tuple):
        raise row.problem(f"history must be a list of pairs {PAIRS}, got {kind(history)}")
    for number, one in enumerate(history, 1):
        if isinstance(one, dict):
            earlier.append(_message(row, number, one, "history"))
            continue
        pair = list(one) if isinstance(one, list | tuple) else []
        if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise row.problem(f"entry {number} of history is no pair of texts; write it {PAIRS}")
        for speaker, text in zip(("user", "assistant"), pair, strict=True):
            check_unicode(row, "history", text)
            earlier.append({"role": speaker, "content": text})
    return earlier


def read_continued(
    row: Row, earlier: Sequence[dict[str, object]], prompt: str, response: str
) -> tuple[str, ...]:
    """The messages of earlier turns with a prompt and its response behind them."""
    asked: dict[str, object] = {"role": "user", "content": prompt}
    return _checked(row, [*earlier, asked, {"role": "assistant", "content": response}])


def read_tools(row: Row, value: object) -> str:
    """The tools that a conversation may use, as JSON; empty for none."""
    if isinstance(value, str) and value.strip():
        value = parse_json(value, row.number)
    if value is None or value in ("", []):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise row.problem(f"tools must be a list of objects, got {kind(value)}")
    return _as_json(row, "tools", value)


def _turns(row: Row, value: object, speaker: str = "") -> Sequence[object]:
    """The list of turns; of a plain text one turn of the speaker, where one is given."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, row.number)
    if isinstance(value, str) and speaker:
        return [{"role": speaker, "content": value}]
    if not isinstance(value, list | tuple):
        raise row.problem(f"messages must be a list of turns {EXAMPLE}, got {kind(value)}")
    if not value:
        raise row.problem("messages is empty; fill it in or remove the record")
    return value


def _message(row: Row, number: int, turn: object, column: str = "messages") -> dict[str, object]:
    where = f"turn {number} of {column}"
    if not isinstance(turn, dict):
        raise row.problem(f"{where} must be an object {EXAMPLE}, got {kind(turn)}")
    given = {name: value for name, value in turn.items() if value is not None}
    role, content = (given.pop(b, None) if b in given else None for b in ("from", "value"))
    role, content = given.pop("role", role), given.pop("content", content)
    if not isinstance(role, str) or not role.strip():
        raise row.problem(f"{where} has no role; write it {EXAMPLE}")
    if not ROLE.fullmatch(role):  # templates write it among their control tokens
        what = f"{where} has a role of {len(role)} characters that is no plain word"
        raise row.problem(f"{what}; write it {EXAMPLE}")
    if isinstance(content, list):
        content = _joined_parts(row, where, content)
    if content is None and "tool_calls" in given:
        return {"role": SPEAKERS.get(role, role), **given}
    if not isinstance(content, str):
        got = "none" if content is None else kind(content)
        raise row.problem(f"{where} must have a text as content, got {got}")
    check_unicode(row, where, content)
    return {"role": SPEAKERS.get(role, role), "content": content, **given}


def _joined_parts(row: Row, where: str, parts: Sequence[object]) -> str:
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise row.problem(f"{where} holds a part that is no text, such as an image; leave it out")
    return "\n".join(map(str, texts))


def _checked(row: Row, messages: Sequence[dict[str, object]]) -> tuple[str, ...]:
    """The messages as JSON, among which is an answer."""
    answers = [
        message
        for message in messages
        if message["role"] == "assistant"
        and message.get("weight") != 0
        and ("tool_calls" in message or str(message.get("content", "")).strip())
    ]
    if not answers:
        what = "messages has no answer (a turn of the role assistant with a text)"
        raise row.problem(f"{what}; add it or remove the record")
    written = tuple(_as_json(row, "messages", message) for message in messages)
    read_text(row, "messages", "".join(written))  # its length
    return written


def _as_json(row: Row, column: str, value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # dates of a parquet file, for example
        raise row.problem(
            f"{column} holds what JSON cannot, such as a date; write it as text"
        ) from (None)
    check_unicode(row, column, text)
    return text
