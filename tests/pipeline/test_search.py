"""The search of settings: proposals, budget, how trials are judged, and the model it leaves."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from pydantic import NonNegativeFloat
from test_lm_methods import POOL, QUESTIONS, pretrained, tokenized
from test_search_scores import FLOOR, LEVEL, look
from torch import nn

from conftest import tiny_tokenizer
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.inference.language_model import Questions
from unlearner.methods.base import Method
from unlearner.methods.retrain import Retrain
from unlearner.pipeline import search
from unlearner.pipeline.search import Searched, Trial, read_trials, space_of
from unlearner.settings import (
    CriteriaSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    SearchSettings,
    TrainingSettings,
)
from unlearner.training.checkpoints import TrainingError
from unlearner.training.data import Recipe, UnlearningData

# A method whose rounds are written down


class Scripted(Method):
    """Spoils the model, and looks as `rounds` says, by its settings."""

    searched: ClassVar = {"retain_weight": (0.25, 8.0)}
    rounds: ClassVar = staticmethod(lambda _: [look(), look(0.3, 1.05, True)])
    calls: ClassVar[list[dict]] = []

    learning_rate: float = 0.01
    retain_weight: NonNegativeFloat = 1.0

    def unlearn(self, model, data, trainer):  # noqa: ARG002
        self.calls.append(self.model_dump(include={"learning_rate", "retain_weight"}))
        with torch.no_grad():
            model.weight.add_(1.0)
        for one in type(self).rounds(self):
            if isinstance(one, Exception):
                raise one
            trainer.evaluate_round(lambda one=one: one)
            trainer.log_round({})
        return model


def scripted(rounds):
    """A method like it with rounds of its own, and calls of its own."""
    return type("Other", (Scripted,), {"rounds": staticmethod(rounds), "calls": []})


def by_rate(best):
    """The nearer the rate is to the best, the less damage: 1 + 0.02 |log2(rate / best)|."""

    def rounds(method):
        ratio = 1 + 0.02 * abs(math.log2(method.learning_rate / best))
        return [look(), look(0.3, ratio, True, el_10=0.0, es=0.0)]

    return scripted(rounds)


def config(method, training=None, **settings):
    return RunConfig(
        ModelSettings(),
        DataSettings(),
        method,
        training or TrainingSettings(device="cpu"),
        EvaluationSettings(),
        CriteriaSettings(),
        SearchSettings(**{"trials": 5, **settings}),
    )


def data_of(level=LEVEL, floor=FLOOR):
    forget = tokenized("forget", QUESTIONS)
    return UnlearningData(
        tiny_tokenizer(),
        forget,
        tokenized("pool", POOL),
        tokenized("retain", POOL),
        None,
        level,
        Questions(prompt_start=0.75),
        floor,
        partners=tokenized("holdout", POOL),
        recipe=Recipe(pretrained(), {}),
    )


def searched(method, past=None, said=None, **settings):
    """The result, and the model's weight, which a trial spoils."""
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    say = (lambda _: None) if said is None else said.append
    found = search.search(
        config(method, **settings), SimpleNamespace(model=model), data_of(), past, say
    )
    assert torch.equal(model.weight, before)
    return found


def rates(found):
    return [trial.settings["learning_rate"] for trial in found.trials]


# Proposals


def test_the_first_trial_is_of_the_settings_given_and_all_are_within_reach():
    """Rates from 0.01 / 4 to 0.01 * 4; weights from 0.25 to 8, as the method says."""
    found = searched(by_rate(0.02)(), rate_factor=4.0)
    assert found.trials[0].settings == {"learning_rate": 0.01, "retain_weight": 1.0}
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4]
    assert all(0.0025 <= rate <= 0.04 for rate in rates(found))
    assert all(0.25 <= trial.settings["retain_weight"] <= 8 for trial in found.trials)
    assert len(set(rates(found))) == 5


def test_the_method_found_is_that_of_the_best_trial():
    found = searched(by_rate(0.02)(max_epochs=7))
    assert found.reached
    assert found.best.score == min(trial.score for trial in found.trials)
    assert found.method.learning_rate == found.best.settings["learning_rate"]
    assert found.method.max_epochs == 7
    assert found.notes() == ()


def test_a_search_closes_in_on_the_best_rate():
    """The given rate is an eighth of the best, 1 + 0.02 * 3; within a factor of two it is 1.02."""
    found = searched(by_rate(0.08)(), trials=10)
    assert found.trials[0].score == pytest.approx(1.06)
    assert found.best.score < 1.02


def test_no_settings_are_tried_twice():
    """The best is the corner of both ranges, rate 0.08 and weight 8, where it would stay."""

    def rounds(method):
        far = math.log2(0.08 / method.learning_rate) + math.log2(8 / method.retain_weight)
        return [look(), look(0.3, 1 + 0.01 * far, True, el_10=0.0, es=0.0)]

    found = searched(scripted(rounds)(), trials=10)
    assert found.best.settings == pytest.approx({"learning_rate": 0.08, "retain_weight": 8.0})
    tried = [
        tuple(round(math.log(value), 2) for value in trial.settings.values())
        for trial in found.trials
    ]
    assert len(set(tried)) == 10


def test_the_same_seed_proposes_the_same_and_another_does_not():
    one, two = by_rate(0.02), by_rate(0.02)
    assert rates(searched(one())) == rates(searched(two()))
    other = TrainingSettings(device="cpu", seed=1)
    model = SimpleNamespace(model=nn.Linear(2, 2))
    again = search.search(config(one(), other), model, data_of(), None, lambda _: None)
    assert rates(again)[1:] != rates(searched(two()))[1:]


def test_a_given_value_outside_the_usual_range_widens_it():
    model = SimpleNamespace()
    space = space_of(Scripted(retain_weight=20.0), model, SearchSettings(rate_factor=2.0))
    assert space == {"learning_rate": (0.005, 0.01, 0.02), "retain_weight": (0.25, 20.0, 20.0)}


def test_a_weight_of_zero_was_switched_off_and_stays_so():
    found = searched(by_rate(0.02)(retain_weight=0.0))
    assert {*found.trials[1].settings} == {"learning_rate"}
    assert found.method.retain_weight == 0.0
    assert len(set(rates(found))) == 5


def test_where_nothing_can_differ_the_first_trial_is_the_only_one():
    method = by_rate(0.02)
    assert len(searched(method(retain_weight=0.0), rate_factor=1.0).trials) == 1


def test_a_model_that_is_made_anew_or_divided_has_no_search(monkeypatch):
    retrain = config(Retrain(pretrained="x"))
    with pytest.raises(UserError, match="--search: method retrain makes the model anew"):
        search.check_search(retrain)
    search.check_search(replace(retrain, search=SearchSettings()))
    monkeypatch.setattr("unlearner.models.sharding.wanted", lambda: True)
    with pytest.raises(UserError, match="--search: not for a model that is divided"):
        search.check_search(config(Scripted()))
    search.check_search(replace(config(Scripted()), search=SearchSettings()))


# How a trial ends


def one_trial(*rounds, method=None, **settings):
    some = (method or scripted(lambda _: list(rounds)))()
    return searched(some, trials=1, **settings).trials[0]


def test_a_trial_is_judged_by_its_last_round():
    trial = one_trial(look(), look(0.3, 1.2, True), look(0.35, 1.04, True, el_10=0.05, es=0.1))
    assert (trial.status, trial.score, trial.rounds) == ("reached", 1.04, 2)
    assert trial.figures == {"ma": 0.35, "el_10": 0.05, "es": 0.1, "kept_ratio": 1.04}


def test_a_trial_that_went_back_to_an_earlier_round_is_judged_by_that():
    class Restored(Scripted):
        def unlearn(self, model, data, trainer):
            super().unlearn(model, data, trainer)
            trainer.details["restored_round"] = 1

        rounds = staticmethod(lambda _: [look(), look(0.5, 1.02, es=0.2), look(0.4, 1.3, es=0.2)])

    trial = one_trial(method=Restored)
    assert (trial.status, trial.rounds) == ("not reached", 2)
    assert (trial.figures["ma"], trial.figures["kept_ratio"]) == (0.5, 1.02)


def test_a_trial_that_brings_nothing_for_some_rounds_is_cut_short_and_judged_by_its_best():
    """Patience 2: 0.9, 0.5, then 0.6 and 0.499, a gain below 0.01, and no fifth look.

    0.499 has 0.099 / 0.5 = 0.198 left where 0.5 has 0.2, for MA and for the two left out.
    """
    rounds = [look(ma) for ma in (0.9, 0.5, 0.6, 0.499, 0.3)]
    trial = one_trial(*rounds, patience=2)
    assert (trial.status, trial.figures["ma"], trial.rounds) == ("hopeless", 0.499, 3)


def test_a_trial_of_a_run_that_never_stops_is_judged_by_its_last_round_as_the_run_is():
    """Suppressed in the second round and ruined since: that run gives the ruin."""
    rounds = [look(), look(0.3, 1.02, True, el_10=0.0, es=0.0), *[look(0.0, 3.0)] * 4]

    class Never(scripted(lambda _: rounds)):
        stop: str = "never"

    trial = one_trial(method=Never, patience=2)
    assert (trial.status, trial.figures["kept_ratio"], trial.rounds) == ("not reached", 3.0, 5)


def test_a_gain_within_the_patience_lets_it_go_on():
    """0.48 is a gain over 0.5 in the last of the two rounds."""
    rounds = [look(ma) for ma in (0.9, 0.5, 0.6, 0.48, 0.6)]
    trial = one_trial(*rounds, patience=2)
    assert (trial.status, trial.rounds) == ("not reached", 4)


@pytest.mark.parametrize("rounds", [[], [TrainingError("not finite")], [look(), TrainingError("")]])
def test_a_trial_without_finite_numbers_has_failed_and_the_search_goes_on(rounds):
    """The second and third trial are fine; one that never looked has shown nothing."""
    fine = [look(), look(0.3, 1.05, True)]
    method = scripted(lambda some: rounds if some.learning_rate == 0.01 else fine)
    found = searched(method(), trials=3)
    assert [trial.status for trial in found.trials] == ["failed", "reached", "reached"]
    assert found.trials[0].score == search.FAILED
    assert found.best.number == 1


def test_a_search_of_failures_only_still_has_an_end():
    found = searched(scripted(lambda _: [TrainingError("")])(), trials=4)
    assert [trial.status for trial in found.trials] == ["failed"] * 4
    assert found.best.number == 0


def test_an_infinite_perplexity_is_null_in_a_report():
    found = searched(scripted(lambda _: [look(), look(0.3, math.inf, True)])(), trials=1)
    assert found.trials[0].score == search.FAILED
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["trials"][0]["kept_ratio"] is (
        None
    )


def test_any_other_error_ends_the_search_and_the_model_is_the_target():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    some = config(scripted(lambda _: [look(), ValueError("a fault")])())
    with pytest.raises(ValueError, match="a fault"):
        search.search(some, SimpleNamespace(model=model), data_of(), None, print)
    assert torch.equal(model.weight, before)


def test_where_none_reached_it_the_nearest_is_taken_and_the_report_says_so():
    """The nearer to a rate of 0.02, the less MA is left."""

    def rounds(method):
        return [look(), look(0.5 + 0.1 * abs(math.log2(method.learning_rate / 0.02)))]

    found = searched(scripted(rounds)())
    assert not found.reached
    assert found.best.figures["ma"] == min(trial.figures["ma"] for trial in found.trials)
    (note,) = found.notes()
    assert note.startswith("No settings of the 5 tried reached the criteria")
    assert f"trial {found.best.number}" in note
    assert found.to_json()["reached"] is False


def test_each_trial_is_told_as_it_ends():
    said = []
    searched(by_rate(0.02)(), trials=2, said=said)
    assert len(said) == 2
    assert "trial 0: learning_rate 0.01, retain_weight 1: reached, MA 0.300" in said[0]
    searched(scripted(lambda _: [TrainingError("")])(), trials=1, said=said)
    assert said[2].endswith("trial 0: learning_rate 0.01, retain_weight 1: failed")


# The budget, and what was tried before


def test_finished_trials_are_not_repeated_and_the_search_goes_on_as_if_never_cut(tmp_path):
    """Cut off after two of five: three are run, and all five are those of the whole search."""
    whole = by_rate(0.02)
    expected = searched(whole())
    assert len(whole.calls) == 5
    first, second = by_rate(0.02), by_rate(0.02)
    past = tmp_path / "search.jsonl"
    searched(first(), past, trials=2)
    found = searched(second(), past)
    assert len(second.calls) == 3
    assert [first.calls[0], first.calls[1], *second.calls] == whole.calls
    assert [replace(t, seconds=0) for t in found.trials] == (
        [replace(t, seconds=0) for t in expected.trials]
    )
    assert read_trials(past) == list(found.trials)
    assert [path.name for path in tmp_path.iterdir()] == ["search.jsonl"]


def test_a_finished_search_runs_nothing(tmp_path):
    past, method = tmp_path / "search.jsonl", by_rate(0.02)
    one = searched(method(), past)
    two = searched(method(), past)
    assert len(method.calls) == 5
    assert (two.method, two.trials) == (one.method, one.trials)


def test_no_trial_begins_after_the_time_is_over_but_the_first(monkeypatch, tmp_path):
    """Each takes 10 s of a clock: at 25 s, after the third, it is over; so it is when resumed."""
    clock = {"now": 0.0}
    monkeypatch.setattr("unlearner.pipeline.search.time.perf_counter", lambda: clock["now"])

    def rounds(_):
        clock["now"] += 10.0
        return [look(), look(0.3, 1.05, True)]

    past = tmp_path / "search.jsonl"
    assert len(searched(scripted(rounds)(), past, trials=2, seconds=25.0).trials) == 2
    clock["now"] = 1000.0
    found = searched(scripted(rounds)(), past, seconds=25.0)
    assert [trial.seconds for trial in found.trials] == [10.0] * 3
    assert found.seconds == 30.0
    assert len(searched(scripted(rounds)(), seconds=0.001).trials) == 1


FIGURES = {"ma": 0.3, "el_10": None, "es": 0.1, "kept_ratio": 1.05}


def test_what_is_kept_of_a_search_is_what_was_found():
    some = (Trial(0, {"learning_rate": 0.1}, "reached", 1.05, dict(FIGURES), 4, 2.0),)
    assert Searched(Scripted(), some).to_json() == {
        "reached": True,
        "chosen": 0,
        "trials": [
            {
                "number": 0,
                "settings": {"learning_rate": 0.1},
                "status": "reached",
                "score": 1.05,
                **FIGURES,
                "rounds": 4,
                "seconds": 2.0,
            }
        ],
    }
    assert Trial.of_json(some[0].to_json()) == some[0]
