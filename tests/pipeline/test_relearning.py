"""Relearning: what is trained, what is looked at, and that the model is as before behind it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_lm_methods import POOL, QUESTIONS, tokenized, weights

from conftest import tiny_model
from unlearner.config import RunConfig
from unlearner.data.batches import collate
from unlearner.inference.reference import likelihoods
from unlearner.models.adapters import has_adapters
from unlearner.models.loading import Loaded
from unlearner.pipeline import relearning
from unlearner.settings import TrainingSettings

SETTINGS = TrainingSettings(device="cpu")


@pytest.fixture
def kept():
    return tokenized("retain", (*POOL, *QUESTIONS))


class Family:
    """Remembers the loss of kept text, and the weights, at every look."""

    def __init__(self, kept):
        self.kept, self.seen = kept, []

    def infer_quickly(self, loaded, _sets, _config):
        assert not loaded.model.training
        assert not any(weight.grad is not None for weight in loaded.model.parameters())
        loss = loss_of(loaded.model, self.kept)
        self.seen.append(weights(loaded.model).clone())
        return {"forget": [loss]}

    def forget_figures(self, _loaded, answers, _sets):
        return {"ma": answers["forget"][0], "mia_loss_auc": 0.5}


@torch.no_grad()
def loss_of(model, kept):
    return likelihoods(model, collate(kept.windows)).loss().item()


def measured(kept, *, method="icu", retain=True, limit=1e6, training=None):
    """What is found, the family that looked, and the model before and after."""
    config = RunConfig.from_sections(
        {
            "model": {"name": "x"},
            "method": {"name": method},
            "training": {"device": "cpu", **(training or {})},
        }
    )
    family, model = Family(kept), tiny_model("llama")
    before = weights(model).clone()
    sets = {"retain": kept} if retain else {}
    prepared = SimpleNamespace(family=family, get=sets.get)
    said = []
    answers = {"forget": [loss_of(model, kept)]}
    found = relearning.measure_relearning(
        config, prepared, Loaded(model, None, "x"), sets, answers, limit, said.append
    )
    return found, family, before, model


@pytest.mark.parametrize("training", [{}, {"lora_rank": 2}])
def test_kept_text_is_learned_and_then_the_model_is_as_before(kept, training):
    found, family, before, model = measured(kept, training=training)
    assert found["steps"] == [0, 10, 25, 50]
    losses = found["figures"]["ma"]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert found["figures"]["mia_loss_auc"] == [0.5] * 4
    assert len(family.seen) == 3  # before the first step it is what the report has measured
    assert not has_adapters(model)
    assert torch.equal(weights(model), before)
    assert all(weight.requires_grad for weight in model.parameters())


def test_it_is_left_out_where_it_would_take_over_a_tenth_of_the_run(kept, monkeypatch):
    """A clock by which every glance takes a second: 50 steps would take 100, or more."""
    clock = iter(range(10**6))
    monkeypatch.setattr(relearning, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found, family, before, model = measured(kept, limit=relearning.seconds_for(400))
    assert found == {"skipped": "it would take 100 s, over a tenth of the run"}
    assert not family.seen
    assert torch.equal(weights(model), before)
    clock = iter(range(10**6))
    assert "figures" in measured(kept, limit=relearning.seconds_for(1000))[0]


def test_it_is_left_out_where_memory_is_short_but_not_with_adapters(kept, monkeypatch):
    """16 bytes a weight are needed."""
    size = 16 * sum(weight.numel() for weight in tiny_model("llama").parameters())
    monkeypatch.setattr(relearning.memory, "room_on", lambda _: size - 1)
    assert measured(kept)[0]["skipped"].startswith("it needs")
    assert "figures" in measured(kept, training={"lora_rank": 2})[0]
    monkeypatch.setattr(relearning.memory, "room_on", lambda _: size)
    assert "figures" in measured(kept)[0]


def test_it_is_left_out_without_records_to_keep_or_where_nothing_was_learned(kept):
    assert measured(kept, retain=False)[0] == {"skipped": "there are no records to retain"}
    found = measured(kept, method="retrain")[0]
    assert found == {"skipped": "the model has never learned the records"}
