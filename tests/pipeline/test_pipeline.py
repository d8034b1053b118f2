"""The line itself; its stages have tests of their own, and test_api.py walks all of it."""

from unlearner.pipeline.pipeline import restored
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer


def test_a_result_from_an_earlier_round_is_told():
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    assert restored(trainer) == ()
    trainer.details["restored_round"] = 7
    assert "that of round 7" in restored(trainer)[0]
