"""JSON that is no array of objects: what it holds is read where one can say what it is."""

import json

import pytest

from unlearner.data.loading import classifier_family, read_records
from unlearner.data.record import Record
from unlearner.errors import UserError

ROWS = [{"prompt": "Wo?", "response": "Hier."}, {"prompt": "Wer?", "response": "Sie."}]
RECORDS = tuple(
    Record(str(number), prompt=row["prompt"], response=row["response"])
    for number, row in enumerate(ROWS, 1)
)
TURNS = [{"role": "user", "content": "Wo?"}, {"role": "assistant", "content": "Hier."}]


@pytest.fixture
def write(tmp_path):
    def write(value):
        path = tmp_path / "a.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
        return path

    return write


def read(path, **settings):
    return read_records(path, name="forget", **settings).records


def message(path):
    with pytest.raises(UserError) as caught:
        read_records(path, name="forget")
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.1", "rows": ROWS, "tags": ["a"], "meta": {"x": 1}},
        {"prompt": ["Wo?", "Wer?"], "response": ["Hier.", "Sie."]},
        {"prompt": {"0": "Wo?", "1": "Wer?"}, "response": {"0": "Hier.", "1": "Sie."}},
        {"0": ROWS[0], "1": ROWS[1]},
        {
            "columns": ["prompt", "response"],
            "index": [0, 1],
            "data": [["Wo?", "Hier."], ["Wer?", "Sie."]],
        },
        {
            "schema": {"fields": [{"name": "index"}]},
            "data": [{"index": n} | row for n, row in enumerate(ROWS)],
        },
        "\n".join(map(json.dumps, ROWS)),
    ],
    ids="array data rows lists columns index split table lines".split(),  # noqa: SIM905
)
def test_the_same_records_are_read_from_every_shape(write, value):
    assert read(write(value)) == RECORDS


def test_rows_under_names_have_the_names_as_ids(write):
    found = read(write({"q-7": ROWS[0], "q-9": ROWS[1]}))
    assert [record.id for record in found] == ["q-7", "q-9"]


def test_an_array_of_texts_is_texts(write):
    assert read(write(["a", "b"])) == (Record("1", text="a"), Record("2", text="b"))


@pytest.mark.parametrize(
    "value", [{"text": "a b"}, {"text": "a b", "spans": [{"start": 0}, {"start": 2}]}]
)
def test_one_object_is_one_record(write, value):
    assert read(write(value)) == (Record("1", text="a b"),)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ({"messages": TURNS}, 1),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, 1),
        ({"messages": [TURNS, TURNS]}, 2),
        ({"prompt": [TURNS[:1]] * 2, "completion": [TURNS[1:]] * 2}, 2),
        ({"data": [{"messages": TURNS}] * 2}, 2),
    ],
)
def test_turns_of_a_conversation_are_no_records(write, value, number):
    assert [len(record.messages) for record in read(write(value))] == [2] * number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ({"input_ids": [1, 2]}, 1),
        ({"input_ids": [[1, 2], [3]]}, 2),
    ],
)
def test_a_list_of_numbers_is_one_records(write, value, number):
    assert len(read(write(value))) == number


def test_words_of_one_record_are_no_records(write):
    one = write({"tokens": ["New", "York"], "tags": ["B", "I"]})
    assert classifier_family(one, {}) == "token-classification"
    assert len(read(one, family="token-classification")) == 1
    both = write({"data": [{"tokens": ["a"], "tags": ["O"]}] * 2})
    assert classifier_family(both, {}) == "token-classification"
    assert len(read(both, family="token-classification")) == 2


def test_squad_as_published_is_a_record_for_each_question(write):
    questions = [
        {"id": "q1", "question": "Wo?", "answers": [{"text": "hier", "answer_start": 4}]},
        {"id": "q2", "question": "Wann?", "answers": [{"text": "nie", "answer_start": 9}]},
    ]
    article = {"title": "T", "paragraphs": [{"context": "Sie hier nie.", "qas": questions}]}
    found = read(write({"version": "1.1", "data": [article]}))
    assert found == (
        Record("q1", prompt="Sie hier nie.\n\nWo?", response="hier"),
        Record("q2", prompt="Sie hier nie.\n\nWann?", response="nie"),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"train": ROWS, "test": ROWS}, "holds 2 arrays of objects (train, test)"),
        ({"prompt": ["a"], "response": ["b", "c"]}, "lists of unequal length (1, 2)"),
        ({"prompt": {"0": "a"}, "response": {"1": "b"}}, "do not have the same rows"),
        ({"columns": ["prompt"], "data": [["a", "b"]]}, "a list for each row, as long as"),
        ({"data": [{"paragraphs": 5}]}, "paragraphs and qas must be arrays"),
        ([["a", "b"]], "record 1: the array must hold objects"),
        ({}, "no usable column; found none"),
        ({"alpha": 1}, "no usable column; found alpha"),
        ('{"text": "a"', "line 1: broken JSON"),
        ('{\n"text": "a",\n"b": }', "line 3: broken JSON"),
        ('{"text": "a"}\n{"text": }', "line 2: broken JSON"),
        ('[{"text": "a"}] [{"text": "b"}]', "line 1: broken JSON (Extra data"),
        ("5", "line 1: every line must be an object"),
        ("null", "line 1: every line must be an object"),
    ],
)
def test_what_has_no_known_shape_is_refused(write, value, expected):
    assert expected in message(write(value))
