"""When a run towards the level of unseen text ends, from either side, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_lm_methods import LOW
from test_quantile_matching import data

from conftest import tiny_model
from unlearner.methods.quantile_matching import QuantileMatching
from unlearner.settings import TrainingSettings
from unlearner.training.language_loop import Drawing
from unlearner.training.level_loop import is_reached
from unlearner.training.log import Log
from unlearner.training.stop_rule import RoundState
from unlearner.training.trainer import Trainer

THERE = RoundState(
    round=3,
    active=(),
    values={},
    kept_perplexity=2.0,
    kept_ratio=1.0,
    at_level=True,
    suppressed=True,
    excess=0.0,
    seconds=0.0,
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"suppressed": False}, False),
        ({"mark": 0.01}, False),  # told from unseen records, from either side
        ({"kept_ratio": 1.02}, True),
        ({"kept_ratio": 1.03}, False),  # above `recovered_at`
        ({"unseen_ratio": 1.1}, True),
        ({"unseen_ratio": 1.11}, False),  # above the verdict's limit on unseen text
    ],
)
def test_a_run_is_done_once_all_of_it_is_within_limits(changes, expected):
    given = replace(data(), utility_floor=1.1, unseen_floor=1.1)
    assert is_reached(replace(THERE, **changes), given, 1.02) is expected


def test_the_verdicts_limit_on_retained_text_holds_below_recovered_at_too():
    assert is_reached(replace(THERE, kept_ratio=1.05), replace(data(), utility_floor=1.1), 1.2)
    assert not is_reached(replace(THERE, kept_ratio=1.05), replace(data(), utility_floor=1.01), 1.2)


def test_quantile_matching_goes_on_while_unseen_text_is_less_likely_than_the_verdict_allows():
    """Everything else is within limits after ten steps, as it stands."""
    easy = replace(LOW, ma=1.0, el_10=1.0, es=1.0, worst_ma=1.0, worst_el_10=1.0)
    method = QuantileMatching(learning_rate=1e-9, min_steps=20, max_epochs=1, steps_per_round=10)
    for floor, steps in ((math.inf, 10), (0.5, 20)):
        trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
        given = replace(data(easy, unseen=None), unseen_floor=floor)
        method.unlearn(tiny_model("llama"), given, trainer)
        assert trainer.steps == steps


def test_a_window_of_unseen_text_without_a_label_that_counts_is_in_no_step():
    """Such as one wholly within a prompt: a step of these alone has no mean."""
    partners = data().partners
    held = partners.windows[0]
    silent = replace(held, scored=np.zeros_like(held.scored))
    given = data(partners=replace(partners, windows=(silent, *partners.windows)))
    drawing = Drawing(QuantileMatching(), given, {}, torch.Generator())
    assert [window.id for window in drawing.windows["holdout"]] == [held.id]
    assert all(window.scored.any() for window in drawing.windows["holdout"])
