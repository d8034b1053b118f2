"""Prompt and response with `history` and `system` in columns of their own; pages of Markdown."""

import json

import pytest

from unlearner.data.loading import read_records
from unlearner.errors import UserError

LAST = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(**beside):
    row = {"instruction": "q", "input": "", "output": "a"} | beside
    (record,) = read_records([row], name="forget")
    return [json.loads(one) for one in record.messages] or (record.prompt, record.response)


def test_pairs_become_the_turns_before_the_prompt():
    """Their answers have no weight of 0: they were learned, and count."""
    pairs = [["q1", "a1"], ("q2", "a2")]
    earlier = [
        {"role": role, "content": f"{role[0] if role[0] == 'a' else 'q'}{number}"}
        for number in (1, 2)
        for role in ("user", "assistant")
    ]
    assert read(history=pairs) == [*earlier, *LAST]
    assert read(history=json.dumps(pairs)) == [*earlier, *LAST]
    assert read(history=earlier, system="s") == [
        {"role": "system", "content": "s"},
        *earlier,
        *LAST,
    ]


@pytest.mark.parametrize("history", [[], None, "", " "])
@pytest.mark.parametrize("system", ["", None, " "])
def test_where_both_are_empty_it_is_prompt_and_response(history, system):
    assert read(history=history, system=system) == ("q", "a")


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([["secret-q"]], "entry 1 of history is no pair of texts; write"),
        ([["q", "a"], ["q", 5]], "entry 2 of history is no pair"),
        ("secret-text", "JSON"),
        (5, "history must be a list of"),
        ([{"role": "user"}], "turn 1 of history must have a text"),
        ([["q\ud800", "a"]], "history"),
    ],
)
def test_a_history_of_another_shape_is_refused_without_its_text(history, words):
    with pytest.raises(UserError, match=words) as refused:
        read(history=history)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_list_of_turns_is_the_place_for_earlier_ones():
    with pytest.raises(UserError, match="put them into the list"):
        read_records([{"prompt": LAST[:1], "completion": LAST[1:], "system": "s"}], name="forget")


def test_a_page_is_one_record_as_it_stands(tmp_path):
    page = "# A\n\n- b\n\n\nc\n"
    (tmp_path / "page.md").write_text(page)
    (record,) = read_records(tmp_path / "page.md", name="forget")
    assert record.text == page
    (tmp_path / "second.md").write_text("d")
    assert len(read_records(tmp_path, name="forget")) == 2
    (tmp_path / "README.md").write_text("e")
    (tmp_path / "rows.jsonl").write_text('{"text": "f"}\n')
    (record,) = read_records(tmp_path, name="forget")
    assert record.text == "f"
    (tmp_path / "about").mkdir()
    (tmp_path / "about/README.md").write_text("g")
    with pytest.raises(UserError, match="without a file of records"):
        read_records(tmp_path / "about", name="forget")
    with pytest.raises(UserError, match=r"\.md file cannot hold labels"):
        read_records(tmp_path / "page.md", name="forget", family="sequence-classification")
