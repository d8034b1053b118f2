"""SCRUB: a student that disobeys its teacher about what is to be forgotten."""

import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from unlearner import functional
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
from unlearner.training.losses import Examples, Parts, encode_parts, frozen_copy, teach
from unlearner.training.trainer import Terms, Trainer


class SCRUB(Method):
    r"""Depart from the target model on forget records, stay with it on the others, by turns.

    .. math::
        L_{max} = -mean_{forget} KL_T(p_0 \| p), \quad
        L_{min} = \gamma \, CE(retain) + \alpha \, mean_{retain} KL_T(p_0 \| p)

    with KL_T the divergence of the predictions at temperature T, times T^2, in nats; p_0 the target
    model without dropout, and means over all labelled positions of a step. Each of the first epochs
    is a pass over the forget set on L_max and then one over the remaining records on L_min; further
    epochs have L_min alone. The rule to stop is asked at the end of an epoch only, because
    L_min repairs what L_max has broken.

    Reference: Kurmanji et al. (2023), arXiv:2302.09880; the defaults are those of the published
    code for small data sets but for T, which is 2 there and 4 in its other experiments.
    Differs from the published code: AdamW at a constant rate without weight decay (its Adam: 5e-4,
    falling, and 0.1), and the rule to stop. p equals p_0 before the first step, where the
    divergence's gradient is 0: dropout, on in training, is what starts L_max.

    Args:
        batch_size: Forget samples of a step.
        retain_batch_size: Remaining samples of a step.
        max_epochs: Epochs at most.
        num_forget_epochs: Epochs that begin with L_max.
        temperature: T.
        retain_weight: gamma.
        kl_weight: alpha.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
    """

    label: ClassVar[str] = "SCRUB"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    companion_models: ClassVar[tuple[str, ...]] = ("target",)

    batch_size: PositiveInt = 64
    retain_batch_size: PositiveInt = 32
    max_epochs: PositiveInt = 10
    num_forget_epochs: PositiveInt = 3
    temperature: PositiveFloat = 4.0
    retain_weight: NonNegativeFloat = 1.0
    kl_weight: NonNegativeFloat = 0.5
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"

    def loss(self, model: PreTrainedModel, batch: Parts, reference: PreTrainedModel) -> Terms:
        """The terms of L_max for a "forget" part and of L_min for a "retain" part.

        Args:
            batch: One part for a step of the procedure, or both.
            reference: The frozen target model.
        """
        encoded = encode_parts(model, batch)
        kl = {}
        for role, some in encoded.items():
            taught = teach(reference, batch[role])
            kl[role] = functional.tempered_kl(taught, some.logits, self.temperature).mean()
        terms = {"forget": -kl["forget"]} if "forget" in kl else {}
        if "retain" in kl:
            retain = encoded["retain"]
            loss = cross_entropy(retain.logits.float(), retain.labels)
            terms |= {"retain": self.retain_weight * loss, "kl": self.kl_weight * kl["retain"]}
        return terms

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        model = start_training(self, model, trainer)
        num_max = math.ceil(len(data.forget.examples) / self.batch_size)
        num_min = math.ceil(len(data.retain.examples) / self.retain_batch_size)
        batches = self._batches(data, trainer, num_max, num_min)
        # A round is as long as an epoch with both parts; behind those, every step is on L_min.
        later = max(0, self.max_epochs - self.num_forget_epochs) * num_min
        both = min(self.max_epochs, self.num_forget_epochs) * (num_max + num_min)
        loss = partial(self.loss, model, reference=frozen_copy(model))
        steps = loss_steps(trainer, batches, loss)
        rounds = Rounds(self.stop, num_max + num_min, both + later)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _batches(
        self, data: ClassifierData, trainer: Trainer, num_max: int, num_min: int
    ) -> Iterator[Examples]:
        forget = passes(data.forget.examples, self.batch_size, trainer.generator)
        retain = passes(data.retain.examples, self.retain_batch_size, trainer.generator)
        for _ in range(self.num_forget_epochs):
            yield from ({"forget": next(forget)} for _ in range(num_max))
            yield from ({"retain": next(retain)} for _ in range(num_min))
        yield from ({"retain": some} for some in retain)
