"""Fine-tuning on random labels (amnesiac unlearning)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator
from transformers import PreTrainedModel

from unlearner.data.labelled import Example, LabelledSet
from unlearner.methods.base import LossMethod, Terms
from unlearner.metrics.base import CLASSIFIERS
from unlearner.training.classifier_loop import Stop
from unlearner.training.data import ClassifierData
from unlearner.training.losses import Parts, mean_losses


class RandomLabels(LossMethod):
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
        batch_size: Forget samples of a step.
        retain_batch_size: Remaining samples of a step.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations.
    """

    label: ClassVar[str] = "random labels (amnesiac unlearning)"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")

    batch_size: PositiveInt = 16
    retain_batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def companions(self, data: ClassifierData, generator: Generator) -> Mapping[str, LabelledSet]:
        wrong = relabel(data.forget.examples, len(data.labels), data.outside, generator)
        return {"forget": replace(data.forget, examples=wrong)}

    def loss(self, model: PreTrainedModel, batch: Parts, reference: object = None) -> Terms:
        """The two terms of the equation; the labels of the "forget" part are the random ones."""
        return mean_losses(model, batch)


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
