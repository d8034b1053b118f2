"""No message about records holds their text: every way in which they can be wrong, marked."""

import gzip
import json
import re

import pytest

from unlearner.data.loading import read_records
from unlearner.data.tokens import Layout
from unlearner.data.windows import tokenize_set
from unlearner.errors import UserError, printable

SECRET = "Mira Oduya of Oakmere lives at 12 Fennel Road and rings 555 0117"
WORDS = re.findall(r"\w+", SECRET)
SEQUENCE, TOKEN, TEXT = "sequence-classification", "token-classification", "causal-lm"
TURN = {"role": "assistant", "content": SECRET}


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


CASES = {
    # Tables
    "header": ("a.csv", f"{SECRET},1\nx,2\n"),
    "header of short fields": ("a.csv", "Mira,Oduya,Oakmere\na,b,c\n"),
    "header of one field": ("a.csv", f"{SECRET}\n{SECRET}\n"),
    "header of semicolons": ("a.csv", f"{SECRET};{SECRET}\nx;2\n"),
    "header of tabs": ("a.tsv", f"ham\t{SECRET}\nspam\t{SECRET}\n"),
    "header twice": ("a.csv", f"text,{SECRET},{SECRET}\na,b,c\n"),
    "more fields": ("a.csv", f"text,id\n{SECRET},1,2\n"),
    "fewer fields": ("a.csv", f"text,id\n{SECRET}\n"),
    "open quotes": ("a.csv", f'text,id\n"{SECRET},1\n'),
    "text behind quotes": ("a.csv", f'text,id\n"{SECRET}" {SECRET},1\n'),
    "id twice": ("a.csv", f"id,text\n{SECRET},a\n{SECRET},b\n"),
    "empty text": ("a.csv", f"text,note\n,{SECRET}\n"),
    "not UTF-8": ("a.csv", f"text\n{SECRET} ü\n".encode("latin-1")),
    "not UTF-16": ("a.txt", SECRET.encode("utf-16")[:-1]),
    "no mark": ("a.txt", SECRET.encode("utf-16-le")),
    # JSON
    "broken line": ("a.jsonl", f'{{"text": "{SECRET}"'),
    "broken behind": ("a.jsonl", f'{{"text": "a"}} {SECRET}'),
    "broken array": ("a.json", f'[{{"text": "{SECRET}"}}, {SECRET}]'),
    "no object": ("a.jsonl", json.dumps(SECRET)),
    "array of arrays": ("a.json", json.dumps([[SECRET]])),
    "text as key": ("a.jsonl", lines({SECRET: 1})),
    "key twice": ("a.jsonl", f'{{"{SECRET}": 1, "{SECRET}": 2}}'),
    "keys of objects": ("a.json", json.dumps({SECRET: [{"a": 1}], SECRET + "!": [{"a": 1}]})),
    "unequal columns": ("a.json", json.dumps({"text": [SECRET], "id": [1, 2]})),
    "mixed": ("a.jsonl", lines({"text": SECRET}, {"prompt": SECRET, "response": SECRET})),
    "mixed by key": ("a.jsonl", lines({"text": SECRET}, {SECRET: SECRET})),
    "unknown columns": ("a.jsonl", lines({"alpha": SECRET, SECRET: "x"})),
    "no response": ("a.jsonl", lines({"prompt": SECRET, SECRET: "x"})),
    "half a surrogate": ("a.jsonl", f'{{"text": "{SECRET} \\ud83d"}}'),
    "list": ("a.jsonl", lines({"text": [SECRET]})),
    "object": ("a.jsonl", lines({"text": {SECRET: SECRET}})),
    "id of an object": ("a.jsonl", lines({"text": "a", "id": {SECRET: SECRET}})),
    "token ids": ("a.jsonl", lines({"input_ids": SECRET})),
    "list of token ids": ("a.jsonl", lines({"input_ids": [SECRET]})),
    "list in quotes": ("a.jsonl", lines({"input_ids": f"[{SECRET}]"})),
    "answers": ("a.jsonl", lines({"question": SECRET, "answer": [{SECRET: SECRET}]})),
    "two prompts": ("a.jsonl", lines({"instruction": SECRET, "question": SECRET, "answer": "x"})),
    "two forms": ("a.jsonl", lines({"text": SECRET, "prompt": SECRET, "response": SECRET})),
    # Conversations
    "turns": ("a.jsonl", lines({"messages": SECRET})),
    "turn": ("a.jsonl", lines({"messages": [SECRET]})),
    "role": ("a.jsonl", lines({"messages": [{"role": SECRET, "content": SECRET}]})),
    "no answer": ("a.jsonl", lines({"messages": [{"role": "user", "content": SECRET}]})),
    "content": ("a.jsonl", lines({"messages": [{"role": "user", "content": {SECRET: 1}}]})),
    "parts": ("a.jsonl", lines({"messages": [{"role": "user", "content": [{SECRET: 1}]}]})),
    "tools": ("a.jsonl", lines({"messages": [TURN], "tools": SECRET})),
    "tool": ("a.jsonl", lines({"messages": [TURN], "tools": [SECRET]})),
    "completion": ("a.jsonl", lines({"prompt": [TURN], "completion": {SECRET: 1}})),
    # Others
    "packed": ("a.jsonl.gz", SECRET.encode()),
    "half packed": ("a.txt.gz", gzip.compress(SECRET.encode())[:-4]),
    "parquet": ("a.parquet", f"PAR1{SECRET}PAR1"),
    "array": ("a.npy", f"\x93NUMPY\x01\x00v\x00{{'{SECRET}': 1}}".encode("latin-1")),
}
LABELLED = {
    "swapped": (SEQUENCE, "a.csv", f"text,label\nham,{SECRET}\n"),
    "swapped numbers": (SEQUENCE, "a.csv", f"text,label\n0,{SECRET}\n1,{SECRET}\n"),
    "no label": (SEQUENCE, "a.csv", f"text,{SECRET}\nham,x\n"),
    "label of an object": (SEQUENCE, "a.jsonl", lines({"text": "a", "label": {SECRET: 1}})),
    "pair": (SEQUENCE, "a.jsonl", lines({"text": "a", "text_pair": [SECRET], "label": "ham"})),
    "no tag": (TOKEN, "a.conll", f"Mira O\n{SECRET.replace(' ', '_')}\n"),
    "a sentence a line": (TOKEN, "a.conll", f"{SECRET}\nMira Oduya\n"),
    "sentence as a tag": (TOKEN, "a.conll", f"Mira\t{SECRET}\n"),
    "words": (TOKEN, "a.jsonl", lines({"tokens": SECRET, "tags": SECRET})),
    "word": (TOKEN, "a.jsonl", lines({"tokens": [[SECRET]], "tags": ["O"]})),
    "tag": (TOKEN, "a.jsonl", lines({"tokens": ["a"], "tags": [SECRET]})),
    "unequal": (TOKEN, "a.jsonl", lines({"tokens": WORDS, "tags": ["O"]})),
}
TEMPLATES = {
    "own words": "{{ raise_exception('no ' + messages[0].content) }}",
    "a name": "{{ messages[0][messages[0].content].x }}",
    "a call": "{{ messages[0].content() }}",
    "a search": "{{ messages[0].content.index('none') }}",
    "attributes": "{{ messages.__class__.__mro__ }}",
}


def holds_text(said):
    """Whether three words of the record stand in a row, whatever is between them."""
    found = re.findall(r"\w+", said)
    runs = {tuple(found[i : i + 3]) for i in range(len(found) - 2)}
    return any(tuple(WORDS[i : i + 3]) in runs for i in range(len(WORDS) - 2))


def refusal(read):
    with pytest.raises(UserError) as caught:
        read()
    said = printable(str(caught.value))
    assert "\n" not in str(caught.value)
    assert len(said) < 700
    assert not holds_text(said)
    return said


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file_for_a_language_model_is_refused_without_its_text(tmp_path, case):
    name, content = CASES[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refusal(lambda: read_records(path, name="forget"))
    assert name in said


@pytest.mark.parametrize("case", LABELLED)
def test_a_wrong_file_for_a_classifier_is_refused_without_its_text(tmp_path, case):
    family, name, content = LABELLED[case]
    path = tmp_path / name
    path.write_bytes(content.encode())
    labels = ("ham", "spam") if family == SEQUENCE else ("O", "B-place")
    said = refusal(lambda: read_records(path, name="forget", family=family, labels=labels))
    assert name in said


@pytest.mark.parametrize(
    "columns", [{"x": "text"}, {"text": "subjekt"}, {"text": "id", "note": "text"}]
)
def test_wrong_maps_are_refused_without_the_text(tmp_path, columns):
    path = tmp_path / "a.csv"
    path.write_text(f"text,note\n{SECRET},\n{SECRET},x\n")
    refusal(lambda: read_records(path, name="forget", columns=columns))


def test_a_text_in_place_of_a_path_is_not_shown():
    assert "a text of 64 characters where a path" in refusal(
        lambda: read_records(SECRET, name="forget")
    )


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_fails_does_not_show_the_text(tokenizer, template):
    from copy import deepcopy

    own = deepcopy(tokenizer)
    own.chat_template = template
    turns = [{"role": "user", "content": SECRET}, TURN]
    some = read_records([{"messages": turns}], name="forget")
    said = refusal(lambda: tokenize_set(some, own, Layout()))
    assert "record '1': the model's chat template refuses it" in said


def test_what_was_read_is_said_without_the_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"text": SECRET, SECRET: 1, "note": SECRET}))
    some = read_records(path, name="forget")
    assert "not read: 2 names of 64, 4 characters" in some.reading
    assert not holds_text(some.reading)
