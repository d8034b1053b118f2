"""From sets as given to sets in a model's tokens."""

import pytest

from conftest import tiny_model, tiny_tokenizer
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, contents, tokenize_set
from unlearner.errors import UserError
from unlearner.families import CAUSAL_LM
from unlearner.families.base import sample
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.models.loading import Loaded
from unlearner.settings import DataSettings


def given(name, *texts):
    return RecordSet(name, tuple(Record(str(i), text=t) for i, t in enumerate(texts)), "memory")


def prepare(model, sets, data):
    return prepare_text(CAUSAL_LM, model, sets, data)


def loaded(context=128):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = context
    return Loaded(tiny_model("gpt2"), tokenizer, "tiny")


# Reading


def test_sets_come_from_python_before_the_paths_of_the_settings(tmp_path):
    (tmp_path / "file.txt").write_text("from a file\n")
    data = DataSettings(forget=str(tmp_path / "none.txt"), retain=str(tmp_path / "file.txt"))
    sets = CAUSAL_LM.read_sets(data, {"forget": ["from python"], "pool": None})
    assert {role: [record.text for record in some] for role, some in sets.items()} == {
        "forget": ["from python"],
        "retain": ["from a file"],
    }
    assert sets["forget"].source == "memory"


def test_sets_that_nobody_gave_are_not_there():
    assert CAUSAL_LM.read_sets(DataSettings(), {}) == {}


def test_an_empty_list_is_a_wrong_set_not_a_missing_one():
    with pytest.raises(UserError, match="retain in memory: holds no records"):
        CAUSAL_LM.read_sets(DataSettings(), {"retain": []})


# Tokens


@pytest.mark.parametrize(("asked", "context", "longest"), [(5, 128, 5), (999, 7, 7), (5, 1, 2)])
def test_windows_are_as_long_as_asked_for_within_the_context(asked, context, longest):
    """A context of one token could predict nothing: two are the least."""
    some = prepare(
        loaded(context), {"forget": given("forget", "abcdefghijk")}, DataSettings(max_length=asked)
    )
    assert max(len(window) for window in some["forget"].windows) == longest


def test_token_ids_outside_the_model_s_vocabulary_are_refused():
    records = RecordSet("pool", (Record("x", input_ids=(1, 95, 96)),), "memory")
    with pytest.raises(UserError, match=r"record 'x': token id 96 .* \(0 to 95\)"):
        prepare(loaded(), {"pool": records}, DataSettings())


def test_records_of_token_ids_are_compared_as_text():
    """The ids of "abc" are a copy of the text "abc", also where it is the other's case."""
    model = loaded()
    ids = model.tokenizer("the phone number of abcd")["input_ids"]
    sets = {
        "forget": RecordSet("forget", (Record("a", input_ids=tuple(ids)),), "memory"),
        "retain": given("retain", "something else", "The phone NUMBER of abcd"),
    }
    prepared = prepare(model, sets, DataSettings())
    assert contents(prepared["forget"], model.tokenizer) == ["the phone number of abcd"]
    (found,) = prepared.duplicates["retain"]
    assert (found.forget, found.other, found.exact) == (0, 1, True)
    assert "forget" not in prepared.duplicates


def test_a_long_record_is_compared_whole():
    """Its windows share a token, which stands once in its text."""
    ids = tuple(tiny_tokenizer()("abcdefghijk")["input_ids"])
    sets = {"forget": RecordSet("forget", (Record("a", input_ids=ids),), "memory")}
    prepared = prepare(loaded(), sets, DataSettings(max_length=4))
    assert len(prepared["forget"].windows) > 2
    assert contents(prepared["forget"], tiny_tokenizer()) == ["abcdefghijk"]


# Samples


def many(count):
    records = given("retain", *(f"text {i:03}" for i in range(count)))
    return tokenize_set(records, tiny_tokenizer(), Layout())


def test_a_set_that_is_not_too_large_is_measured_whole():
    some = many(8)
    assert sample(some, 8, seed=0) is some


def test_a_sample_is_seeded_without_repeats_and_in_the_set_s_order():
    some = many(40)

    def drawn(seed):
        return [record.id for record in sample(some, 9, seed).records]

    ids = drawn(3)
    assert ids == drawn(3)
    assert ids != drawn(4)
    assert len(set(ids)) == 9
    assert ids == sorted(ids, key=int)


def test_a_sample_s_windows_are_those_of_its_records():
    found = sample(many(40), 5, seed=0)
    texts = [tiny_tokenizer().decode(tokens) for tokens in found.sequences()]
    assert texts == [record.text for record in found.records]
    assert {window.record for window in found.windows} == set(range(5))
