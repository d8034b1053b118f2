"""Which columns are read: known shapes without a word, the others as the user says, all named."""

import pytest

from unlearner.cli.arguments import column_names
from unlearner.data.loading import read_records
from unlearner.errors import UserError
from unlearner.settings import DataSettings, Template, build


def read(row, **settings):
    rows = row if isinstance(row, list) else [row]
    return read_records(rows, **{"name": "forget", **settings})


def only(row, **settings):
    (record,) = read(row, **settings)
    return record


def message(row, **settings):
    with pytest.raises(UserError) as caught:
        read(row, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Known shapes


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Do.", "input": "It.", "output": "R"}, "Do.\n\nIt."),
        ({"instruction": "Do.", "input": "", "output": "R"}, "Do."),
        ({"instruction": "Do.", "input": None, "output": "R"}, "Do."),
        ({"instruction": "Do.", "output": "R"}, "Do."),
        ({"instruction": "Do.", "context": "It.", "response": "R"}, "Do.\n\nIt."),
        ({"question": "Q", "answer": "R"}, "Q"),
        ({"context": "C", "question": "Q", "answer": "R"}, "C\n\nQ"),
        ({"query": "Q", "response": "R"}, "Q"),
        ({"prompt": "Q", "completion": "R"}, "Q"),
        ({"input": "Q", "output": "R"}, "Q"),
        ({"Question": "Q", "Answer": "R"}, "Q"),
        ({" question ": "Q", "ANSWER": "R", "date": "x"}, "Q"),
        ({"question": "Q", "answers": ["R", "S"]}, "Q"),
        ({"question": "Q", "answer": ["R"]}, "Q"),
        ({"question": "Q", "answers": {"text": ["R", "S"], "answer_start": [0, 1]}}, "Q"),
    ],
)
def test_known_shapes_are_read_without_a_map(row, prompt):
    record = only(row)
    assert (record.prompt, record.response) == (prompt, "R")


@pytest.mark.parametrize("name", ["text", "Text", "content", "CONTENT"])
def test_texts_have_two_names(name):
    assert only({name: "a b"}).text == "a b"


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"text": "T", "content": "C"}, "text"),
        ({"prompt": "P", "response": "R", "content": "C"}, "prompt"),
        ({"prompt": "P", "messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ],
)
def test_what_is_whole_under_its_own_name_goes_before(row, form):
    assert getattr(only(row), form)


def test_records_without_an_input_may_leave_it_out():
    rows = [
        {"instruction": "Do.", "output": "R"},
        {"instruction": "A", "input": "B", "output": "S"},
    ]
    for some in (rows, rows[::-1]):
        found = read(some)
        assert {record.prompt for record in found} == {"Do.", "A\n\nB"}
        assert "instruction + input as prompt" in found.reading


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"instruction": "a", "input": "b", "output": "c", "text": "d"},
            "ambiguous: has text and prompt/response; keep one, or choose it with --map text=text "
            "or instruction+input=prompt,output=response",
        ),
        ({"instruction": "a", "question": "b", "answer": "c"}, "--map instruction+question=prompt"),
        ({"question": "a", "answer": "b", "output": "c"}, "the response may be output or answer"),
        ({"question": "a"}, "no column response; found question"),
        ({"question": "a", "answer": []}, "response holds no answer"),
        ({"question": "a", "answers": {"text": [], "answer_start": []}}, "holds no answer"),
        ({"question": "a", "answers": {"start": [1]}}, "must be text or texts, got an object"),
        ({"question": "a", "answer": [5]}, "response must be text or texts, got a number"),
        ({"instruction": " ", "input": "", "output": "x"}, "prompt is empty"),
        ({"instruction": "a", "input": 5, "output": "x"}, "input must be text, got a number"),
    ],
)
def test_what_could_be_read_in_two_ways_or_none_is_asked(row, expected):
    assert expected in message(row)


def test_records_of_other_columns_are_not_mixed():
    rows = [{"instruction": "a", "output": "b"}, {"question": "a", "output": "b"}]
    assert "record 2: mixed columns: has question, output where the first" in message(rows)


# What is said


def test_what_was_read_and_what_was_not_is_said_in_a_line():
    row = {"question": "Q", "answer": ["R", "S"], "source": "x", "id": 1}
    assert read([row, row | {"id": 2}]).reading == (
        "2 records; read: question as prompt, answer as response, id; not read: source; "
        "of several answers the first"
    )
    assert read({"question": "Q", "answer": ["R"]}).reading.endswith("answer as response")


def test_columns_that_only_some_records_have_are_said_too():
    assert read([{"text": "a"}, {"text": "b", "note": 1}]).reading.endswith("not read: note")


# Maps


def test_several_columns_are_joined_by_a_map():
    row = {"title": "T", "body": "B", "reply": "R"}
    record = only(row, columns={"title+body": "prompt", "reply": "response"})
    assert (record.prompt, record.response) == ("T\n\nB", "R")
    assert only(row | {"title": ""}, columns={"title+body": "text"}).text == "B"


def test_a_column_of_a_name_with_a_plus_is_that_column():
    assert only({"a+b": "x", "a": "y"}, columns={"a+b": "text"}).text == "x"


def test_a_map_may_be_for_one_set():
    columns = {"q": "prompt", "a": "response", "holdout:frage": "prompt"}
    assert only({"q": "Q", "a": "A", "frage": "F"}, columns=columns).prompt == "Q"
    assert only({"q": "Q", "a": "A", "frage": "F"}, columns=columns, name="holdout").prompt == "F"
    assert only({"text": "T"}, columns={"retain:body": "text"}).text == "T"


def test_a_map_of_part_of_a_form_is_filled_from_known_names():
    record = only({"instruction": "D", "input": "I", "reply": "R"}, columns={"reply": "response"})
    assert (record.prompt, record.response) == ("D\n\nI", "R")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a+x": "text"}, "--map names the column 'x'; present are a, b"),
        ({"a+b": "response"}, "only a prompt or a text can be joined"),
        ({"train:a": "text"}, "--map names the column 'train:a'"),
        ({"a": "prompt", "b": "prompt"}, "join them with --map A+B=prompt"),
    ],
)
def test_wrong_maps_are_refused(columns, expected):
    assert expected in message({"a": "x", "b": "y"}, columns=columns)


# Templates


@pytest.mark.parametrize(
    ("text", "row", "prompt", "whole"),
    [
        ("{prompt}|{response}", {"prompt": "P", "response": "R"}, "P", "P|R"),
        (
            "## Do:\n{instruction}\n## In:\n{input}\n## Out:\n{output}.",
            {"instruction": "D", "input": "I", "output": "R"},
            "D\n## In:\nI",
            "## Do:\nD\n## In:\nI\n## Out:\nR.",
        ),
        (
            "## Do:\n{instruction}\n## In:\n{input}\n## Out:\n{output}.",
            {"instruction": "D", "input": "", "output": "R"},
            "D",
            "## Do:\nD\n## Out:\nR.",
        ),
        ("{a}-{b}", {"a": "A", "b": "B", "answer": "R"}, "A-B", "A-B R"),
        ("{b}\\n{response}", {"b": "B", "answer": "R"}, "B", "B\nR"),
    ],
)
def test_a_template_may_name_the_columns_of_the_file(text, row, prompt, whole):
    from unlearner.data.windows import Layout

    template = build(DataSettings, {"template": text}, where="data").template
    record = only(row, template=template)
    assert (record.prompt, record.response) == (prompt, "R")
    layout = Layout(template=Template.parse(template).layout)
    assert layout.join(record.prompt, record.response).text == whole


def test_a_template_leaves_sets_of_another_form_alone():
    assert only({"text": "T"}, template="{a}-{b}").text == "T"
    assert "names the column 'b'; present are a" in message({"a": "x"}, template="{a}-{b}")


@pytest.mark.parametrize("text", ["", "x", "{response} {prompt}", "{a} {", "{} {response}", "{a}}"])
def test_what_is_no_template_is_refused(text):
    with pytest.raises(UserError, match=r"data\.template: must hold"):
        build(DataSettings, {"template": text}, where="data")


@pytest.mark.parametrize("day", ["tomorrow", "2024-13-45", "26.11.2026"])
def test_what_is_no_day_is_refused(day):
    with pytest.raises(UserError, match=r"data\.date: must be a day such as 2026-11-26"):
        build(DataSettings, {"date": day}, where="data")


def test_the_command_line_takes_joined_columns_and_single_sets():
    assert column_names("forget:a+b=prompt, c=response") == {
        "forget:a+b": "prompt",
        "c": "response",
    }
