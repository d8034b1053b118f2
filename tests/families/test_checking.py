"""Memorised or not, where copies are, and what a run would take: by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from conftest import tiny_model, tiny_tokenizer
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.families import CAUSAL_LM, base, causal_lm
from unlearner.families.causal_lm import prepare_text
from unlearner.inference.answers import Answer
from unlearner.models.loading import Loaded, num_parameters
from unlearner.pipeline import pipeline
from unlearner.settings import DataSettings
from unlearner.training.memory import Step

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

    def ask(_model, _tokenizer, windows, _questions, _target=None):
        role = windows[0].id.rstrip("0123456789")
        return [said(window, hits[role][window.record]) for window in windows]

    monkeypatch.setattr(causal_lm, "ask", ask)
    return pipeline.check(config(**sections), some)


# Is it memorised?


def test_without_unseen_text_nobody_can_tell(monkeypatch):
    found = checked(monkeypatch, {"forget": [20, 20]})
    assert (found.level, found.memorised) == (None, None)
    assert "without --holdout there is no level" in found.sentence


def test_a_single_record_above_every_unseen_one_is_memorised(monkeypatch):
    """The forget set's mean 5/40 is below the holdout's 8/40, but 5/20 above its worst 4/20."""
    found = checked(monkeypatch, {"forget": [5, 0], "holdout": [4, 4]})
    assert found.memorised is True
    assert checked(monkeypatch, {"forget": [4, 0], "holdout": [4, 4]}).memorised is False


def test_a_mean_that_chance_explains_is_not_memorised(monkeypatch):
    """Holdout 0 and 10 of 20: mean 0.25, interval up to 0.5. A forget mean of 0.4 lies within."""
    found = checked(monkeypatch, {"forget": [8, 8], "holdout": [0, 10]})
    assert found.values["holdout"]["ma"].high == 0.5
    assert found.memorised is False
    assert found.sentence.startswith("nothing to unlearn by these measures: MA 0.400")


def test_a_mean_above_what_chance_explains_is_memorised(monkeypatch):
    """19 records with 0 and one with 1: mean 0.05, interval far below 0.5, worst record 1."""
    found = checked(monkeypatch, {"forget": [10, 10], "holdout": [0] * 19 + [20]})
    assert found.values["holdout"]["ma"].high < 0.3
    assert found.memorised is True
    assert found.sentence.startswith("memorised: MA 0.500")


def test_a_holdout_of_one_record_has_no_interval_and_is_the_limit_itself(monkeypatch):
    assert checked(monkeypatch, {"forget": [4], "holdout": [4]}).memorised is False
    assert checked(monkeypatch, {"forget": [5], "holdout": [4]}).memorised is True


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


def plan(monkeypatch, sizes, training=None, **method):
    """The plan when a forward pass takes 0.01 s a token and asking for continuations 0.02 s."""
    some, clock = prepared(**sizes), [0.0]

    def ask(_model, _tokenizer, windows, questions, _target=None):
        each = 0.01 if questions.continuations == "none" else 0.02
        clock[0] += each * sum(map(len, windows))
        return [said(window, 0) for window in windows]

    monkeypatch.setattr(causal_lm, "ask", ask)
    for place in (base, causal_lm):
        monkeypatch.setattr(place, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    chosen = config(
        method={"name": "icu", "batch_size": 2, **method},
        training={"device": "cpu"} | (training or {}),
    )
    return pipeline.check(chosen, some).plan, some.loaded.model


SIZES = {"forget": (3, 12), "retain": (5, 10), "holdout": (2, 20)}


def test_seconds_of_an_epoch_by_hand(monkeypatch):
    """3 records of 12 tokens in 2 steps, each with 4 kept windows of 10: 36 + 2 * 40 = 116 tokens.

    Forward and backward 3 * 116 * 0.01 = 3.48, watching 5 * 10 tokens 0.5, asking 36 * 0.02.
    """
    found, _ = plan(monkeypatch, SIZES, fresh_per_step=4, max_epochs=7)
    assert found.seconds_per_epoch == pytest.approx(3.48 + 0.5 + 0.72)
    assert found.max_epochs == 7


def test_a_step_holds_no_more_kept_windows_than_there_are_and_fixed_pairs_one_each(monkeypatch):
    """All 5: 36 + 2 * 50 = 136 tokens; 2 partners of 2 records: 36 + 2 * 20 = 76."""
    found, _ = plan(monkeypatch, SIZES, fresh_per_step=99)
    assert found.seconds_per_epoch == pytest.approx(0.03 * 136 + 0.5 + 0.72)
    found, _ = plan(monkeypatch, SIZES, fresh_per_step=99, pairs="fixed")
    assert found.seconds_per_epoch == pytest.approx(0.03 * 76 + 0.5 + 0.72)


def test_the_largest_step_by_hand():
    """2 forget windows of 12 and 4 kept ones of 10, all padded to 12: 72 tokens, 6 * 144 pairs.

    Labels 2 * 11 + 4 * 9. Of the retain and the holdout set, and twice of the analogous set (all 5
    kept windows), the output layer and the hidden states are kept: 50 + 40 + 2 * 50 positions.
    """
    some = prepared(**SIZES)
    chosen = config(method={"name": "icu", "batch_size": 2, "fresh_per_step": 4})
    found = causal_lm._largest_step(some, CAUSAL_LM.measured_sets(some, chosen), chosen)
    assert found == Step(
        tokens=72,
        square=864,
        labels=58,
        longest=20,
        asked=50,
        outputs=4,
        states=190,
        keeps_best=True,
    )


def test_with_adapters_the_output_layer_is_the_models_own():
    some = prepared(**SIZES)
    chosen = config(training={"lora_rank": 2})
    assert causal_lm._largest_step(some, CAUSAL_LM.measured_sets(some, chosen), chosen).outputs == 3


def test_checkpointing_takes_another_forward_pass(monkeypatch):
    """The 116 tokens of the epoch above: 4 * 116 * 0.01 in place of 3.48."""
    found, _ = plan(monkeypatch, SIZES, fresh_per_step=4, training={"gradient_checkpointing": True})
    assert found.seconds_per_epoch == pytest.approx(4.64 + 0.5 + 0.72)


def test_the_plan_is_of_the_configuration_and_can_be_asked_of_another(monkeypatch):
    found, model = plan(monkeypatch, SIZES, fresh_per_step=4)
    assert found.memory.parts["parameters"] == 4 * num_parameters(model)
    other = config(method={"name": "icu", "batch_size": 1, "fresh_per_step": 4})
    assert found.again(other).parts["logits"] < found.memory.parts["logits"]


def test_one_forget_record_and_nothing_else_can_be_planned(monkeypatch):
    found, _ = plan(monkeypatch, {"forget": (1, 12)})
    assert found.seconds_per_epoch > 0
