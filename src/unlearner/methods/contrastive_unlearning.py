"""Contrastive unlearning (Lee et al.)."""

import math
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from unlearner import functional
from unlearner.methods.base import Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.heads import Encoded
from unlearner.training.classifier_loop import (
    Rounds,
    Stop,
    forget_and_remaining,
    loss_steps,
    start_training,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData
from unlearner.training.losses import Examples, Parts, compared, encode_parts
from unlearner.training.trainer import Terms, Trainer


class ContrastiveUnlearning(Method):
    r"""Push forget samples from the remaining samples of their class, and pull them to the others.

    .. math::
        L = \lambda_{UL} \, mean_i \Big( r_i - mean_{o \in O_i} s_{io} / \tau \Big)
            + \lambda_{CE} \, CE(retain), \quad r_i = logsumexp_{k \in S_i} s_{ik} / \tau

    with s the cosine of the vectors that the head's last linear map reads, i the forget samples of
    a step, S_i its remaining samples of the same label and O_i those of another; r_i is 0 where S_i
    is empty, and i is left out where O_i is. CE is the mean cross-entropy in nats over all labelled
    positions. Of tags, i are the words of entities, and of the remaining sentences' words outside
    entities about as many are compared as there are words in them.

    Reference: Lee et al. (2024), arXiv:2401.10458; tau, both weights, the batches and the remaining
    batches of each forget batch are the defaults of the published code.
    Differs from the published code: AdamW at another rate (its SGD: 1e-3 with momentum 0.9), and
    the rule to stop by records never seen. The weights are the formula's: the code subtracts r_i
    once for each of the step's V remaining samples and then divides by the |O_i| of other labels,
    so that it pushes by V / |O_i| r_i, a little more than here where labels are many and twice as
    much where half of the samples have the label. It takes r_i = 0 in class removal only; a forget
    sample whose class is missing from a step makes its loss infinite otherwise.

    Args:
        batch_size: Forget samples of a step.
        retain_batch_size: Remaining samples of a step.
        remaining_per_forget: Remaining batches that each forget batch meets (omega).
        max_epochs: Passes over the forget set at most, of `remaining_per_forget` steps a batch.
        temperature: tau.
        forget_weight: lambda_UL.
        retain_weight: lambda_CE.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations.
        max_words: Anchors of a step at most, and positions that each is compared with.
    """

    label: ClassVar[str] = "contrastive unlearning (Lee et al.)"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")

    batch_size: PositiveInt = 128
    retain_batch_size: PositiveInt = 128
    remaining_per_forget: int = Field(default=4, gt=0, le=1000)
    max_epochs: PositiveInt = 20
    temperature: PositiveFloat = 0.7
    forget_weight: NonNegativeFloat = 3.0
    retain_weight: NonNegativeFloat = 1.0
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5
    max_words: int = Field(default=1024, ge=2)

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        """The weighted terms; every labelled position counts, also a word outside entities."""
        return self._terms(encode_parts(model, batch))

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        model = start_training(self, model, trainer)
        sizes = (self.batch_size, self.retain_batch_size)
        batches = forget_and_remaining(data, trainer.generator, sizes, self.remaining_per_forget)

        def terms(parts: Examples) -> Terms:
            return self._terms(encode_parts(model, parts), data.outside, trainer.draws)

        epoch = math.ceil(len(data.forget.examples) / self.batch_size) * self.remaining_per_forget
        rounds = Rounds(self.stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, loss_steps(trainer, batches, terms), rounds)

    def _terms(
        self,
        encoded: Mapping[str, Encoded],
        outside: int | None = None,
        generator: Generator | None = None,
    ) -> Terms:
        forget, retain = encoded["forget"], encoded["retain"]
        anchors, kept = compared(forget.labels, retain.labels, outside, self.max_words, generator)
        contrast = self._contrast(
            Encoded(*(some[anchors] for some in forget)), Encoded(*(some[kept] for some in retain))
        )
        loss = cross_entropy(retain.logits.float(), retain.labels)
        return {"forget": self.forget_weight * contrast, "retain": self.retain_weight * loss}

    def _contrast(self, anchors: Encoded, remaining: Encoded) -> Tensor:
        """Mean loss of the anchors that have another class beside them; 0 where none has."""
        same_AV = anchors.labels[:, None] == remaining.labels
        counts_A = (~same_AV).any(-1)
        similar_AV = functional.cosine_similarities(anchors.features[counts_A], remaining.features)
        same_AV = same_AV[counts_A]
        losses_A = functional.contrast_remaining(similar_AV / self.temperature, same_AV, ~same_AV)
        return losses_A.sum() / max(1, len(losses_A))
