"""From records to the labelled sets of a run: copies, a class to remove, and what is missing."""

import json

import pytest

from classifier_world import SEQUENCE, TOKEN, tiny_classifier, toy_tokenizer
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError
from unlearner.families import FAMILIES
from unlearner.families.base import sample
from unlearner.models.loading import Loaded

NEEDS = ("forget", "retain", "holdout")


@pytest.fixture(scope="module")
def classifier():
    return Loaded(tiny_classifier(), toy_tokenizer(), "texts")


@pytest.fixture(scope="module")
def tagger():
    return Loaded(tiny_classifier(TOKEN), toy_tokenizer(), "words")


def rows(label, *texts, prefix=""):
    return [
        {"id": f"{prefix}{label}{number}", "text": text, "label": label}
        for number, text in enumerate(texts)
    ]


FORGET = rows("animal", "the old cat is here", "a new dog was seen then", prefix="f")
RETAIN = [
    *rows("animal", "the horse was near the mouse", "very old sheep"),
    *rows("colour", "the new red is blue", "green was here"),
    *rows("place", "oslo is near paris"),
]
HOLDOUT = [
    *rows("animal", "a mouse was seen", prefix="h"),
    *rows("place", "cairo is old and quito new", prefix="h"),
]
TEST = [
    *rows("animal", "the sheep is white", prefix="t"),
    *rows("colour", "black was the new white", prefix="t"),
]
SETS = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}
WHOLE = {"retain": RETAIN, "holdout": HOLDOUT, "test": TEST}  # for the removal of a class


def ids(prepared, role):
    return [record.id for record in prepared[role].records]


def prepare(loaded, given, needs=NEEDS, **data):
    """The sets of a run with these settings of its data."""
    config = RunConfig.from_sections({"data": data}, family=loaded.family)
    return FAMILIES[loaded.family].prepare(config, given, loaded, needs)


def refused(loaded, given, needs=NEEDS, **data):
    """The one line of a refusal."""
    with pytest.raises(UserError) as caught:
        prepare(loaded, given, needs, **data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Sets


def test_sets_are_read_with_the_labels_of_the_model_and_made_into_tokens(classifier):
    prepared = prepare(classifier, SETS)
    assert {role: len(some) for role, some in prepared.sets.items()} == {
        "forget": 2,
        "retain": 5,
        "holdout": 2,
    }
    assert [int(one.labels[0]) for one in prepared["retain"].examples] == [0, 0, 1, 1, 2]
    assert len(prepared["forget"].examples[0]) == 5 + 2  # five words, [CLS] and [SEP]
    assert prepared.forget_class is None
    assert prepared.duplicates == {"retain": [], "holdout": []}
    assert prepared.get("test") is None


def test_a_set_from_python_goes_before_a_path(classifier, tmp_path):
    path = tmp_path / "forget.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FORGET))
    data = {"forget": str(path)}
    read = prepare(classifier, {}, ["forget"], **data)
    assert ids(read, "forget") == ["fanimal0", "fanimal1"]
    given = RecordSet("forget", (Record("own", text="the cat", label="animal"),), "memory")
    assert ids(prepare(classifier, {"forget": given}, ["forget"], **data), "forget") == ["own"]


def test_texts_are_no_longer_than_the_model_takes_or_the_settings_say(classifier):
    """32 positions, [CLS] and [SEP] among them; or 20; 2 would hold no word, so it is 8."""
    long = {"forget": [{"text": "cat " * 50, "label": "animal"}]}
    for limit, expected in ((1024, 32), (20, 20), (2, 8)):
        found = prepare(classifier, long, ["forget"], max_length=limit)
        assert len(found["forget"].examples[0]) == expected
        assert found["forget"].truncated == 1


@pytest.mark.parametrize("role", NEEDS)
def test_a_missing_set_is_asked_for_by_its_option_and_what_it_is(role, classifier):
    line = refused(classifier, {name: some for name, some in SETS.items() if name != role})
    meaning = {
        "forget": "the labelled records to be forgotten (or --forget-class NAME)",
        "retain": "the remaining labelled training data",
        "holdout": "labelled records that the model was never trained on",
    }[role]
    assert line.startswith(f"--{role}: none given; {meaning}")
    assert line.endswith("is needed")


def test_a_set_that_is_not_needed_may_be_missing(classifier):
    prepared = prepare(classifier, {"forget": FORGET}, ["forget"])
    assert set(prepared.sets) == {"forget"}


@pytest.mark.parametrize("how", ["given", "data"])
def test_a_pool_is_for_language_models(how, classifier):
    some = ({"pool": FORGET}, {}) if how == "given" else ({}, {"pool": "pool.jsonl"})
    assert refused(classifier, SETS | some[0], **some[1]).startswith("--pool: for causal language")


# Copies


def with_copies(role):
    """Two copies of forget records among the others of a set, one of them in capitals."""
    copies = [FORGET[0] | {"id": "copy"}, FORGET[1] | {"id": "loud"}]
    copies[1]["text"] = copies[1]["text"].upper()
    return SETS | {role: [copies[0], *SETS[role], copies[1]]}


@pytest.mark.parametrize("role", ["retain", "holdout", "test"])
def test_copies_of_forget_records_are_refused_and_named(role, classifier):
    given = {"test": TEST} | SETS
    given[role] = [*given[role], FORGET[1] | {"id": "copy", "label": "place"}]
    why = "would teach them back" if role == "retain" else "are not unseen"
    assert refused(classifier, given) == (
        f"--{role}: 1 of its records are records to forget and {why}, first 'copy' as 'fanimal1'; "
        "leave them out, or let --drop-duplicates do it"
    )


@pytest.mark.parametrize("role", ["retain", "holdout"])
def test_copies_are_left_out_where_that_is_asked_for(role, classifier):
    """Case and white space make no difference; the others stay in their order."""
    prepared = prepare(classifier, with_copies(role), drop_duplicates=True)
    assert ids(prepared, role) == [row["id"] for row in SETS[role]]
    assert prepared.duplicates == {"retain": [], "holdout": []}
    assert ids(prepared, "forget") == ["fanimal0", "fanimal1"]


def test_near_copies_stay_and_are_told_by_their_place_after_dropping(classifier):
    """20 words of which the last differs: 17 of 19 three-word shingles in common, J = 17 / 19."""
    words = "the old cat is here then a new dog was seen near the red horse of very old oslo"
    forget = [{"id": "f", "text": f"{words} cairo", "label": "animal"}]
    near = {"id": "near", "text": f"{words} quito", "label": "animal"}
    given = {"forget": forget, "retain": [forget[0] | {"id": "exact"}, RETAIN[0], near]}
    prepared = prepare(classifier, given, ["forget"], drop_duplicates=True)
    assert ids(prepared, "retain") == ["animal0", "near"]
    (found,) = prepared.duplicates["retain"]
    assert (found.forget, found.other, found.exact) == (0, 1, False)
    assert found.similarity == pytest.approx(17 / 19)


def test_a_set_of_copies_only_is_refused(classifier):
    line = refused(classifier, SETS | {"holdout": FORGET}, drop_duplicates=True)
    assert line == "--holdout: every record is a copy of a record to forget; give others"


def test_copies_of_words_are_found_by_the_words(tagger):
    row = {"id": "f", "tokens": ["the", "cat"], "tags": ["O", "B-animal"]}
    other = {"id": "r", "tokens": ["the", "cat"], "tags": ["O", "O"]}
    line = refused(tagger, {"forget": [row], "retain": [other]}, needs=["forget"])
    assert line.startswith("--retain: 1 of its records are records to forget")


# Removing a class


@pytest.mark.parametrize("name", ["animal", "0"])
def test_a_class_is_taken_out_of_every_set(name, classifier):
    """Its training records are the forget set, its unseen ones a set of their own."""
    prepared = prepare(classifier, WHOLE, forget_class=name)
    assert prepared.forget_class == 0
    assert ids(prepared, "forget") == ["animal0", "animal1"]
    assert ids(prepared, "retain") == ["colour0", "colour1", "place0"]
    assert ids(prepared, "holdout") == ["hplace0"]
    assert ids(prepared, "test") == ["tcolour0"]
    assert ids(prepared, "holdout_class") == ["0-hanimal0", "1-tanimal0"]
    assert prepared.duplicates == {}


def test_without_unseen_records_of_the_class_there_is_no_such_set(classifier):
    given = WHOLE | {"holdout": HOLDOUT[1:], "test": TEST[1:]}
    prepared = prepare(classifier, given, forget_class="animal")
    assert "holdout_class" not in prepared.sets


def test_unseen_records_of_one_id_are_told_apart(classifier):
    same = rows("animal", "a cat here", prefix="x")
    given = WHOLE | {"holdout": [*HOLDOUT, *same], "test": [*TEST, *same]}
    prepared = prepare(classifier, given, forget_class="animal")
    assert len(set(ids(prepared, "holdout_class"))) == 4


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (SETS, "--forget and --forget-class: give one of them"),
        ({"holdout": HOLDOUT}, "--forget-class: --retain with the whole training data is needed"),
        (
            WHOLE | {"retain": RETAIN[2:]},
            "--forget-class animal: memory has no records of this class",
        ),
        (
            WHOLE | {"retain": RETAIN[:2]},
            "--forget-class animal: memory has only records of this class",
        ),
        (
            WHOLE | {"holdout": HOLDOUT[:1]},
            "--holdout: holds records of animal only; others are needed as well",
        ),
        (
            WHOLE | {"test": TEST[:1]},
            "--test: holds records of animal only; others are needed as well",
        ),
    ],
)
def test_a_class_that_cannot_be_removed_is_refused(given, line, classifier):
    assert refused(classifier, given, forget_class="animal") == line


def test_an_unknown_class_is_refused_with_the_nearest(classifier):
    assert refused(classifier, WHOLE, forget_class="animals") == (
        "--forget-class 'animals': the model has no such class; did you mean 'animal'? it has 3: "
        "animal, colour, place"
    )
    assert "no such class; it has 3" in refused(classifier, WHOLE, forget_class="7")


def test_a_tagger_has_no_class_to_remove(tagger):
    line = refused(tagger, {}, forget_class="B-animal")
    assert line.startswith("--forget-class B-animal: for sequence classifiers;")


# Large sets


def test_a_large_set_is_measured_by_a_seeded_sample(classifier):
    some = prepare(classifier, SETS)["retain"]
    assert sample(some, 5, 0) is some
    samples = [[record.id for record in sample(some, 3, seed).records] for seed in (0, 0, 1, 2)]
    assert samples[0] == samples[1]
    assert len({tuple(drawn) for drawn in samples}) > 1
    order = [record.id for record in some.records]
    for drawn in samples:
        assert len(set(drawn)) == 3
        assert drawn == sorted(drawn, key=order.index)


def test_the_family_of_the_model_decides_what_a_record_is(classifier, tagger):
    assert classifier.family == SEQUENCE
    assert "label" in refused(classifier, {"forget": [{"tokens": ["a"], "tags": ["O"]}]})
    assert "tags" in refused(tagger, {"forget": FORGET})
