"""Records of classifiers: labels become names of the model's outputs, or are refused by place."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from unlearner.data.labels import label_names
from unlearner.data.loading import read_records
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError

SEQUENCE, TOKEN = "sequence-classification", "token-classification"
TAGS = ("O", "B-place", "I-place")


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode())
        return path

    return write


def names(source, **settings):
    """The labels that a sequence classifier's source is read as."""
    return [r.label for r in read_records(source, name="forget", family=SEQUENCE, **settings)]


def tagged(source, **settings):
    """The tags that a token classifier's source is read as."""
    return [r.tags for r in read_records(source, name="forget", family=TOKEN, **settings)]


def message(source, family=SEQUENCE, **settings):
    with pytest.raises(UserError) as caught:
        read_records(source, name="forget", family=family, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labelled(*labels):
    return [{"text": "a", "label": label} for label in labels]


def label_sets(*labels):
    return RecordSet("records", tuple(Record("1", text="a", label=x) for x in labels), "memory")


# What is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": " a", "label": "ham"}\n{"text": "b", "label": 1}'),
        ("a.json", '[{"text": " a", "label": 0}, {"text": "b", "label": "spam"}]'),
        ("a.csv", "label,text\n0, a\nspam,b\n"),
        ("a.tsv", "text\tlabel\n a\tham\nb\t1\n"),
    ],
)
def test_a_label_is_a_name_or_number_of_the_model_in_every_format(write, name, content):
    """The model's outputs are 0 ham and 1 spam; texts are not stripped."""
    records = read_records(
        write(name, content), name="forget", family=SEQUENCE, labels=("ham", "spam")
    )
    assert [(r.text, r.label) for r in records] == [(" a", "ham"), ("b", "spam")]


def test_digits_are_the_name_that_is_written_so_and_only_else_a_number(write):
    """Outputs 0, 1, 2 are named 1, 2, neutral: the text 1 is output 0, the text 0 too."""
    path = write("a.csv", "text,label\na,1\nb,2\nc,0\n")
    assert names(path, labels=("1", "2", "neutral")) == ["1", "2", "1"]


def test_a_number_that_is_also_the_name_of_another_output_is_ambiguous():
    said = message(labelled(1), labels=("1", "2"))
    assert "record 1: label is 1, which may be the name '1' or the output 1 (2)" in said
    assert names(labelled(1, np.int64(0)), labels=("0", "1")) == ["1", "0"]


def test_without_labels_names_stand_as_they_are_and_numbers_become_digits():
    assert names(labelled(" Ham", "03", 7)) == [" Ham", "03", "7"]


def test_pairs_ids_and_subjects_are_read_beside_the_label(write):
    row = {"premise": "P", "text_pair": "H", "label": 1, "id": 5, "subject": "Ann", "other": 0}
    (record,) = read_records(
        write("a.jsonl", json.dumps(row)),
        name="forget",
        family=SEQUENCE,
        columns={"premise": "text"},
        labels=("no", "yes"),
    )
    assert record == Record("5", text="P", text_pair="H", label="yes", subject="Ann")


def test_tokens_and_tags_are_lists_and_json_lists_in_csv_fields(write, tmp_path):
    rows = {"tokens": [["New", "York"], ["no"]], "tags": [[1, 2], [0]]}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    for source in (
        write(
            "a.jsonl",
            '{"tokens": ["New", "York"], "tags": ["B-place", 2]}\n'
            '{"tokens": ["no"], "tags": ["O"]}',
        ),
        write(
            "a.csv",
            'tokens,tags\n"[""New"", ""York""]","[""B-place"", ""I-place""]"\n"[""no""]",[0]\n',
        ),
        tmp_path / "a.parquet",
        [
            {"tokens": np.array(["New", "York"]), "tags": np.array([1, 2])},
            {"tokens": ("no",), "tags": ("O",)},
        ],
    ):
        records = read_records(source, name="forget", family=TOKEN, labels=TAGS)
        assert [record.tokens for record in records] == [("New", "York"), ("no",)]
        assert [record.tags for record in records] == [("B-place", "I-place"), ("O",)]


def test_conll_sentences_have_the_line_of_their_first_word_as_id(write):
    """Line 1 is a document mark, 2 blank, the sentences begin in lines 3 and 7; 6 is a lone tab."""
    text = "-DOCSTART- -X- O\n\nNew NNP B-place\nYork NNP I-place \r\n-DOCSTART- -X- O\n\t\nno RB O"
    records = read_records(write("a.conll", text), name="forget", family=TOKEN, labels=TAGS)
    assert records.records == (
        Record("3", tokens=("New", "York"), tags=("B-place", "I-place")),
        Record("7", tokens=("no",), tags=("O",)),
    )


def test_conll_columns_are_apart_by_tabs_where_a_line_has_one(write):
    (record,) = read_records(write("a.conll", "New York\tB-place\n"), name="pool", family=TOKEN)
    assert record == Record("1", tokens=("New York",), tags=("B-place",))


# Names that a data set declares


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, ["spam", "ham"]),  # the data set's own
        (("spam", "ham", "other"), ["spam", "ham"]),  # by name, whatever the order
        (("SPAM", "HAM"), ["SPAM", "HAM"]),  # by name but for the case
        (("LABEL_0", "LABEL_1"), ["LABEL_1", "LABEL_0"]),  # no name is known: by number
    ],
)
def test_numbers_of_a_data_set_are_the_names_it_declares(labels, expected):
    """The data set has 0 ham and 1 spam, and holds the rows 1, 0."""
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["ham", "spam"])
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert names(data, labels=labels) == expected


def test_a_data_set_with_names_beyond_the_models_is_refused_at_the_first_such_row():
    """By number, neutral (0) would silently be the model's output 0, ham."""
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neutral", "ham", "spam"])
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert "row 2: label is 'neutral', which" in message(data, labels=("ham", "spam"))


def test_tags_of_a_data_set_are_the_names_it_declares(monkeypatch):
    import datasets

    tags = datasets.Sequence(datasets.ClassLabel(names=["I-place", "O", "B-place"]))
    features = datasets.Features(tokens=datasets.Sequence(datasets.Value("string")), ner_tags=tags)
    data = datasets.Dataset.from_dict(
        {"tokens": [["New", "York"]], "ner_tags": [[2, 0]]}, features=features
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    columns = {"ner_tags": "tags"}
    assert tagged("hf:o/n", columns=columns) == [("B-place", "I-place")]
    assert tagged("hf:o/n", columns=columns, labels=TAGS) == [("B-place", "I-place")]


def test_a_data_sets_mark_of_an_unlabelled_row_is_refused():
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["ham", "spam"])
    )
    data = datasets.Dataset.from_dict({"text": ["a"], "label": [-1]}, features=features)
    assert "row 1: label is -1, but the data set names 0 to 1" in message(data)


# What is refused, with its place


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Spm", "label is 'Spm', which the model does not have; nearest: 'spam'; it has ham, spam"),
        ("xyz", "label is 'xyz', which the model does not have; it has ham, spam (0 to 1); use a"),
        (2, "label is 2, which is no output of the model; it has ham, spam (0 to 1); use a name"),
        ("2", "label is 2, which is no output of the model"),
        ("9" * 5000, "which is no output of the model"),
        (-1, "label is -1, which is no output of the model"),
        ("01", "label is '01', which the model does not have"),
        (True, "label must be a name or a whole number, got true or false"),
        (1.0, "label must be a name or a whole number, got the float 1.0"),
        (np.float32("nan"), "label must be a name or a whole number, got the float nan"),
        (None, "label must be a name or a whole number, got null"),
        (["ham"], "label must be a name or a whole number, got a list"),
        ("", "label is empty"),
        (" ", "label is empty"),
    ],
)
def test_a_label_that_the_model_does_not_have_is_refused(label, expected):
    said = message(labelled("ham", label), labels=("ham", "spam"))
    assert said.startswith("forget in memory, record 2: label ")
    assert expected in said
    assert len(said) < 300


@pytest.mark.parametrize("label", [True, 0.5, None, "", -1])
def test_a_new_head_takes_no_label_that_is_no_name_or_number(label):
    assert "record 1: label " in message(labelled(label))


def test_a_model_with_many_names_gives_their_count_and_the_nearest(write):
    path = write("a.csv", "text,label\na,aaaa\nb,BBB\n")
    said = message(path, labels=[letter * 4 for letter in "abcdefghijklm"])
    assert f"forget {path}, line 3: label is 'BBB'" in said
    assert "nearest: 'bbbb'; " in said
    assert "it has 13 names, numbered 0 to 12; use a name or number of the model's id2label" in said


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"tokens": list("abcde"), "tags": ["O"] * 4}, "tokens has 5, tags has 4"),
        ({"tokens": [], "tags": []}, "tokens is empty"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "token at position 1 is empty"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "token at position 1 is empty"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "token at position 1 must be text, got a n"),
        ({"tokens": [None], "tags": ["O"]}, "token at position 0 must be text, got null"),
        ({"tokens": ["a\ud83d"], "tags": ["O"]}, "the token at position 0 has half a surrogate"),
        ({"tokens": ["a"], "tags": ["B-plase"]}, "tag at position 0 is 'B-plase', which the mod"),
        ({"tokens": ["a", "b"], "tags": [0, 3]}, "tag at position 1 is 3, which is no output"),
        ({"tokens": ["a"], "tags": [-100]}, "tag at position 0 is -100, which is no output"),
        ({"tokens": ["a"], "tags": [None]}, "tag at position 0 must be a name or a whole number"),
        ({"tokens": "New York", "tags": "B I"}, 'must be a list such as ["New", "York"], got text'),
        ({"tokens": ["a"], "tags": "O"}, "tags must be a list"),
        ({"tokens": ["a"], "label": "O"}, "no column tags; found tokens, label; a token"),
    ],
)
def test_tagged_words_that_cannot_be_used_are_refused_by_position(row, expected):
    said = message([row], family=TOKEN, labels=TAGS)
    assert said.startswith("forget in memory, record 1: ")
    assert expected in said


def test_words_in_a_csv_field_without_a_list_are_told_how_to_write_one(write):
    said = message(write("a.csv", "tokens,tags\nNew York,B I\n"), family=TOKEN)
    assert 'line 2: tokens must be a list such as ["New", "York"], got text' in said
    assert 'in a CSV field write it as "[""one"", ""two""]"' in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("New\tB-place\nYork\tI-plaze\n", "line 2: tag is 'I-plaze', which the model does not"),
        ("a\tO\n\nb\tO\nc\tX\n", "line 4: tag is 'X'"),
        ("a O\nb\n", "line 2: one column; write word, tab or space, and tag"),
        ("a O\nb NN O\n", "line 2: 3 columns where the first word has 2"),
        ("# id 5 of O\n\na O\n", "line 3: 2 columns where the first word has 5"),
        ("a\tO\n\tO\n", "line 2: token is empty"),
        ("a\tO\nb\t\n", "line 2: tag is empty"),
        ("-DOCSTART- O\n\n", "holds no records"),
        ("", "holds no records"),
    ],
)
def test_a_conll_file_that_cannot_be_used_is_refused_with_the_line_of_the_word(
    write, content, expected
):
    path = write("a.conll", content)
    said = message(path, family=TOKEN, labels=TAGS)
    assert said.startswith(f"forget {path}")
    assert expected in said


def test_files_that_cannot_hold_labels_are_refused_with_those_that_can(write, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2), dtype=int))
    said = message(write("a.txt", "a\n"))
    assert (
        "a .txt file cannot hold labels; allowed are .jsonl .ndjson .json .csv .tsv .parquet, each"
        in said
    )
    said = message(tmp_path / "a.npy", family=TOKEN)
    assert (
        "a .npy file cannot hold labels; allowed are .jsonl .ndjson .json .csv .tsv .parquet .conll"
        in said
    )
    path = write("a.conll", "a O\n")
    for family in (SEQUENCE, "causal-lm"):
        assert "for a token classifier only" in message(path, family=family)
    assert ".conll" not in message(write("a.docx", "x"), family="causal-lm")


def test_a_missing_column_says_what_a_classifier_needs_and_how_to_map(write):
    path = write("a.csv", "text,category\na,b\n")
    assert message(path).endswith(
        "no column label; found text, category; a sequence classifier needs text and label; "
        "by the names perhaps --map category=label"
    )
    assert "no usable column; found text, category; a token classifier needs tokens and tags" in (
        message(path, family=TOKEN)
    )
    assert "no column label" in message(["a text alone"])
    assert "allowed names are text, label, text_pair, id, subject" in message(
        path, columns={"category": "lable"}
    )
    assert "allowed names are tokens, tags, id, subject" in message(
        path, family=TOKEN, columns={"category": "label"}
    )


def test_a_causal_model_given_tagged_words_says_what_it_needs():
    said = message([{"tokens": ["a"], "tags": ["O"]}], family="causal-lm")
    assert "no usable column; found tokens, tags; a causal LM needs text" in said


# The names of a new head


def test_names_of_a_new_head_are_sorted_each_once():
    assert label_names(label_sets("spam", "Ham", "spam", "eggs"), SEQUENCE) == (
        "Ham",
        "eggs",
        "spam",
    )


def test_numbers_make_a_head_of_0_to_the_highest_in_numeric_order():
    """2 and 10: eleven outputs, so that number 10 is output 10, though nobody has 0."""
    assert label_names(label_sets("10", "2"), SEQUENCE) == tuple(map(str, range(11)))
    assert label_names(label_sets("01", "2"), SEQUENCE) == ("01", "2")


def test_tags_of_a_new_head_begin_with_o():
    records = RecordSet(
        "records", (Record("1", tokens=("a",) * 4, tags=("B-x", "O", "A", "O")),), "memory"
    )
    assert label_names(records, TOKEN) == ("O", "A", "B-x")


def test_records_read_for_a_new_head_mean_the_same_when_read_for_the_model_made_of_it():
    for given in (labelled(2, 0, 10), labelled("2", "-1", "0"), labelled("b", "a")):
        read = read_records(given, name="records", family=SEQUENCE)
        model = label_names(read, SEQUENCE)
        assert names(given, labels=model) == [record.label for record in read]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("a", "a"), "records memory: every label is 'a'; a classifier needs at least 2"),
        (("0", "1002"), "labels are numbers up to 1002, but only 2 differ"),
        (("0", "9" * 5000), "but only 2 differ; number the classes from 0, or give them names"),
    ],
)
def test_labels_that_make_no_head_are_refused(labels, expected):
    with pytest.raises(UserError, match=expected):
        label_names(label_sets(*labels), SEQUENCE)


# Real files


def test_banking77_has_77_intents_and_its_test_file_no_others(shared_data):
    """10003 and 3080 questions; the list of categories in the folder has the same 77 names."""
    folder = shared_data / "banking77"
    settings = {"name": "records", "family": SEQUENCE, "columns": {"category": "label"}}
    train = read_records(folder / "train.csv", **settings)
    model = label_names(train, SEQUENCE)
    assert len(train) == 10003
    assert list(model) == sorted(json.loads((folder / "categories.json").read_text()))
    test = read_records(folder / "test.csv", labels=model, **settings)
    assert len(test) == 3080
    assert {record.label for record in test} == set(model)


def test_wnut17_has_six_kinds_of_entity_in_all_three_files(shared_data, tmp_path):
    """3394, 1009 and 1287 sentences; 62730 words in training; 2 tags a kind, and O."""
    folder = shared_data / "wnut17"
    train = read_records(folder / "wnut17train.conll", name="records", family=TOKEN)
    model = label_names(train, TOKEN)
    assert (len(train), sum(len(record.tokens) for record in train)) == (3394, 62730)
    assert (len(model), model[0]) == (13, "O")
    assert len(tagged(folder / "emerging.dev.conll", labels=model)) == 1009
    shutil.copy(folder / "emerging.test.annotated", tmp_path / "test.conll")
    assert len(tagged(tmp_path / "test.conll", labels=model)) == 1287


def test_sms_spam_has_4827_and_747_messages(shared_data, tmp_path):
    """The file is not quoted as CSV, so it is written as JSON lines; its first line is a header."""
    lines = (shared_data / "sms_spam" / "SMSSpamCollection").read_text().split("\n")[1:]
    pairs = [line.split("\t", 1) for line in lines if line]
    rows = [json.dumps({"sms": text, "label": label}) for label, text in pairs]
    (tmp_path / "sms.jsonl").write_text("\n".join(rows))
    found = names(tmp_path / "sms.jsonl", columns={"sms": "text"}, labels=("ham", "spam"))
    assert (found.count("ham"), found.count("spam")) == (4827, 747)
