"""SalUn: random labels, learned by the weights alone on which the records depend most."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from unlearner import processes
from unlearner.data.labelled import Example
from unlearner.methods.base import Method
from unlearner.methods.random_labels import relabel
from unlearner.metrics.base import CLASSIFIERS
from unlearner.training.classifier_loop import (
    Rounds,
    Stop,
    forget_and_remaining,
    loss_steps,
    start_training,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData
from unlearner.training.losses import Parts, encode_parts, mean_losses
from unlearner.training.trainer import Terms, Trainer


class SalUn(Method):
    r"""Learn wrong labels for the forget records with the weights that matter most to them.

    .. math::
        L = CE(\tilde{forget}) + w_r \, CE(retain), \quad
        m = [\, |\nabla_\theta CE(forget)| \ge \gamma \,]_{\theta = \theta_0}

    with CE the mean cross-entropy in nats over all labelled positions of a step. Of the weights
    only those with m = 1 are trained; all others keep the target model's bits. m is taken once, at
    the target model \theta_0 without dropout, from the true labels of the whole forget set. The
    labels that are learned are drawn as by `RandomLabels`.

    Reference: Fan et al. (2024), arXiv:2310.12508; gamma there is the median of the gradient's
    sizes, which is `saliency_share` 0.5.
    Differs from the paper: the share is of the weights that have a gradient at all, since most
    embeddings of a text model are of words that the records do not have, so that the median over
    everything can be 0; weights without a gradient are not trained. Of adapters (LoRA) that is the
    factor A, which stays as drawn, because B is still zero where m is taken. In the published code
    the model takes steps while the gradients are summed; here it does not move. Every step has its
    own share of remaining records instead of a pass over them; AdamW without weight decay; the rule
    to stop.

    Args:
        batch_size: Forget samples of a step.
        retain_batch_size: Remaining samples of a step.
        saliency_share: Share of the weights with a gradient that is trained: those of the largest.
        retain_weight: w_r.
        max_gradient_norm: Gradients, of trained weights alone, are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations.
    """

    label: ClassVar[str] = "SalUn (saliency unlearning)"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")

    batch_size: PositiveInt = 16
    retain_batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    saliency_share: float = Field(default=0.5, gt=0.0, le=1.0)
    retain_weight: NonNegativeFloat = 1.0
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        """The two terms of the equation; the labels of the "forget" part are the random ones."""
        losses = mean_losses(model, {role: batch[role] for role in ("forget", "retain")})
        return {"forget": losses["forget"], "retain": self.retain_weight * losses["retain"]}

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        model = start_training(self, model, trainer)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        with trainer.arithmetic():
            gradients = self._forget_gradients(model, weights, data.forget.examples)
        masks = salient(gradients, self.saliency_share)
        wrong = relabel(data.forget.examples, len(data.labels), data.outside, trainer.generator)
        taught = replace(data, forget=replace(data.forget, examples=wrong))
        sizes = (self.batch_size, self.retain_batch_size)
        batches = forget_and_remaining(taught, trainer.generator, sizes)
        epoch = math.ceil(len(wrong) / self.batch_size)
        steps = loss_steps(trainer, batches, partial(self.loss, model))
        rounds = Rounds(self.stop, self.steps_per_round, epoch * self.max_epochs)
        # A gradient that is always 0 leaves Adam's moments at 0, and so its step.
        hooks = [
            weight.register_hook(partial(torch.mul, mask))
            for weight, mask in zip(weights, masks, strict=True)
        ]
        try:
            return train_in_rounds(model, data, trainer, steps, rounds)
        finally:
            for hook in hooks:
                hook.remove()

    def _forget_gradients(
        self, model: PreTrainedModel, weights: Sequence[Tensor], examples: Sequence[Example]
    ) -> list[Tensor]:
        """The gradient of the forget set's mean loss by each weight; alike in every process."""
        num_positions = sum(len(example.labels) for example in examples)
        for start in range(0, len(examples), self.batch_size):
            batch = {"forget": examples[start : start + self.batch_size]}
            # A batch of sentences may be without a labelled word.
            for some in encode_parts(model, batch).values():
                total = cross_entropy(some.logits.float(), some.labels, reduction="sum")
                (total / num_positions).backward()
        processes.sum_gradients(weights)  # each had its share of the examples
        found = [
            torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights
        ]
        for weight in weights:
            weight.grad = None
        return found


def salient(gradients: Sequence[Tensor], share: float) -> list[Tensor]:
    """Where each gradient is among the largest in size, in masks of bool, one byte a weight.

    Args:
        share: How many, as a share of those that are not 0; at least one is. Those as large as the
            last of them count too.
    """
    sizes = [gradient.abs() for gradient in gradients]
    known = torch.cat([size[size > 0] for size in sizes])
    if len(known) == 0:
        return [size > 0 for size in sizes]
    count = max(1, round(share * len(known)))
    least = known.kthvalue(len(known) - count + 1).values
    return [size >= least for size in sizes]
