"""The line itself; its stages have tests of their own, and test_api.py walks all of it."""

from unlearner.pipeline.findings import training_notes
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
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
