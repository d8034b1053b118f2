"""Memorised or not, where copies are, and what a run would take: by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from conftest import tiny_model, tiny_tokenizer
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.families import CAUSAL_LM, FAMILIES, causal_lm
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.inference.answers import Answer
from unlearner.models.loading import Loaded
from unlearner.pipeline import pipeline
from unlearner.settings import DataSettings

LABELS = 20


def prepared(**sizes):
    """Sets of so many records of so many tokens each, all different."""
    rng = np.random.default_rng(0)
    sets = {}
    for role, (count, length) in sizes.items():
        ids = [tuple(int(i) for i in rng.integers(2, 90, length)) for _ in range(count)]
        some = tuple(Record(f"{role}{i}", input_ids=each) for i, each in enumerate(ids))
        sets[role] = RecordSet(role, some, "memory")
    loaded = Loaded(tiny_model("gpt2"), tiny_tokenizer(), "t")
    return prepare_text(CAUSAL_LM, loaded, sets, DataSettings())


def config(**sections):
    evaluation = {"resamples": 200, **sections.pop("evaluation", {})}
    return RunConfig.from_sections({"evaluation": evaluation, **sections})


def said(window, hits):
    """An answer whose first labels are hit, and nothing that is decoded like the text."""
    ids = window.input_ids
    argmax = np.where(np.arange(len(ids) - 1) < hits, ids[1:], 95)
    decoded = {t: np.full(len(ids) - t, 95) for t in range(1, len(ids))}
    return Answer(
        window.record,
        window.id,
        ids,
        window.scored,
        np.full(len(ids) - 1, -1.0),
        argmax,
        decoded=decoded,
        prompt_start=1,
        reference_text="a",
        continuation_text="b",
    )


def checked(monkeypatch, hits, **sections):
    """The check of sets in which the model knows so many of each record's 20 labels."""
    some = prepared(**{role: (len(each), LABELS + 1) for role, each in hits.items()})

    def infer(_model, _tokenizer, windows, _questions, _target=None):
        role = windows[0].id.rstrip("0123456789")
        return [said(window, hits[role][window.record]) for window in windows]

    monkeypatch.setattr(causal_lm, "infer", infer)
    return pipeline.check(config(**sections), some)


# Is it memorised?


def test_without_unseen_text_nobody_can_tell(monkeypatch):
    found = checked(monkeypatch, {"forget": [20, 20]})
    assert (found.level, found.memorised) == (None, None)
    assert "without --holdout there is no level" in found.sentence


UNSEEN = [4, 5, 6, 4, 5, 6, 4, 5, 6, 4]


def test_a_single_record_far_above_what_unseen_ones_show_is_memorised(monkeypatch):
    """The mean of 20 and 19 times 4 of 20 labels, 0.24, is below the unseen records' 0.245."""
    rest = [4] * 19
    found = checked(monkeypatch, {"forget": [20, *rest], "holdout": UNSEEN * 4})
    assert found.memorised is True
    found = checked(monkeypatch, {"forget": [9, *rest], "holdout": UNSEEN * 4})
    assert found.memorised is False
    assert found.sentence.startswith("nothing to unlearn by these measures: MA 0.212")


def test_a_mean_above_what_chance_explains_is_memorised(monkeypatch):
    """Ten unseen of 20 labels: 0.245 + t_9 s sqrt(2/10) = 0.359, t 2.65 and s 0.096 by chance."""
    found = checked(monkeypatch, {"forget": [8] * 10, "holdout": UNSEEN})
    assert found.memorised is True
    assert found.sentence.startswith("memorised: MA 0.400")
    assert checked(monkeypatch, {"forget": [7] * 10, "holdout": UNSEEN}).memorised is False


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 2), (100, 1)])
def test_too_few_records_tell_nothing_unless_they_are_far_apart(monkeypatch, sizes):
    forget, unseen = sizes
    found = checked(monkeypatch, {"forget": [9] * forget, "holdout": [4] * unseen})
    assert found.memorised is None
    assert found.sentence.startswith("too few records to tell: MA 0.450")
    assert f"with {forget} to forget and {unseen} unseen" in found.sentence


@pytest.mark.parametrize(("hits", "memorised"), [(6, False), (7, True)])
def test_a_level_by_hand_is_the_limit_of_the_mean_and_of_each_record(monkeypatch, hits, memorised):
    """MA 0.3 of 20 labels is 6."""
    found = checked(monkeypatch, {"forget": [hits]}, criteria={"ma": 0.3, "el_10": 0.0})
    assert found.memorised is memorised


def test_records_too_short_for_el_10_are_judged_by_ma():
    """Six tokens have no 10-gram."""
    some = prepared(forget=(2, 6), holdout=(2, 6))
    found = pipeline.check(config(), some)
    assert "el_10" not in found.values["forget"]
    assert found.memorised is not None
    assert "EL_10" not in found.sentence.partition("unseen")[0]


# Copies and samples


def test_copies_are_named_by_the_records_own_ids():
    model = Loaded(tiny_model("gpt2"), tiny_tokenizer(), "t")
    texts = {
        "forget": ["her number is 4711 in york", "the fox is red and old"],
        "pool": ["a mill and a church and a pub", "Her number is 4711 in  York"],
        "holdout": ["he sold apples in the town", "and then he moved away"],
    }
    sets = {
        role: RecordSet(
            role, tuple(Record(f"{role}-{i}", text=t) for i, t in enumerate(each)), "memory"
        )
        for role, each in texts.items()
    }
    some = prepare_text(CAUSAL_LM, model, sets, DataSettings())
    found = pipeline.check(config(), some)
    assert found.ids("pool", found.duplicates["pool"]) == [("forget-0", "pool-1")]
    assert found.duplicates["holdout"] == []


def test_large_sets_are_measured_as_a_sample_and_the_forget_set_whole():
    """Nothing is reported of the pool; the test set, which nothing rests on, is."""
    some = prepared(forget=(5, 12), retain=(9, 12), holdout=(4, 12), pool=(3, 12), test=(6, 12))
    sets = CAUSAL_LM.measured_sets(some, config(evaluation={"max_records": 4}))
    assert {role: len(each) for role, each in sets.items()} == {
        "forget": 5,
        "retain": 4,
        "holdout": 4,
        "test": 4,
    }


# What a run takes


def test_a_plan_is_of_all_sets_and_of_what_evaluating_them_took(monkeypatch):
    some, asked = prepared(forget=(3, 12), retain=(5, 10), holdout=(2, 20)), {}

    def plan_run(_loaded, sets, measured, method, settings, evaluation):
        asked.update(sets=set(sets), measured=set(measured), method=method.name)
        assert evaluation.seconds > 0
        return SimpleNamespace(device=settings.device, seconds_per_epoch=1.0, max_epochs=2)

    monkeypatch.setattr(pipeline, "plan_run", plan_run)
    found = pipeline.check(config(method={"name": "npo"}, training={"device": "cpu"}), some)
    assert found.plan.device == "cpu"
    every = {"forget", "retain", "holdout"}
    assert asked == {"sets": every, "measured": every, "method": "npo"}


@pytest.mark.parametrize(
    ("method", "sets", "told"),
    [
        ("icu", {"forget": 3, "retain": 5, "holdout": 4}, True),
        ("icu", {"forget": 3, "retain": 5, "holdout": 3}, False),
        ("icu", {"forget": 3, "holdout": 9}, False),
        ("npo", {"forget": 3, "retain": 5, "holdout": 4}, False),
    ],
)
def test_quantile_matching_is_named_where_its_records_are_there_and_icu_would_be_taken(
    method, sets, told
):
    prepared = SimpleNamespace(sets={role: range(count) for role, count in sets.items()})
    config = SimpleNamespace(method=SimpleNamespace(name=method))
    advice = " ".join(FAMILIES["causal-lm"].advice(prepared, config))
    assert ("--method quantile_matching" in advice) is told
