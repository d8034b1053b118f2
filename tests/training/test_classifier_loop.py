"""Rounds of steps and the looks between them: figures by hand, every rule, what is told."""

import math
from dataclasses import replace
from itertools import count

import pytest
import torch

from class_answers import answer, said, tagged
from classifier_world import SEQUENCE, TOKEN, labelled, tiny_classifier, tiny_data, tiny_trainer
from unlearner.training import classifier_loop
from unlearner.training.classifier_loop import (
    ClassifierRound,
    Rounds,
    Watch,
    likelier_than_unseen,
    take_steps,
    train_in_rounds,
)
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)

STATE = ClassifierRound(
    round=2,
    steps=10,
    forget_score=0.5,
    holdout_score=0.5,
    retain_score=0.9,
    forget_loss=1.0,
    holdout_loss=1.0,
    mia_loss_auc=0.5,
    seconds=0.1,
    records=3,
)


@pytest.fixture
def answering(monkeypatch):
    """Replaces the model: what it says of the forget, the holdout and the retain set in turn."""

    def replaced(forget, holdout, retain=None):
        answers = iter([forget, holdout, retain or holdout])
        monkeypatch.setattr(classifier_loop, "classify", lambda *_: next(answers))

    return replaced


def sure(label, probability, record):
    """A text of three labels whose own one has this probability."""
    rest = (1 - probability) / 2
    row = [probability if place == label else rest for place in range(3)]
    return answer([label], [row], record=record)


# A look


def test_records_are_compared_with_unseen_ones_of_their_rank_by_hand():
    """Three losses against the quantiles 1/6, 1/2 and 5/6 of (1, 2, 3, 4, 5): of these the places
    are .1, .3, .5, .7 and .9, so 1.333, 3 and 4.667. Of (1, 3, 5) the first is below its own.
    """
    unseen = [5.0, 3.0, 1.0, 4.0, 2.0]
    assert likelier_than_unseen({0: 5.0, 1: 1.0, 2: 3.0}, unseen) == (1,)
    assert likelier_than_unseen({0: 4.6, 1: 1.4, 2: 2.9}, unseen) == (0, 2)
    assert likelier_than_unseen({7: 2.9}, unseen) == (7,)  # against the median
    assert likelier_than_unseen({7: 3.0}, unseen) == ()


def test_a_falling_rate_ends_in_a_step_of_its_last_share():
    """Four steps at 1, 3/4, 1/2 and 1/4 of it."""
    model, trainer = tiny_classifier(), tiny_trainer()
    trainer.start(model, 1e-3)
    rates = []

    def steps():
        for step in counted_steps(model):
            rates.append(trainer.optimiser.param_groups[0]["lr"])
            yield step

    take_steps(steps(), 4, trainer, falls=True)
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_a_look_is_accuracy_loss_and_auc_by_hand(answering):
    """Forget 0.5 and 0.2 (wrong), holdout 0.25 (wrong) and 0.4: losses ln 2, ln 5, ln 4, ln 2.5.

    Pairs with the lower loss on the forget side: ln 2 is below both, ln 5 below none: 2 of 4.
    """
    answering(
        [sure(0, 0.5, 0), sure(1, 0.2, 1)],
        [sure(0, 0.25, 0), sure(2, 0.4, 1)],
        [sure(0, 0.9, 0), sure(1, 0.8, 1), sure(2, 0.1, 2)],
    )
    data = tiny_data(sizes=(2, 3, 2))
    state = Watch("score", data).examine(None, 3, 15)
    assert (state.round, state.steps, state.records) == (3, 15, 2)
    assert (state.forget_score, state.holdout_score) == (0.5, 0.5)
    assert state.retain_score == pytest.approx(2 / 3)
    assert state.forget_loss == pytest.approx((math.log(2) + math.log(5)) / 2)
    assert state.holdout_loss == pytest.approx((math.log(4) + math.log(2.5)) / 2)
    assert state.mia_loss_auc == 0.5
    assert state.seconds >= 0


def test_of_tags_the_score_is_the_entity_f1(answering):
    """Forget: both words of one entity, one missed: 2 / (2 + 1). Holdout: one too many."""
    answering(
        [tagged("B-per I-per O", "B-per I-per O"), tagged("B-loc O", "O O", record=1)],
        [tagged("O B-loc", "B-per B-loc")],
    )
    state = Watch("score", tiny_data(TOKEN, sizes=(2, 3, 1))).examine(None, 0, 0)
    assert state.forget_score == pytest.approx(2 / 3)
    assert state.holdout_score == pytest.approx(2 / 3)


def test_sentences_without_entities_have_none_wrong(answering):
    answering([tagged("O O", "O O")], [tagged("O B-loc", "O B-loc")])
    state = Watch("score", tiny_data(TOKEN, sizes=(1, 3, 1))).examine(None, 0, 0)
    assert state.forget_score == 1.0


def test_a_look_asks_about_the_forget_the_holdout_and_the_watched_set_only(monkeypatch):
    """Without watched records all of the retain set are."""
    data, asked = tiny_data(sizes=(2, 3, 2)), []

    def infer(_, records, labels):
        asked.append((records, labels))
        return [said([0], [0], record=example.record) for example in records.examples]

    monkeypatch.setattr(classifier_loop, "classify", infer)
    Watch("score", data).examine(tiny_classifier(), 0, 0)
    sets = [data.forget, data.holdout, data.retain]
    assert asked == [(some, data.labels) for some in sets]
    asked.clear()
    watched = data.retain.subset([1])
    Watch("score", replace(data, watched=watched)).examine(tiny_classifier(), 0, 0)
    assert asked[-1] == (watched, data.labels)


# The rules


@pytest.mark.parametrize(
    ("stop", "changes", "done"),
    [
        ("score", {"forget_score": 0.5}, True),
        ("score", {"forget_score": 0.51}, False),
        ("score", {"forget_score": 0.1, "forget_loss": 0.0, "mia_loss_auc": 1.0}, True),
        ("loss", {"forget_loss": 1.0}, True),
        ("loss", {"forget_loss": 0.99}, False),
        ("loss", {"forget_loss": 2.0, "forget_score": 1.0, "mia_loss_auc": 1.0}, True),
        ("auc", {"mia_loss_auc": 0.5}, True),
        ("auc", {"mia_loss_auc": 0.51}, False),
        ("auc", {"mia_loss_auc": 0.3, "forget_score": 1.0, "forget_loss": 0.0}, True),
        ("never", {"mia_loss_auc": 0.0, "forget_score": 0.0, "forget_loss": 9.0}, False),
    ],
)
def test_records_look_unseen_by_the_rule_and_by_no_other_figure(stop, changes, done):
    assert Watch(stop, tiny_data()).done(replace(STATE, **changes)) is done


@pytest.mark.parametrize("stop", ["score", "loss", "auc"])
def test_a_class_is_gone_at_chance(stop):
    """Three labels: 1/3, whatever the other figures say."""
    watch = Watch(stop, tiny_data(forget_class=1))
    low = {"holdout_score": 0.0, "forget_loss": 0.0, "mia_loss_auc": 1.0}
    assert watch.done(replace(STATE, forget_score=1 / 3, **low))
    high = {"holdout_score": 1.0, "forget_loss": 9.0, "mia_loss_auc": 0.0}
    assert not watch.done(replace(STATE, forget_score=0.34, **high))


@pytest.mark.parametrize(("family", "rule"), [(SEQUENCE, "auc"), (TOKEN, "score")])
def test_the_rule_auto_is_that_of_the_family(family, rule):
    """Either figure may be met alone; only the family's own rule counts."""
    data = tiny_data(family)
    by_score = replace(STATE, forget_score=0.4, mia_loss_auc=0.6)
    by_auc = replace(STATE, forget_score=0.6, mia_loss_auc=0.4)
    assert Watch("auto", data).done(by_score) is (rule == "score")
    assert Watch("auto", data).done(by_auc) is (rule == "auc")


def test_a_rule_of_never_does_not_stop_at_chance_either():
    assert not Watch("never", tiny_data(forget_class=1)).done(replace(STATE, forget_score=0.0))


# What is left to forget


@pytest.mark.parametrize(
    ("stop", "changes", "left"),
    [
        ("score", {"forget_score": 0.75}, 0.25),
        ("score", {"forget_score": 0.25}, 0.0),
        ("loss", {"forget_loss": 0.25}, 0.75),
        ("loss", {"forget_loss": 1.5}, 0.0),
        ("auc", {"mia_loss_auc": 0.75, "forget_score": 1.0}, 0.25),
        ("auc", {"mia_loss_auc": 0.25}, 0.0),
        ("never", {"mia_loss_auc": 0.625}, 0.125),  # texts: by the AUC
        ("auc", {"mia_loss_auc": math.nan}, math.nan),
    ],
)
def test_what_is_left_is_the_distance_by_the_rule(stop, changes, left):
    excess = Watch(stop, tiny_data()).excess(replace(STATE, **changes))
    assert excess == pytest.approx(left, nan_ok=True)


def test_of_a_class_recall_above_chance_is_left():
    """Three labels: 0.5 - 1/3."""
    watch = Watch("auc", tiny_data(forget_class=1))
    assert watch.excess(replace(STATE, mia_loss_auc=1.0)) == pytest.approx(1 / 6)


# Rounds


@pytest.fixture
def scripted(monkeypatch):
    """Looks that find these AUCs, one after the other, and these scores of retained records."""

    def script(*aucs, retained=()):
        found, scores = iter(aucs), iter(retained)

        def examine(self, _, number, steps):
            return replace(
                STATE,
                round=number,
                steps=steps,
                mia_loss_auc=next(found),
                retain_score=next(scores, STATE.retain_score),
                records=len(self.data.forget),
            )

        monkeypatch.setattr(Watch, "examine", examine)

    return script


def counted_steps(model):
    """Steps whose "forget" term is 1, 2, 3, and so on, and which change nothing."""
    weight = next(model.parameters())
    for number in count(1):
        yield lambda number=number: {
            "forget": 0 * weight.sum() + number,
            "retain": 0 * weight.sum() + 0.5,
        }


def train(scripted, aucs, steps_per_round, num_steps, data=None, retained=(), stop="auc"):
    scripted(*aucs, retained=retained)
    model, trainer = tiny_classifier(), tiny_trainer()
    trainer.start(model, 1e-3)
    rounds = Rounds(stop, steps_per_round, num_steps)
    found = train_in_rounds(model, data or tiny_data(), trainer, counted_steps(model), rounds)
    assert found is model
    return trainer


def test_rounds_go_on_until_the_rule_is_met(scripted):
    """Looks at 0, 3, 6 and 9 steps, of which the last is the first at 0.5."""
    trainer = train(scripted, [0.9, 0.8, 0.6, 0.5], steps_per_round=3, num_steps=100)
    assert trainer.steps == 9
    assert [line["round"] for line in trainer.rounds] == [0, 1, 2, 3]
    assert [line["steps"] for line in trainer.rounds] == [0, 3, 6, 9]


def test_a_round_tells_the_mean_of_each_term(scripted):
    """Steps 1 to 3: (1 + 2 + 3) / 3 = 2; steps 4 to 6: 5."""
    trainer = train(scripted, [0.9, 0.8, 0.5], steps_per_round=3, num_steps=100)
    told = [line["loss"] for line in trainer.rounds]
    assert told == [{}, {"forget": 2.0, "retain": 0.5}, {"forget": 5.0, "retain": 0.5}]


def test_rounds_end_with_the_last_step(scripted):
    """7 steps in rounds of 3: 3, 3 and 1, although the rule is never met."""
    trainer = train(scripted, [0.9] * 4, steps_per_round=3, num_steps=7)
    assert [line["steps"] for line in trainer.rounds] == [0, 3, 6, 7]


def test_no_step_is_taken_where_the_rule_is_met_from_the_start(scripted):
    trainer = train(scripted, [0.4], steps_per_round=3, num_steps=7)
    assert trainer.steps == 0
    assert len(trainer.rounds) == 1


def test_the_loss_of_a_lone_record_is_in_no_line(scripted, monkeypatch):
    """A set of one: its loss is the record's own. The set's score and the other terms stay."""
    lines = []
    monkeypatch.setattr(Trainer, "log_round", lambda _, line: lines.append(line))
    train(scripted, [0.9, 0.5], 2, 7, data=tiny_data(sizes=(1, 6, 4)))
    assert [line["forget_loss"] for line in lines] == [None, None]
    assert [set(line["loss"]) for line in lines] == [set(), {"retain"}]
    assert lines[0]["holdout_loss"] == 1.0
    assert "records" not in lines[0]


def test_taking_no_steps_tells_nothing():
    assert take_steps(iter([]), 0, tiny_trainer()) == {}


# The best round


@pytest.fixture
def copies(monkeypatch):
    """What was done with the weights: the round of each that were kept, and a going back."""
    done = []
    monkeypatch.setattr(Trainer, "keep", lambda self, _: done.append(self.rounds[-1]["round"]))
    monkeypatch.setattr(Trainer, "restore", lambda *_: done.append("restored"))
    return done


@pytest.mark.parametrize(
    ("aucs", "retained", "done"),
    [
        # Least left to forget, and the last is further from it: back to round 2.
        ([0.9, 0.8, 0.6, 0.7], [0.9] * 4, [1, 2, "restored"]),
        # Round 2 is below 0.9 - 0.02, so that it does not count.
        ([0.9, 0.8, 0.6, 0.7], [0.9, 0.9, 0.875, 0.89], [1, 3]),
        # As much left in both: the one that classified retained records better.
        ([0.9, 0.8, 0.8, 0.8], [0.9, 0.89, 0.9, 0.89], [1, 2, "restored"]),
        # None classified them well enough: the last stays.
        ([0.9, 0.8, 0.6, 0.7], [0.9, 0.5, 0.5, 0.5], []),
        # A figure that is no number is never the best.
        ([0.9, math.nan, 0.8, math.nan], [0.9] * 4, [2, "restored"]),
    ],
)
def test_without_a_stop_the_best_round_stays(scripted, copies, aucs, retained, done):
    trainer = train(scripted, aucs, 2, 6, retained=retained)
    assert copies == done
    assert trainer.details.get("restored_round") == (done[-2] if "restored" in done else None)


def test_where_the_rule_stops_the_run_the_last_round_stays(scripted, copies):
    trainer = train(scripted, [0.9, 0.6, 0.5], 2, 6, retained=[0.9, 0.9, 0.5])
    assert copies == [1]
    assert "restored_round" not in trainer.details


def test_a_rule_of_never_gives_the_last_round(scripted, copies):
    trainer = train(scripted, [0.9, 0.6, 0.8, 0.8], 2, 6, stop="never")
    assert copies == []
    assert trainer.details == {}


def test_the_drop_that_is_allowed_is_that_of_the_data(scripted, copies):
    data = replace(tiny_data(), score_drop=0.5)
    train(scripted, [0.9, 0.6, 0.8, 0.8], 2, 6, retained=[0.9, 0.5, 0.5, 0.5], data=data)
    assert copies == [1, "restored"]


def test_weights_are_those_of_the_best_round(scripted):
    """A real step each; the second round's weights are gone."""
    scripted(0.9, 0.6, 0.8)
    model, trainer = tiny_classifier(), tiny_trainer()
    trainer.start(model, 1e-2)
    weight, seen = next(model.parameters()), []

    def steps():
        while True:
            yield lambda: {"retain": weight.square().sum()}
            seen.append(weight.detach().clone())

    train_in_rounds(model, tiny_data(), trainer, steps(), Rounds("auc", 1, 2))
    assert torch.equal(weight, seen[0])
    assert trainer.details["restored_round"] == 1


# A real look


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_a_set_against_itself_is_even(family):
    data = replace(tiny_data(family), forget=labelled(6, family), holdout=labelled(6, family))
    state = Watch("auc", data).examine(tiny_classifier(family), 0, 0)
    assert state.mia_loss_auc == 0.5
    assert state.forget_loss == state.holdout_loss
    assert state.forget_score == state.holdout_score
    assert all(Watch(stop, data).done(state) for stop in ("score", "loss", "auc"))
