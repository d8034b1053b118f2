"""Fine-tuning on random labels (amnesiac unlearning)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from unlearner.data.batches import Tensors
from unlearner.data.labelled import Example
from unlearner.methods.base import Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.heads import Classifier, Encoded
from unlearner.training.classifier_loop import (
    Parts,
    Rounds,
    Stop,
    encode_batch,
    encode_parts,
    forget_and_remaining,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData
from unlearner.training.trainer import CLASSIFIER_RATE_TIMES_WIDTH, Trainer, resolve_learning_rate


class RandomLabels(Method):
    r"""Learn wrong labels for the forget records, beside the right ones of remaining records.

    .. math:: L = CE(\tilde{forget}) + CE(retain)

    with CE the mean cross-entropy in nats over all labelled positions of a step. Every forget
    record is given one label, drawn once and uniformly from all but its own. Of tags, each word of
    an entity is given another tag, "outside" among them, without regard to its neighbours, so that
    the tags need not make up entities; words outside entities keep theirs.

    Reference: Graves et al. (2020), arXiv:2010.10981.
    Differs from the paper: AdamW, the rule to stop, and every step has its own share of remaining
    records instead of one shuffled union; which part of them the paper takes, and its settings for
    text, are not known.

    Args:
        learning_rate: Of AdamW, or "auto" for 0.0384 / hidden size: 1e-4 for 384 units.
        batch_size: Forget samples of a step.
        retain_batch_size: Remaining samples of a step.
        max_epochs: Passes over the forget set at most.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two looks at the rule.
    """

    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")

    batch_size: PositiveInt = 16
    retain_batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(
        self, model: Any, batch: Mapping[str, Tensors], reference: Any = None
    ) -> dict[str, Tensor]:
        """The terms of one step; their sum is the objective.

        Args:
            batch: "forget", whose labels are the random ones already, and "retain", each as
                `data.labelled.collate_examples` makes it.
            reference: Not used.
        """
        return self._terms(encode_batch(model, batch))

    def unlearn(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
        rate = resolve_learning_rate(self.learning_rate, model, CLASSIFIER_RATE_TIMES_WIDTH)
        clip = self.max_gradient_norm
        model = trainer.start(model, rate, dropout=True, max_gradient_norm=clip)
        classifier = Classifier(model)
        wrong = relabel(data.forget.examples, len(data.labels), data.outside, trainer.generator)
        lessons = replace(data, forget=replace(data.forget, examples=wrong))
        sizes = (self.batch_size, self.retain_batch_size)
        batches = forget_and_remaining(lessons, trainer.generator, sizes)
        steps = (partial(self._step, classifier, parts, trainer) for parts in batches)
        epoch = math.ceil(len(wrong) / self.batch_size)
        rounds = Rounds(self.stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _step(self, classifier: Classifier, parts: Parts, trainer: Trainer) -> dict[str, Tensor]:
        return self._terms(encode_parts(classifier, parts, trainer))

    def _terms(self, encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
        return {
            role: cross_entropy(some.logits.float(), some.labels) for role, some in encoded.items()
        }


def relabel(
    examples: Sequence[Example], num_labels: int, outside: int | None, generator: Generator
) -> tuple[Example, ...]:
    """The examples with every label but `outside` replaced by another one, drawn uniformly."""
    changed = []
    for example in examples:
        shift = torch.randint(1, num_labels, (len(example.labels),), generator=generator).numpy()
        other = (example.labels + shift) % num_labels
        labels = np.where(example.labels == outside, example.labels, other)
        changed.append(replace(example, labels=labels))
    return tuple(changed)
