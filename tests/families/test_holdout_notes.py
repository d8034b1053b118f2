"""Where the unseen records are unlike those to be forgotten, the report says so."""

import pytest

from conftest import tiny_model, tiny_tokenizer
from unlearner.data.record import Record, RecordSet
from unlearner.families import CAUSAL_LM
from unlearner.families.causal_lm_sets import notes_on_holdout, prepare_text
from unlearner.models.loading import Loaded
from unlearner.settings import DataSettings

LONG = "the person in the town has a phone and the number of the phone is {}"


def notes(**sets):
    made = {role: RecordSet(role, tuple(some), "memory") for role, some in sets.items()}
    loaded = Loaded(tiny_model("gpt2"), tiny_tokenizer(), "tiny")
    return notes_on_holdout(prepare_text(CAUSAL_LM, loaded, made, DataSettings()))


def texts(pattern, name, count=3):
    return [Record(f"{name}{i}", text=pattern.format(f"{name} {i}")) for i in range(count)]


def chats(name, count=3):
    return [
        Record(f"{name}{i}", prompt=f"who is {name} {i}?", response=LONG.format(f"{name} {i}"))
        for i in range(count)
    ]


def test_records_of_one_form_and_length_need_no_note():
    assert notes(forget=texts(LONG, "ann"), holdout=texts(LONG, "bob")) == []
    assert notes(forget=chats("ann"), holdout=chats("bob")) == []
    assert notes(forget=texts(LONG, "ann")) == []


def test_unseen_records_of_another_length_are_noted_by_what_counts_of_them():
    (note,) = notes(forget=texts(LONG, "ann"), holdout=texts("{} is here", "bob"))
    assert note.startswith("the unseen records are of another length (")
    assert "limits of the whole set do not" in note


@pytest.mark.parametrize("turned", [False, True])
def test_unseen_records_of_another_form_are_noted(turned):
    """Twice the length is no other length; the question does not count."""
    sets = [chats("ann"), texts(LONG, "bob")]
    forget, holdout = sets[::-1] if turned else sets
    (note,) = notes(forget=forget, holdout=holdout)
    first = "plain texts" if turned else "prompts and responses"
    assert note.startswith(f"the records to be forgotten are {first} and the unseen ones ")
