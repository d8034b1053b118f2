"""The line itself; its stages have tests of their own, and test_api.py walks all of it."""

import json

import pytest
import torch

from unlearner.config import RunConfig
from unlearner.evaluation.intervals import Value
from unlearner.pipeline.advice import new_text, training_again
from unlearner.pipeline.findings import training_notes
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.memory import ResourcePlan
from unlearner.training.trainer import Trainer


def test_a_result_from_an_earlier_round_is_told():
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    assert training_notes(trainer, writes_text=True) == ()
    trainer.details["restored_round"] = 7
    (text,) = training_notes(trainer, writes_text=True)
    assert "that of round 7" in text
    assert "other text" in text
    (text,) = training_notes(trainer, writes_text=False)
    assert "that of round 7" in text
    assert "records to be kept" in text


def test_of_a_model_repaired_behind_an_earlier_round_it_is_not_said_that_it_was_saved():
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    trainer.details["repaired_round"] = 3
    (text,) = training_notes(trainer, writes_text=False)
    assert text.startswith("The repair steps went on from the model of round 3")


def plan(seconds_per_epoch):
    return ResourcePlan(seconds_per_epoch, 10, {}, torch.device("cpu"), {}, ignored=False)


@pytest.fixture
def trained_in_a_minute(tmp_path):
    (tmp_path / "provenance.json").write_text(json.dumps({"seconds": 60.0}), "utf-8")
    return str(tmp_path)


def test_where_training_took_no_longer_than_a_run_may_it_is_advised(trained_in_a_minute):
    """Ten epochs of 6.5 s against a minute; of 5.5 s they are quicker."""
    config = RunConfig.from_sections({"model": {"name": trained_in_a_minute}})
    (advice,) = training_again(config, plan(6.5))
    assert advice.startswith("This model was trained in 60 s, and a run may take 65 s")
    assert training_again(config, plan(5.5)) == ()
    assert training_again(config, plan(float("nan"))) == ()


def test_of_a_model_of_unknown_making_or_trained_anew_anyway_it_is_not(trained_in_a_minute):
    sections = {"model": {"name": trained_in_a_minute}, "method": {"name": "retrain"}}
    assert training_again(RunConfig.from_sections(sections), plan(6.5)) == ()
    assert training_again(RunConfig.from_sections({"model": {"name": "hub/id"}}), plan(6.5)) == ()


def test_retained_text_that_the_model_does_not_know_is_told_of():
    """No better known than unseen text: at the same perplexity and above."""

    def value_of(number):
        return Value(number, number, number, 3)

    def scores(**found):
        return {role: {"perplexity": value_of(value)} for role, value in found.items()}

    (advice,) = new_text(scores(retain=99.73, holdout=93.2, forget=1.1))
    assert "(perplexity 99.7 and 93.2)" in advice
    assert len(new_text(scores(retain=8.0, holdout=8.0))) == 1
    assert new_text(scores(retain=7.9, holdout=8.0)) == ()
    assert new_text(scores(retain=7.9)) == new_text(scores(holdout=7.9)) == ()
    assert new_text(scores(retain=float("nan"), holdout=8.0)) == ()
    assert new_text({"retain": {"f1_macro": value_of(1.0)}}) == ()
