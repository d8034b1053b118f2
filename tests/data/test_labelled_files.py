"""Records of classifiers: labels become names of the model's outputs, or are refused by place."""

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from unlearner.data.labels import label_names
from unlearner.data.loading import classifier_family, read_records
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


@pytest.mark.parametrize(
    ("labels", "given", "expected"),
    [
        # Of pandas, where labels were missing once: floats, and their text in a CSV.
        (("ham", "spam"), [0.0, np.float64(1)], ["ham", "spam"]),
        (("ham", "spam"), ["0.0", "1."], ["ham", "spam"]),
        (("0.0", "1.0"), ["1.0", "0.0"], ["1.0", "0.0"]),  # names
        # Truths: by their names, or the two outputs in order.
        (("no", "yes"), [True, np.bool_(False), "True", "false"], ["yes", "no", "yes", "no"]),
        (("True", "False"), [True, "false"], ["True", "False"]),
        (("LABEL_0", "LABEL_1"), [True, 0, "1"], ["LABEL_1", "LABEL_0", "LABEL_1"]),
        # A new head.
        (None, [0.0, "2.0", np.int8(1)], ["0", "2", "1"]),
        (None, [True, False, "True"], ["True", "False", "True"]),
    ],
)
def test_labels_are_read_as_the_tools_that_write_them_mean_them(labels, given, expected):
    assert names(labelled(*given), labels=labels) == expected


@pytest.mark.parametrize("given", [[1, 2, 3], ["3", "1"], [3.0, 1.0], [3]])
def test_labels_that_seem_to_be_counted_from_1_are_refused_whatever_comes_first(given):
    """Of 3 outputs; every set of such labels that holds a 3, and no 0, is noticed."""
    said = message(labelled(*given), labels="abc")
    assert f"record {1 + given.index(max(given))}: the labels go up to 3 and none is 0" in said
    assert said.endswith("the model's outputs are 0 to 2; set data.first_label=1")
    assert names(labelled(*given), labels="abc", first_label=1) == [
        "abc"[int(float(label)) - 1] for label in given
    ]


def test_numbers_beyond_the_outputs_are_no_count_from_1_where_there_is_a_0():
    """Also where the 0 comes later."""
    assert "record 1: label is 3, which is no output" in message(labelled(3, 0), labels="abc")


def test_counted_from_1_there_is_no_0():
    said = message(labelled(0), labels="abc", first_label=1)
    assert "label is 0, which is no output of the model; it has a, b, c (1 to 3)" in said
    assert names(labelled("b", 1), labels="abc", first_label=1) == ["b", "a"]
    assert names(labelled(1, 2), first_label=1) == ["0", "1"]


def test_a_set_keeps_which_numbers_it_was_given():
    found = read_records(labelled(1, "b", "2"), name="forget", family=SEQUENCE, labels="abc")
    assert found.label_numbers == {1, 2}


def test_truths_need_two_outputs_or_names():
    assert "is true or false, and the model has 3 outputs" in message(labelled(True), labels="abc")


def test_a_model_without_names_asks_for_numbers():
    said = message(labelled("spam"), labels=("LABEL_0", "LABEL_1"))
    assert said.endswith("names no classes: use numbers, or write id2label there")


@pytest.mark.parametrize(
    "row",
    [
        {"sentence": "a", "category": "b"},
        {"Text": "a", "Label": "b"},
        {"review": "a", "SENTIMENT": "b", "stars": 5},
        {"text": "a", "labels": "b"},
        {"text": "a", "message": "no", "label": "b", "category": "no"},
        {"tweet": "a", "class": "b", "id": "1"},
    ],
)
def test_columns_with_names_of_known_meaning_need_no_map(row):
    (record,) = read_records([row], name="forget", family=SEQUENCE)
    assert record == Record("1", text="a", label="b")


@pytest.mark.parametrize(
    ("one", "two"),
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("Question1", "Question2")],
)
def test_pairs_with_names_of_known_meaning_need_no_map(one, two):
    (record,) = read_records([{two: "b", one: "a", "label": "c"}], name="f", family=SEQUENCE)
    assert record == Record("1", text="a", text_pair="b", label="c")


@pytest.mark.parametrize(
    ("family", "row", "expected"),
    [
        (SEQUENCE, {"review": "a", "comment": "b", "label": "c"}, "review, comment may be it"),
        (SEQUENCE, {"text": "a", "intent": "a", "emotion": "b"}, "--map intent=label"),
        (TOKEN, {"tokens": ["a"], "ner_tags": [0], "pos_tags": [0]}, "--map ner_tags=tags"),
    ],
)
def test_several_columns_that_may_be_meant_are_not_chosen_between(family, row, expected):
    said = message([row], family=family)
    assert "no column" in said
    assert expected in said


@pytest.mark.parametrize("tags", ["ner_tags", "labels", "pos_tags", "tags"])
@pytest.mark.parametrize("tokens", ["tokens", "words"])
def test_words_and_tags_with_names_of_known_meaning_need_no_map(tokens, tags):
    row = {tokens: ["a"], tags: ["O"], "chunks": [1]}
    (record,) = read_records([row], name="forget", family=TOKEN)
    assert record == Record("1", tokens=("a",), tags=("O",))
    assert classifier_family([row], {}) == TOKEN


@pytest.mark.parametrize("missing", [None, "", " ", math.nan])
def test_a_record_of_pairs_may_have_one_text_only(missing):
    rows = [
        {"text": "a", "text_pair": "b", "label": "x"},
        {"text": "c", "text_pair": missing, "label": "x"},
        {"text": "d", "label": "x"},
    ]
    for some in (rows, rows[::-1]):
        found = read_records(some, name="forget", family=SEQUENCE)
        assert sorted((r.text, r.text_pair) for r in found) == [("a", "b"), ("c", ""), ("d", "")]


def test_without_labels_names_stand_as_they_are_and_numbers_become_digits():
    assert names(labelled(" Ham", "03", 7)) == [" Ham", "03", "7"]


def test_pairs_ids_and_subjects_are_read_beside_the_label(write):
    row = {"first": "P", "text_pair": "H", "label": 1, "id": 5, "subject": "Ann", "other": 0}
    (record,) = read_records(
        write("a.jsonl", json.dumps(row)),
        name="forget",
        family=SEQUENCE,
        columns={"first": "text"},
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
    assert "row 2: label is text of 7 characters that is no name" in message(
        data, labels=("ham", "spam")
    )


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
        (
            "Spm",
            "label is text of 3 characters that is no name of the model's; nearest: 'spam'; it",
        ),
        ("xyz", "no name of the model's; it has ham, spam (0 to 1); use a name or number of"),
        (3, "label is 3, which is no output of the model; it has ham, spam (0 to 1); use a name"),
        ("3", "label is 3, which is no output of the model"),
        (123456, "label is a number of 6 digits, which is no output of the model"),
        ("9" * 5000, "which is no output of the model"),
        (-1, "label is -1, which is no output of the model"),
        ("01", "label is text of 2 characters that is no name"),
        (1.5, "label must be a name or a whole number, got the float 1.5"),
        ("1.5", "label is text of 3 characters that is no name"),
        (np.float32("nan"), "label is missing (NaN); fill it in or remove the record"),
        (None, "label is missing (null); fill it in or remove the record"),
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


@pytest.mark.parametrize("label", [0.5, math.nan, None, "", -1])
def test_a_new_head_takes_no_label_that_is_no_name_or_number(label):
    assert "record 1: label " in message(labelled(label))


def test_a_model_with_many_names_gives_their_count_and_the_nearest(write):
    path = write("a.csv", "text,label\na,aaaa\nb,BBB\n")
    said = message(path, labels=[letter * 4 for letter in "abcdefghijklm"])
    assert f"forget {path}, line 3: label is text of 3 characters" in said
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
        ({"tokens": ["a"], "tags": ["B-plase"]}, "tag at position 0 is text of 7 characters"),
        ({"tokens": ["a", "b"], "tags": [0, 3]}, "tag at position 1 is 3, which is no output"),
        ({"tokens": ["a", "b"], "tags": [0, 4]}, "tag at position 1 is 4, which is no output"),
        ({"tokens": ["a", "b"], "tags": [1, 3]}, "none is 0: they seem to be counted from 1"),
        ({"tokens": ["a"], "tags": [-100]}, "tag at position 0 is -100, which is no output"),
        ({"tokens": ["a"], "tags": [None]}, "tag at position 0 is missing (null)"),
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
        ("New\tB-place\nYork\tI-plaze\n", "line 2: tag is text of 7 characters"),
        ("a\tO\n\nb\tO\nc\tX\n", "line 4: tag is text of 1 characters"),
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
    path = write("a.csv", "text,kind\na,b\n")
    assert message(path).endswith(
        "no column label; found text, kind; a sequence classifier needs text and label; "
        "which column is which cannot be told from the names: --map COLUMN=label"
    )
    assert "no usable column; found text, kind; a token classifier needs tokens and tags" in (
        message(path, family=TOKEN)
    )
    assert "no column label" in message(["a text alone"])
    assert "allowed names are text, label, text_pair, id, subject" in message(
        path, columns={"kind": "lable"}
    )
    assert "allowed names are tokens, tags, id, subject" in message(
        path, family=TOKEN, columns={"kind": "label"}
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
        (("a", "a"), "records memory: every label is the same; a classifier needs at least"),
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
