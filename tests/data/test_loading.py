"""Reading records: what is read is exactly what is there, and what is wrong is named by place."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from unlearner.data.loading import check_ids_in_vocabulary, read_records
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts(path, **settings):
    return [record.text for record in read_records(path, name="forget", **settings)]


def ids(path, **settings):
    return [record.id for record in read_records(path, name="forget", **settings)]


def message(source, **settings):
    with pytest.raises(UserError) as caught:
        read_records(source, name="forget", **settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("forget ")
    return str(caught.value)


# What is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": " One, two "}\n{"text": "\\"three\\""}\n'),
        ("a.json", '[{"text": " One, two "},\n {"text": "\\"three\\""}]'),
        ("lines.json", '{"text": " One, two "}\r\n{"text": "\\"three\\""}\r\n'),
        ("a.csv", 'text\n" One, two "\n"""three"""\n'),
        ("a.tsv", 'text\tother\n One, two \t1\n"""three"""\t2\n'),
        ("a.txt", ' One, two \n"three"\n'),
        ("A.TXT", ' One, two \r\n"three"'),
    ],
)
def test_every_text_format_gives_the_same_texts_unstripped(write, name, content):
    path = write(name, content)
    records = read_records(path, name="forget")
    assert [record.text for record in records] == [" One, two ", '"three"']
    assert (records.name, records.source) == ("forget", str(path))


def test_parquet_gives_texts_ids_and_subjects_and_ignores_other_columns(tmp_path):
    table = pa.table({"text": ["a b", "c"], "id": [7, 8], "subject": ["Ann", None], "x": [[1], []]})
    parquet.write_table(table, tmp_path / "a.parquet")
    first, second = read_records(tmp_path / "a.parquet", name="forget")
    assert first == Record("7", text="a b", subject="Ann")
    assert second == Record("8", text="c")


def test_npy_gives_one_record_a_row_with_row_numbers_as_ids(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[5, 6, 7], [8, 9, 0]], dtype=np.uint16))
    records = read_records(tmp_path / "a.npy", name="forget")
    assert records.records == (Record("1", input_ids=(5, 6, 7)), Record("2", input_ids=(8, 9, 0)))
    assert all(type(token) is int for record in records for token in record.input_ids)


def test_input_ids_are_read_from_jsonl_parquet_and_a_list_in_csv(write, tmp_path):
    parquet.write_table(pa.table({"input_ids": [[1, 2], [3]]}), tmp_path / "a.parquet")
    for path in (
        write("a.jsonl", '{"input_ids": [1, 2]}\n{"input_ids": [3]}'),
        write("a.csv", 'input_ids\n"[1, 2]"\n[3]\n'),
        tmp_path / "a.parquet",
    ):
        assert [r.input_ids for r in read_records(path, name="pool")] == [(1, 2), (3,)]


def test_a_byte_order_mark_is_no_part_of_the_first_column_or_text(write):
    assert texts(write("a.csv", b"\xef\xbb\xbftext\nx\n")) == ["x"]
    assert texts(write("a.txt", b"\xef\xbb\xbfx\n")) == ["x"]
    assert texts(write("a.json", b'\xef\xbb\xbf[{"text": "x"}]')) == ["x"]


def test_blank_lines_are_skipped_and_ids_stay_line_numbers(write):
    assert ids(write("a.txt", "one\n\n  \nfour\n\n")) == ["1", "4"]
    assert ids(write("a.jsonl", '\n{"text": "two"}\n\n{"text": "four"}\n')) == ["2", "4"]


def test_a_csv_record_has_the_line_in_which_it_begins(write):
    """Header 1, a text over lines 2 and 3, a blank line 4, the next record in line 5."""
    path = write("a.csv", 'text,x\n"one\r\ntwo",1\n\nfive,2\n')
    assert ids(path) == ["2", "5"]
    assert texts(path) == ["one\r\ntwo", "five"]


def test_a_line_separator_within_a_text_does_not_break_the_line(write):
    assert texts(write("a.txt", "one\u2028still one\x0cstill\n")) == ["one\u2028still one\x0cstill"]
    assert texts(write("a.jsonl", '{"text": "one\u2028still"}\n')) == ["one\u2028still"]


def test_a_csv_text_longer_than_the_modules_limit_is_read_and_the_limit_is_put_back(write):
    import csv

    before = csv.field_size_limit()
    assert texts(write("a.csv", f"text\n{'x' * 200_000}\n")) == ["x" * 200_000]
    assert csv.field_size_limit() == before


def test_lists_give_positions_as_ids():
    records = read_records(["one", "two"], name="forget")
    assert records.records == (Record("1", text="one"), Record("2", text="two"))
    assert records.source == "memory"
    rows = [{"prompt": "Q", "response": " A", "id": np.int64(4), "subject": 0}]
    assert read_records(rows, name="forget").records == (
        Record("4", prompt="Q", response=" A", subject="0"),
    )


def test_a_datasets_dataset_is_read_whatever_its_format():
    import datasets

    data = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "x": ["a", "b"]})
    records = read_records(data.with_format("numpy"), name="forget")
    assert [record.input_ids for record in records] == [(1, 2), (3,)]
    assert "train" in message(datasets.DatasetDict(train=data))


def test_hf_ids_name_configuration_and_split(monkeypatch):
    import datasets

    calls = []

    def load(path, config, *, split):
        calls.append((path, config, split))
        return datasets.Dataset.from_dict({"text": ["x"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for source in ("hf:o/n", "hf:o/n:forget10", "hf:o/n:test", "hf:o/n::dev", "hf:o/n:c:train[:9]"):
        assert read_records(source, name="forget").source == source
    assert calls == [
        ("o/n", None, "train"),
        ("o/n", "forget10", "train"),
        ("o/n", None, "test"),
        ("o/n", None, "dev"),
        ("o/n", "c", "train[:9]"),
    ]


def test_a_data_set_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def load(*_, **__):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "cannot be loaded (Couldn't reach the Hub)" in message("hf:o/n")


def test_a_data_set_id_may_be_a_folder(write, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = write("data.jsonl", '{"text": "x"}\n').parent
    assert texts(f"hf:{folder}") == ["x"]


# Columns


def test_map_renames_and_goes_before_a_column_of_that_name(write):
    path = write("a.csv", "question,answer,prompt\nQ,A,old\n")
    (record,) = read_records(
        path, name="forget", columns={"question": "prompt", "answer": "response"}
    )
    assert record == Record("2", prompt="Q", response="A")


def test_mapping_a_content_column_settles_an_ambiguous_file(write):
    path = write("a.jsonl", '{"text": "T", "prompt": "Q", "response": "A", "question": "Q2"}')
    assert "ambiguous: has text and prompt/response" in message(path)
    assert texts(path, columns={"text": "text"}) == ["T"]
    (record,) = read_records(path, name="forget", columns={"question": "prompt"})
    assert (record.prompt, record.response) == ("Q2", "A")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"q": "prompt"}, "--map names the column 'q'; present are text, id"),
        ({"text": "promt"}, "--map text=promt: allowed names are text, prompt, response"),
        ({"text": "text", "id": "text"}, "--map gives the name text to two columns"),
        ({"text": "subject"}, "no usable column; found text, id"),
        ({"text": "prompt"}, "no column response"),
    ],
)
def test_a_wrong_map_is_refused_with_the_names_that_are_right(write, columns, expected):
    assert expected in message(write("a.csv", "text,id\na,b\n"), columns=columns)


def test_a_hint_goes_by_the_meaning_of_names_and_not_by_their_order(write):
    said = message(write("a.csv", "bot_reply,user_question,note\na,b,c\n"))
    assert "found bot_reply, user_question, note" in said
    assert "--map user_question=prompt,bot_reply=response" in said


def test_a_hint_says_that_it_cannot_tell(write):
    said = message(write("a.jsonl", '{"alpha": "a", "beta": "b"}'))
    assert "found alpha, beta" in said
    assert "cannot be told from the names: --map COLUMN=text or COLUMN=prompt" in said


# What is refused, with its place


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "", "holds no records"),
        ("a.csv", "text\n", "holds no records"),
        ("a.txt", "\n \n", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.docx", "x", "unknown kind of file '.docx'; allowed are .jsonl .ndjson .json .csv"),
        ("a.txt", b"one\ntw\xff\n", "line 2: not UTF-8 (byte 0xff at offset 6)"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', "line 2: broken JSON (Expecting value, column 10)"),
        ("a.json", '[{"text": "a"},\n{"text" "b"}]', "line 2: broken JSON"),
        ("a.json", "[" * 100_000, "line 1: broken JSON"),
        ("a.jsonl", '{"text": "a", "text": "b"}', "line 1: broken JSON (the key 'text' stands tw"),
        ("a.jsonl", '{"text": "a"}\n["b"]', "line 2: every line must be an object"),
        ("a.json", '[{"text": "a"}, "b"]', "record 2: the array must hold objects"),
        ("a.jsonl", '{"text": "a"}\n{"prompt": "b", "response": "c"}', "line 2: mixed columns"),
        ("a.jsonl", '{"text": "a", "id": 1}\n{"text": "b"}', "line 2: mixed columns"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', "line 2: no usable column; found txt"),
        ("a.jsonl", '{"prompt": "a"}', "line 1: no column response"),
        ("a.jsonl", '{"text": "a"}\n{"text": " \\t"}', "line 2: text is empty"),
        ("a.csv", 'text\na\n""\n', "line 3: text is empty"),
        ("a.jsonl", '{"prompt": "", "response": "c"}', "line 1: prompt is empty"),
        ("a.jsonl", '{"prompt": "b", "response": ""}', "line 1: response is empty"),
        ("a.jsonl", '{"input_ids": []}', "line 1: input_ids is empty"),
        ("a.jsonl", '{"text": 5}', "line 1: text must be text, got a number"),
        ("a.jsonl", '{"text": null}', "line 1: text must be text, got null"),
        ("a.jsonl", '{"text": ["a"]}', "line 1: text must be text, got a list"),
        (
            "a.jsonl",
            '{"text": "a\\ud83d"}',
            "line 1: text has half a surrogate pair at character 2",
        ),
        ("a.jsonl", '{"input_ids": "1 2"}', "line 1: input_ids must be a list of token ids"),
        ("a.jsonl", '{"input_ids": [1, 2.0]}', "got a number at position 1"),
        ("a.jsonl", '{"input_ids": [true]}', "got true or false at position 0"),
        ("a.jsonl", '{"input_ids": [3, -1]}', "got -1 at position 1"),
        ("a.jsonl", '{"text": "a", "id": ""}', "line 1: id is empty"),
        ("a.jsonl", '{"text": "a", "id": null}', "line 1: id must be text or a whole number"),
        (
            "a.jsonl",
            '{"text": "a", "id": 1}\n\n{"text": "b", "id": "1"}',
            "line 3: the id '1' is th",
        ),
        ("a.csv", "text,id\na,b\nc,d,e\n", "line 3: 3 fields where the header has 2"),
        ("a.csv", 'text,id\na,b\n"c,d\n', "line 3: broken quoting"),
        ("a.csv", "text,text\na,b\n", "line 1: the header has the column 'text' twice"),
        ("a.npy", "hello", "not a .npy file"),
        ("a.npy", "", "not a .npy file"),
        ("a.parquet", "PAR1 broken PAR1", "not a readable parquet file"),
        ("a.parquet", "", "not a readable parquet file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_place(write, name, content, expected):
    said = message(write(name, content))
    assert name in said
    assert expected in said


def test_a_repeated_id_names_both_lines(write):
    said = message(write("a.jsonl", '{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}\n'))
    assert "line 2: the id 'x' is that of line 1 too" in said


def test_a_parquet_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["some text"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable parquet file" in message(path)


def test_a_parquet_row_without_text_is_named_by_its_number(tmp_path):
    parquet.write_table(pa.table({"text": ["a", None]}), tmp_path / "a.parquet")
    assert "row 2: text must be text, got null" in message(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[1], [2, 3]], dtype=object), "holds pickled objects"),
        (np.array([1, 2]), "got 1-D int64"),
        (np.array([[1.0]]), "got 2-D float64"),
        (np.array([[True]]), "got 2-D bool"),
        (np.array([[1, 2], [3, -100]]), "row 2: input_ids must be whole numbers >= 0, got -100"),
        (np.zeros((0, 3), dtype=int), "holds no records"),
        (np.zeros((2, 0), dtype=int), "row 1: input_ids is empty"),
    ],
)
def test_npy_must_be_a_2d_array_of_token_ids(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert expected in message(tmp_path / "a.npy")


def test_a_npy_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((9, 9), dtype=int))
    path.write_bytes(path.read_bytes()[:-8])
    assert "is broken" in message(path)


def test_paths_that_are_no_file_are_refused(tmp_path):
    assert "no such file" in message(tmp_path / "none.jsonl")
    assert "is a folder" in message(tmp_path)
    assert "cannot be opened" in message("a text given in place of a path " * 200)
    assert "cannot be opened" in message("a\0b.txt")


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], "in memory: holds no records"),
        (["a", ""], "in memory, record 2: text is empty"),
        (["a", 3], "in memory, record 2: must be a text or a dict"),
        (["a", {"prompt": "b", "response": "c"}], "record 2: mixed columns"),
        ([{"text": "a"}, {}], "record 2: no usable column; found none"),
        ([{1: "a"}], "record 1: no usable column; found 1"),
        ({"text": ["a"]}, "got dict"),
        ((text for text in ["a"]), "got generator"),
        (None, "got NoneType"),
    ],
)
def test_wrong_values_in_memory_are_refused(items, expected):
    assert expected in message(items)


def test_ids_outside_the_vocabulary_name_record_and_id():
    records = RecordSet("forget", (Record("a", text="x"), Record("b", input_ids=(0, 99))), "f.npy")
    check_ids_in_vocabulary(records, 100)
    with pytest.raises(
        UserError, match=r"forget f.npy, record 'b': token id 99 at position 1 .*98"
    ):
        check_ids_in_vocabulary(records, 99)


def test_reading_a_text_file_does_not_import_heavy_libraries(write):
    path = write("a.jsonl", '{"text": "a"}')
    code = (
        "import sys; from unlearner.data.loading import read_records;"
        f"read_records({str(path)!r}, name='forget');"
        "print(sorted({'torch', 'datasets', 'pyarrow', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_files_are_read_with_the_rows_they_are_known_to_have(shared_data):
    """TOFU forget01 has 40 questions, LUME 2732 records, Banking77's training file 10003."""
    tofu = read_records(
        shared_data / "tofu" / "forget01.json",
        name="forget",
        columns={"question": "prompt", "answer": "response"},
    )
    assert len(tofu) == 40
    first = json.loads((shared_data / "tofu" / "forget01.json").read_text().splitlines()[0])
    assert tofu.records[0] == Record("1", prompt=first["question"], response=first["answer"])
    lume = {"input": "prompt", "output": "response", "task": "subject"}
    assert (
        len(read_records(shared_data / "lume" / "forget.jsonl", name="forget", columns=lume))
        == 2732
    )
    assert len(read_records(shared_data / "banking77" / "train.csv", name="pool")) == 10003
