"""Some steps of ordinary learning on a model, looked at in between and taken back."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from transformers import PreTrainedModel

from unlearner.data.labelled import LabelledSet
from unlearner.data.windows import TokenizedSet
from unlearner.models import adapters
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    FinetuneSettings,
    batches_of,
    begin,
)
from unlearner.training.log import Log
from unlearner.training.losses import mean_losses
from unlearner.training.trainer import Trainer

STEPS = 50

# When the model is looked at, before the first step and behind the last.
LOOKS = (0, 10, 25, STEPS)


@contextmanager
def relearned(
    settings: TrainingSettings,
    model: PreTrainedModel,
    kept: TokenizedSet | LabelledSet,
    count: int = STEPS,
) -> Iterator[Iterator[int]]:
    """Gives 0 and then the number of each step, once it is taken; the model is as before behind it.

    Args:
        settings: Those of the run, adapters included.
        count: Steps in all.
    """
    trainer = Trainer(settings.model_copy(update={"checkpoint_every": "never"}), Log(None))
    own = FinetuneSettings() if isinstance(kept, TokenizedSet) else ClassifierFinetuneSettings()
    records = kept if isinstance(kept, TokenizedSet) else kept.examples
    before = {} if settings.lora_rank else adapters.own_weights(model)

    def steps() -> Iterator[int]:
        _, batches = batches_of(records)
        begin(model, own, trainer, records, count)
        yield 0
        while trainer.steps < count:
            for batch, _ in batches(model, own.batch_size, trainer.generator):
                trainer.step(partial(mean_losses, model, {"loss": batch}))
                trainer.optimiser.zero_grad(set_to_none=True)
                model.eval()
                yield trainer.steps
                if trainer.steps == count:
                    return

    try:
        yield steps()
    finally:
        if trainer.adapter is not None:
            adapters.detach(trainer.adapter)
        else:
            with torch.no_grad():
                adapters.set_own_weights(model, before)
        model.zero_grad(set_to_none=True)
        model.eval()
