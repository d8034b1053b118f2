"""Fine-tuning on the remaining data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from unlearner.data.batches import Tensors
from unlearner.methods.base import Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.heads import Classifier, Encoded
from unlearner.training.classifier_loop import (
    Parts,
    Rounds,
    Stop,
    encode_batch,
    encode_parts,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData, passes
from unlearner.training.trainer import CLASSIFIER_RATE_TIMES_WIDTH, Trainer, resolve_learning_rate


class FineTune(Method):
    r"""Go on learning the remaining records, and leave the others to be forgotten by themselves.

    .. math:: L = CE(retain)

    with CE the mean cross-entropy in nats over all labelled positions of a step.

    Reference: none of its own; the baseline "FT" of Golatkar et al. (2020), arXiv:1911.04933.
    Differs from the source: AdamW, the rule to stop and all settings, which stand for no published
    ones.

    Args:
        learning_rate: Of AdamW, or "auto" for 0.0384 / hidden size: 1e-4 for 384 units.
        batch_size: Remaining samples of a step.
        max_epochs: Passes over the remaining samples at most.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two looks at the rule, or "epoch".
    """

    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")

    batch_size: PositiveInt = 32
    max_epochs: PositiveInt = 5
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt | Literal["epoch"] = "epoch"

    def loss(
        self, model: Any, batch: Mapping[str, Tensors], reference: Any = None
    ) -> dict[str, Tensor]:
        """The objective as its one term.

        Args:
            batch: "retain", as `data.labelled.collate_examples` makes it; other parts are not read.
            reference: Not used.
        """
        return self._terms(encode_batch(model, {"retain": batch["retain"]}))

    def unlearn(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
        rate = resolve_learning_rate(self.learning_rate, model, CLASSIFIER_RATE_TIMES_WIDTH)
        clip = self.max_gradient_norm
        model = trainer.start(model, rate, dropout=True, max_gradient_norm=clip)
        classifier = Classifier(model)
        batches = passes(data.retain.examples, self.batch_size, trainer.generator)
        steps = (partial(self._step, classifier, {"retain": some}, trainer) for some in batches)
        epoch = math.ceil(len(data.retain.examples) / self.batch_size)
        length = epoch if self.steps_per_round == "epoch" else self.steps_per_round
        rounds = Rounds(self.stop, length, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _step(self, classifier: Classifier, parts: Parts, trainer: Trainer) -> dict[str, Tensor]:
        return self._terms(encode_parts(classifier, parts, trainer))

    def _terms(self, encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
        retain = encoded["retain"]
        return {"retain": cross_entropy(retain.logits.float(), retain.labels)}
