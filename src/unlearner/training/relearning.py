"""Relearning: what comes back when a model is trained on kept text alone.

Nobody has to hold the forgotten records for this attack: whoever goes on fine-tuning a model does
it without knowing. The model is as before afterwards.

Reference: Hu et al. (2024), arXiv:2406.13356, whose attacker has some of the records; here none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from transformers import PreTrainedModel

from unlearner.data.batches import Deck, share_of
from unlearner.data.windows import TokenizedSet
from unlearner.models import adapters, sharding
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import AUTO_RATE_TIMES_WIDTH, share_of_peak
from unlearner.training.log import Log
from unlearner.training.losses import mean_losses
from unlearner.training.trainer import Trainer, resolve_learning_rate

STEPS, BATCH_SIZE = 50, 8


@contextmanager
def relearned(
    model: PreTrainedModel, kept: TokenizedSet, settings: TrainingSettings, steps: int = STEPS
) -> Iterator[PreTrainedModel]:
    """The model after so many steps on kept text, at the rate and schedule of `finetune`.

    Args:
        settings: Those of the run, of which adapters are left out.
    """
    plain = settings.model_copy(update={"lora_rank": 0, "checkpoint_every": "never"})
    trainer, deck = Trainer(plain, Log(None)), Deck()
    windows = [window.with_end() for window in kept.windows if window.scored.any()]
    before = adapters.own_weights(model)
    rate = resolve_learning_rate("auto", model, AUTO_RATE_TIMES_WIDTH)
    trainer.start(model, rate, schedule=lambda step: share_of_peak(step, steps))
    try:
        for _ in range(steps):
            drawn = deck.draw(BATCH_SIZE, len(windows), trainer.generator)
            batch = share_of([windows[place] for place in drawn], sharding.device_of(model))
            trainer.step(partial(mean_losses, model, {"loss": batch}))
        trainer.optimiser.zero_grad(set_to_none=True)
        model.eval()
        yield model
    finally:
        with torch.no_grad():
            adapters.set_own_weights(model, before)
        model.eval()
