"""Sparsity-aware unlearning: fine-tuning on the remaining data under an l1 penalty."""

import math
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch.nn.functional import softshrink
from torch.optim import Optimizer
from transformers import PreTrainedModel

from unlearner.errors import UserError
from unlearner.methods.base import Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.training.classifier_loop import (
    Rounds,
    Stop,
    loss_steps,
    start_training,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData, passes
from unlearner.training.losses import Parts, mean_losses
from unlearner.training.trainer import Terms, Trainer


class L1Sparse(Method):
    r"""Go on learning the remaining records while weights that they do not need fade.

    .. math::
        L_t = CE(retain) + \gamma_t \|\theta\|_1, \quad
        \gamma_t = \gamma \Big( 1 - \frac{t}{n} \Big)

    with CE the mean cross-entropy in nats over all labelled positions of a step, \theta all weights
    of the model, and t the steps done of n. The penalty is taken behind each step on CE, as
    soft-thresholding: with the learning rate \eta every weight moves by \eta \gamma_t towards 0,
    and stays there once it has come to it.

    Reference: Jia et al. (2023), arXiv:2304.04934, where a penalty that falls linearly to 0 is the
    one of three schedules that is used.
    Differs from the paper: soft-thresholding in place of the penalty's gradient, which AdamW would
    scale to whole steps of its own on every weight that the records leave alone, such as the
    embeddings of other words; so weights can be exactly 0. gamma falls with every step, in the
    published code with every epoch; its values go with SGD, at rates about a hundred times AdamW's,
    so that ours is larger. Where the rule to stop ends a run, gamma has not come to 0.

    Args:
        batch_size: Remaining samples of a step.
        max_epochs: Passes over the remaining samples at most.
        sparsity_weight: gamma.
        max_gradient_norm: Gradients of CE are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations, or "epoch".
    """

    label: ClassVar[str] = "l1-sparse fine-tuning"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    reads_forget: ClassVar[bool] = False

    batch_size: PositiveInt = 32
    max_epochs: PositiveInt = 5
    sparsity_weight: NonNegativeFloat = 0.1
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt | Literal["epoch"] = "epoch"

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        """The cross-entropy alone: the penalty is no part of a step's gradient."""
        return mean_losses(model, {"retain": batch["retain"]})

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        if trainer.settings.lora_rank:
            raise UserError(
                "training.lora_rank: method l1_sparse makes the model's own weights sparse, and "
                "adapters that fade lead back to the target model; leave it out"
            )
        model = start_training(self, model, trainer)
        epoch = math.ceil(len(data.retain.examples) / self.batch_size)
        num_steps, first = epoch * self.max_epochs, trainer.steps

        def fade(optimiser: Optimizer, *_: object) -> None:
            weight = self.sparsity_weight * (1 - (trainer.steps - first) / num_steps)
            shrink_weights(optimiser, weight)

        batches = passes(data.retain.examples, self.batch_size, trainer.generator)
        lessons = ({"retain": some} for some in batches)
        steps = loss_steps(trainer, lessons, partial(self.loss, model))
        length = epoch if self.steps_per_round == "epoch" else self.steps_per_round
        hook = trainer.optimiser.register_step_post_hook(fade)
        try:
            return train_in_rounds(
                model, data, trainer, steps, Rounds(self.stop, length, num_steps)
            )
        finally:
            hook.remove()


@torch.no_grad()
def shrink_weights(optimiser: Optimizer, sparsity_weight: float) -> None:
    """Move every weight of the optimiser towards 0 by its learning rate times this, not past it."""
    for group in optimiser.param_groups:
        for weight in group["params"]:
            weight.copy_(softshrink(weight, group["lr"] * sparsity_weight))
