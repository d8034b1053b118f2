"""Distillation from the target model, with each own label as likely as that of an unseen record."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedModel

from unlearner import functional
from unlearner.data.labelled import LabelledSet
from unlearner.inference.classifier import classify
from unlearner.methods.base import Method
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
from unlearner.training.losses import Part, Parts, encode_parts, frozen_copy, teach
from unlearner.training.trainer import Terms, Trainer

# The margin of a label that is to have probability 0; finite, as 0 times infinity is no number.
IMPOSSIBLE = -1e4


class QuantileMap(NamedTuple):
    """What margins of forget positions become: those of unseen positions at the same ranks."""

    own: np.ndarray  # (K,) increasing
    unseen: np.ndarray  # (K,) never decreasing

    def __call__(self, margins: np.ndarray) -> np.ndarray:
        """Between two known margins in proportion, outside of them as at the ends."""
        return np.interp(margins, self.own, self.unseen)


class CalibratedTeacher(NamedTuple):
    """What the forget records are taught.

    Attributes:
        target: The frozen target model.
        maps: By whether a label is `outside`; a kind of label that no unseen record has stays as
            the target model has it.
        outside: The tag that stands for no entity; None for labels of whole texts.
    """

    target: PreTrainedModel
    maps: Mapping[bool, QuantileMap]
    outside: int | None

    def log_probs(self, part: Part | None, labels_N: Tensor) -> Tensor:
        """Log q of every class at the part's labelled positions, (N, C) in nats."""
        taught_NC = teach(self.target, part)
        margins = functional.label_margins(taught_NC, labels_N).cpu().numpy().astype(float)
        is_outside = is_outside_label(labels_N.cpu().numpy(), self.outside)
        for kind, becomes in self.maps.items():
            margins = np.where(is_outside == kind, becomes(margins), margins)
        goals_N = torch.from_numpy(margins).to(taught_NC.device, torch.float32)
        return with_margins(taught_NC, labels_N, goals_N)


class CalibratedDistillation(Method):
    r"""Imitate the target model, but with each record's own label no likelier than if unseen.

    .. math::
        L = w_f \, mean_{forget} KL(q \| p) + w_r \, CE(retain), \quad
        q_y = c, \quad q_k = (1 - c) \frac{p_{0,k}}{1 - p_{0,y}} \; (k \ne y)

    in nats, with p_0 the target model, y the label of a forget position, and means over all
    labelled positions of a step. c is the probability that p_0 gives to the own label of the unseen
    (holdout) position at the same rank: the forget positions are put in the order of their own
    label's margin \log p_{0,y} / (1 - p_{0,y}), likewise the holdout positions, and between
    neighbours one goes in proportion. Of tags, words of entities and words outside are ranked each
    among their like. Where a class is removed, which unseen records have as well, c is 0.

    Reference: after the masked distillation of DELETE, Zhou et al. (2025), arXiv:2503.23751, in
    which c is 0 everywhere and nothing is learned on remaining records.
    Differs from the paper: c, because a label that is impossible marks a record as treated; the
    term of remaining records, `retain_weight` 0 leaves it out; AdamW, the batch, dropout and the
    rule to stop. c may lie above what the target model says of a record. Of the holdout set, on
    which the run is stopped and measured, the quantiles of these margins are used and nothing else.

    Args:
        batch_size: Forget samples of a step.
        retain_batch_size: Remaining samples of a step.
        forget_weight: w_f.
        retain_weight: w_r.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations.
    """

    label: ClassVar[str] = "calibrated distillation (after DELETE)"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    companion_models: ClassVar[tuple[str, ...]] = ("target",)
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    batch_size: PositiveInt = 16
    retain_batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(self, model: PreTrainedModel, batch: Parts, reference: CalibratedTeacher) -> Terms:
        encoded = encode_parts(model, batch)
        forget, retain = encoded["forget"], encoded["retain"]
        taught_NC = reference.log_probs(batch["forget"], forget.labels)
        kl = functional.kl_divergence(taught_NC, forget.logits).mean()
        learned = cross_entropy(retain.logits.float(), retain.labels)
        return {"forget": self.forget_weight * kl, "retain": self.retain_weight * learned}

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        model = start_training(self, model, trainer)
        with trainer.arithmetic():
            maps = quantile_maps(model, data)
        teacher = CalibratedTeacher(frozen_copy(model), maps, data.outside)
        sizes = (self.batch_size, self.retain_batch_size)
        batches = forget_and_remaining(data, trainer.generator, sizes)
        steps = loss_steps(trainer, batches, partial(self.loss, model, reference=teacher))
        epoch = math.ceil(len(data.forget.examples) / self.batch_size)
        rounds = Rounds(self.stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)


def quantile_maps(target: PreTrainedModel, data: ClassifierData) -> dict[bool, QuantileMap]:
    """The map of each kind of label that forget and unseen records have; see `CalibratedTeacher`.

    Where a class is removed every margin becomes that of an impossible label.
    """
    if data.forget_class is not None:
        return {False: QuantileMap(np.zeros(1), np.array([IMPOSSIBLE]))}
    own, own_outside = margins_of(target, data.forget, data)
    unseen, unseen_outside = margins_of(target, data.holdout, data)
    return {
        kind: match_quantiles(own[own_outside == kind], unseen[unseen_outside == kind])
        for kind in (False, True)
        if (own_outside == kind).any() and (unseen_outside == kind).any()
    }


def match_quantiles(own: np.ndarray, unseen: np.ndarray) -> QuantileMap:
    """From each of n margins to the unseen margins' quantile at its rank, (i + 1/2) / n.

    Of equal margins each is given the mean of what all of them are.
    """
    ranks = (np.arange(len(own)) + 0.5) / len(own)
    goals = np.quantile(unseen, ranks, method="hazen")  # of n unseen ones these are their ranks too
    known, places = np.unique(np.sort(own), return_inverse=True)
    return QuantileMap(known, np.bincount(places, goals) / np.bincount(places))


def margins_of(
    model: PreTrainedModel, some: LabelledSet, data: ClassifierData
) -> tuple[np.ndarray, np.ndarray]:
    """The margin of every labelled position's own label in nats, and whether that is outside."""
    answers = classify(model, some, data.labels)
    log_probs_NC = np.concatenate([answer.class_log_probs for answer in answers])
    labels_N = np.concatenate([answer.labels for answer in answers])
    given = torch.from_numpy(log_probs_NC), torch.from_numpy(labels_N)
    margins = functional.label_margins(*given).numpy().astype(float)
    return margins, is_outside_label(labels_N, data.outside)


def is_outside_label(labels: np.ndarray | Sequence[int], outside: int | None) -> np.ndarray:
    """Whether each label is the tag that stands for no entity; of whole texts none is."""
    if outside is None:
        return np.zeros(len(labels), dtype=bool)
    return np.asarray(labels) == outside


def with_margins(logits_NC: Tensor, labels_N: Tensor, margins_N: Tensor) -> Tensor:
    """Log-probabilities (N, C) in which the label has this margin and the others their proportions.

    Args:
        margins_N: log(c / (1 - c)) of the probability c that each label is to have.
    """
    own_NC = torch.zeros_like(logits_NC, dtype=torch.bool).scatter(-1, labels_N[:, None], True)
    others_NC = logits_NC.float().masked_fill(own_NC, -torch.inf).log_softmax(-1)
    others_NC = others_NC + logsigmoid(-margins_N)[:, None]
    return torch.where(own_NC, logsigmoid(margins_N)[:, None], others_NC)
