"""The attack that trains on kept text."""

import torch
from test_lm_methods import POOL, QUESTIONS, tokenized, weights

import relearning
from conftest import tiny_model
from unlearner.data.batches import collate
from unlearner.inference.reference import likelihoods
from unlearner.settings import TrainingSettings


def test_within_the_block_kept_text_is_learned_and_behind_it_the_weights_are_as_before():
    model, kept = tiny_model("llama"), tokenized("retain", (*POOL, *QUESTIONS))
    before = weights(model).clone()
    losses = []
    with torch.no_grad():
        losses.append(likelihoods(model, collate(kept.windows)).loss().item())
    with relearning.relearned(model, kept, TrainingSettings(device="cpu"), 20):
        assert not model.training
        assert not any(weight.grad is not None for weight in model.parameters())
        with torch.no_grad():
            losses.append(likelihoods(model, collate(kept.windows)).loss().item())
    assert losses[1] < losses[0]
    assert torch.equal(weights(model), before)
