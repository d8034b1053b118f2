"""Files as people have them: packed, in folders, from spreadsheets, in other encodings."""

import bz2
import gzip
import json
import lzma
import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import datasets
from unlearner.data import files
from unlearner.data.loading import classifier_family, read_records
from unlearner.errors import UserError

SEQUENCE, TOKEN = "sequence-classification", "token-classification"
LINES = b'{"text": "one two"}\n{"text": "three"}\n'


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKINGS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts(source, **settings):
    return [record.text for record in read_records(source, name="forget", **settings)]


def ids(source, **settings):
    return [record.id for record in read_records(source, name="forget", **settings)]


def reading(source, **settings):
    return read_records(source, name="forget", **settings).reading


def message(source, **settings):
    with pytest.raises(UserError) as caught:
        read_records(source, name="forget", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Packed files


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES),
        ("a.json", b'[{"text": "one two"}, {"text": "three"}]'),
        ("a.csv", b"text\none two\nthree\n"),
        ("a.tsv", b"text\tx\none two\t1\nthree\t2\n"),
        ("A.TXT", b"one two\nthree\n"),
    ],
)
def test_packed_files_are_read_as_those_in_them(write, packing, name, content):
    assert texts(write(name + packing, PACKINGS[packing](content))) == ["one two", "three"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_arrays_and_tables_are_read(write, tmp_path, packing):
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]]))
    parquet.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    for name in ("a.npy", "a.parquet"):
        write(name + packing, PACKINGS[packing]((tmp_path / name).read_bytes()))
    found = read_records(tmp_path / f"a.npy{packing}", name="pool")
    assert [record.input_ids for record in found] == [(1, 2), (3, 4)]
    assert texts(tmp_path / f"a.parquet{packing}") == ["x"]


def test_packed_conll_is_for_token_classifiers(write):
    path = write("a.conll.gz", gzip.compress(b"New B-place\nYork I-place\n"))
    assert classifier_family(path, {}) == TOKEN
    (record,) = read_records(path, name="forget", family=TOKEN)
    assert record.tokens == ("New", "York")


def test_files_packed_in_parts_are_read_whole(write):
    assert texts(write("a.jsonl.gz", gzip.compress(LINES) * 2)) == ["one two", "three"] * 2
    assert texts(write("a.jsonl.zst", zstd(LINES) * 2)) == ["one two", "three"] * 2


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("broken", ["cut", "other", "empty"])
def test_what_cannot_be_unpacked_is_one_line(write, packing, broken):
    data = {"cut": PACKINGS[packing](LINES * 50)[:-9], "other": b"no such thing", "empty": b""}
    said = message(write(f"a.jsonl{packing}", data[broken]))
    assert f"cannot be unpacked as {packing}" in said or "holds no records" in said


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_file_that_unpacks_to_far_more_than_texts_do_is_refused(
    write, monkeypatch, packing
):
    """Three million characters from some hundred bytes; 2 MiB are allowed whatever the ratio."""
    monkeypatch.setattr(files, "ALWAYS_UNPACKED", 2 * 2**20)
    said = message(write(f"a.txt{packing}", PACKINGS[packing](b"0" * 3_000_000)))
    assert "unpacks to more than 2 MiB" in said


# Folders


def test_a_folder_of_shards_is_read_in_the_order_of_names(write, tmp_path):
    write("shards/b-2.jsonl.gz", gzip.compress(b'{"text": "c"}\n'))
    write("shards/b-1.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n')
    for other in ("README.md", "_SUCCESS", ".hidden.jsonl", "dataset_info.json"):
        write(f"shards/{other}", "{}")
    found = read_records(tmp_path / "shards", name="forget")
    assert [record.text for record in found] == ["a", "b", "c"]
    assert [record.id for record in found] == ["b-1.jsonl:1", "b-1.jsonl:3", "b-2.jsonl.gz:1"]


def test_a_folder_of_parquet_files_is_read(tmp_path):
    for number in (1, 0):
        table = pa.table({"text": [f"text {number}"], "other": [1]})
        parquet.write_table(table, tmp_path / f"part-{number}.parquet")
    assert texts(tmp_path) == ["text 0", "text 1"]


def test_a_fault_in_a_shard_names_the_file_and_the_line(write, tmp_path):
    write("shards/a.jsonl", LINES)
    write("shards/b.jsonl", b'{"text": "x"}\n{"text": ""}\n')
    assert "shards, b.jsonl, line 2: text is empty" in message(tmp_path / "shards")
    write("shards/b.jsonl", b'{"text": "x"}\n{"text"\n')
    assert "shards, b.jsonl, line 2: broken JSON" in message(tmp_path / "shards")


def test_splits_of_a_folder_are_not_mixed(write, tmp_path):
    write("d/train-00000-of-00001.jsonl", b'{"text": "a"}')
    write("d/test-00000-of-00001.jsonl", b'{"text": "b"}')
    assert "several splits (test, train)" in message(tmp_path / "d")
    assert texts(f"{tmp_path / 'd'}:train") == ["a"]
    assert "of the split 'dev'" in message(f"{tmp_path / 'd'}:dev")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "a folder without a file of records"),
        (["a.docx"], "a folder without a file of records"),
        (["a.jsonl", "b.csv"], "files of several kinds (.csv .jsonl)"),
    ],
)
def test_folders_that_hold_no_one_kind_are_refused(write, tmp_path, names, expected):
    (tmp_path / "d").mkdir()
    for name in names:
        write(f"d/{name}", LINES)
    assert expected in message(tmp_path / "d")


def test_data_sets_saved_to_disk_are_read_by_split(tmp_path):
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["ham", "spam"])
    )
    some = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    some.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=some, test=some.select([1])).save_to_disk(tmp_path / "two")
    assert texts(tmp_path / "one") == ["a", "b"]
    found = read_records(tmp_path / "one", name="forget", family=SEQUENCE)
    assert [record.label for record in found] == ["spam", "ham"]
    said = message(tmp_path / "two")
    assert "a set of splits; give one of test, train" in said
    assert f"for example {tmp_path / 'two'}:test" in said
    assert texts(f"{tmp_path / 'two'}:test") == texts(tmp_path / "two" / "test") == ["b"]
    assert "give one of test, train" in message(f"{tmp_path / 'two'}:dev")
    assert "has no splits" in message(f"{tmp_path / 'one'}:train")
    (tmp_path / "one" / "state.json").write_text("{}")
    assert "is not a readable data set" in message(tmp_path / "one")


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    for path in (tmp_path / "a.txt", "/dev/zero"):
        assert "not a file or a folder" in message(path)


# Encodings and line ends


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_encodings_with_a_mark_are_read(write, encoding, name):
    content = {"a.txt": "zwölf €\n", "a.csv": "text\nzwölf €\n"}
    content = content.get(name, '{"text": "zwölf €"}')
    assert texts(write(name, content.encode(encoding))) == ["zwölf €"]


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
def test_utf_16_without_a_mark_is_named(write, encoding):
    said = message(write("a.txt", "some words here".encode(encoding)))
    assert "looks like UTF-16 without a byte-order mark; save the file as UTF-8" in said


def test_windows_1252_is_named_and_other_bytes_are_not(write):
    said = message(write("a.csv", "text\r\nMüller wohnt hier\r\n".encode("cp1252")))
    assert "line 2: not UTF-8 (byte 0xfc at offset 7), perhaps Windows-1252 or Latin-1" in said
    assert "Windows" not in message(write("a.txt", b"\xff\xfe\xfd\x81\x90"))


def test_half_a_character_of_utf_16_is_named(write):
    assert "broken UTF-16" in message(write("a.txt", "ab".encode("utf-16")[:-1]))


def test_line_ends_of_old_spreadsheets_are_line_ends(write):
    assert ids(write("a.csv", "text\rone\rtwo\r")) == ["2", "3"]
    assert texts(write("a.txt", "one\rtwo\r")) == ["one", "two"]
    assert texts(write("a.txt", "one\rstill\ntwo\n")) == ["one\rstill", "two"]


# Separators and quotes


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.csv", 'prompt;response\n"Wo; wo?";A, B\n', "separated by semicolons"),
        ("a.csv", "prompt\tresponse\nWo; wo?\tA, B\n", "separated by tabs"),
        ("a.csv", "prompt|response\nWo; wo?|A, B\n", "separated by bars"),
        ("a.tsv", 'prompt,response\nWo; wo?,"A, B"\n', "separated by commas"),
        ("a.csv", "sep=;\r\nprompt;response\r\nWo\\; wo?;x\r\n", ""),
        ("a.csv", 'prompt,response\nWo; wo?,"A, B"\n', ""),
    ],
)
def test_the_separator_is_told_by_the_header(write, name, content, note):
    path = write(name, content.replace("\\;", ","))
    (record,) = read_records(path, name="forget")
    assert (record.prompt, record.response) in {("Wo; wo?", "A, B"), ("Wo, wo?", "x")}
    assert reading(path).endswith(f"response; {note}" if note else "read: prompt, response")


def test_the_line_of_a_row_counts_the_mark_of_a_spreadsheet(write):
    assert ids(write("a.csv", "sep=;\ntext;x\na;1\n\nb;2\n")) == ["3", "5"]


def test_one_column_is_never_cut(write):
    path = write("a.csv", "text\nim Weg 12; hinten\nrechts | links\n")
    assert texts(path) == ["im Weg 12; hinten", "rechts | links"]


def test_unknown_columns_are_cut_at_the_separator_that_makes_the_most_of_them(write):
    said = message(write("a.csv", "titel;datum\na;2024\n"))
    assert "found titel, datum" in said
    assert texts(write("b.csv", "titel;datum\na;2024\n"), columns={"titel": "text"}) == ["a"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (['ham\tlar... "so" he', 'spam\t"Free entry'], ['lar... "so" he', '"Free entry']),
        # As CSV the second and third would be one record: "a, a line end, ham, b".
        (["ham\tx", 'ham\t"a', 'ham\tb"'], ["x", '"a', 'b"']),
        (['ham\t"so" he said'], ['"so" he said']),
    ],
)
def test_quotes_within_texts_apart_by_tabs_are_text(write, rows, expected):
    path = write("a.tsv", "\n".join(["label\ttext", *rows]))
    assert texts(path) == expected
    assert reading(path).endswith("not read: label; quotes are part of the texts")


@pytest.mark.parametrize(
    ("row", "expected"),
    [('1\t"""so"" he said"', '"so" he said'), ('1\t"a\tb"', "a\tb"), ('1\t"a\nb"', "a\nb")],
)
def test_quotes_of_csv_are_no_text(write, row, expected):
    assert texts(write("a.tsv", f"label\ttext\n{row}\n")) == [expected]


def test_a_table_without_a_header_is_refused_without_showing_it(write):
    said = message(write("a.csv", "Mira Oduya lives in Oakmere,0.5\nHarlan does not,0.1\n"))
    assert "line 1: no header that names columns, but 2 names of 27, 3 characters" in said
    assert "Mira" not in said
    said = message(write("a.tsv", "ham\tMira Oduya lives\n"))
    assert "Mira" not in said


# A whole file as one record, arrays, lengths


def test_a_document_is_one_record(write, tmp_path):
    path = write("book.txt", "\ufeffone\n\ntwo\n")
    assert texts(path) == ["one", "two"]
    assert texts(path, document=True) == ["one\n\ntwo\n"]
    assert "holds no records" in message(write("empty.txt", " \n"), document=True)
    write("books/a.txt", "x\ny")
    write("books/b.txt.gz", gzip.compress(b"z\nz"))
    assert texts(tmp_path / "books", document=True) == ["x\ny", "z\nz"]
    assert texts(write("a.jsonl", LINES), document=True) == ["one two", "three"]


def test_an_array_that_is_not_all_there_takes_no_memory(write):
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000, 1000000), }"
    content = b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n"
    said = message(write("a.npy", content))
    assert "its header says 1000000000 x 1000000, 0 bytes of numbers follow" in said


@pytest.mark.parametrize("version", [b"\x04\x00", b"\x00\x00", b""])
def test_an_array_of_a_version_that_there_is_not_is_one_line(write, version):
    assert "is broken" in message(write("a.npy", b"\x93NUMPY" + version + b"v\x00{}"))


def test_a_text_longer_than_the_tokenizer_can_bear_is_refused_by_its_length():
    said = message([{"text": "a b " * 6_000_000}])
    assert "text has 24,000,000 characters, 20,000,000 are allowed; cut it" in said
    assert len(texts([{"text": "ab" * 1_000_000}])) == 1


def test_numbers_of_thousands_of_digits_are_one_line(write):
    assert "line 1: broken JSON" in message(write("a.jsonl", '{"text": "a", "n": ' + "9" * 6000))
    said = message(write("a.json", json.dumps([{"text": "a"}])[:-2] + ', "n": ' + "9" * 6000))
    assert "broken JSON" in said
