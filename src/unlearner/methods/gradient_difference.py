"""Gradient difference (GradDiff, NegGrad+)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from unlearner.data.batches import Tensors
from unlearner.inference.reference import likelihoods
from unlearner.methods.base import Method, Stop, is_text, rule_for
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS
from unlearner.models.heads import Classifier, Encoded
from unlearner.training.classifier_loop import (
    Parts,
    Rounds,
    encode_batch,
    encode_parts,
    forget_and_remaining,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.language_loop import descend
from unlearner.training.trainer import CLASSIFIER_RATE_TIMES_WIDTH, Trainer, resolve_learning_rate

# w_f and w_r where none are given.
WEIGHTS = {"causal-lm": (1.0, 1.0), **dict.fromkeys(CLASSIFIERS, (0.05, 0.95))}


class GradientDifference(Method):
    r"""Raise the loss of the forget records while learning the remaining ones.

    .. math:: L = w_r \, NLL(retain) - w_f \, NLL(forget)

    with NLL the mean negative log-probability in nats over all scored tokens of a step; for
    classifiers the mean cross-entropy over all labelled positions.

    Reference: for language models Liu et al. (2022), arXiv:2203.12817, as "GradDiff" in Maini et
    al. (2024), arXiv:2401.06121; for classifiers "NegGrad+" of Kurmanji et al. (2023),
    arXiv:2302.09880, where w_r = a and w_f = 1 - a.
    Differs from the sources: the learning rate, clipping and the rule to stop; an epoch is a pass
    over the forget set, not over the remaining records. a is tuned in the last source for each data
    set; no single published value is known, and 0.95 is not measured here.

    Args:
        learning_rate: Of AdamW, or "auto": for language models 0.064 / hidden size, for classifiers
            0.0384 / hidden size, 1e-4 for 384 units.
        batch_size: Forget records of a step.
        retain_batch_size: Windows of kept text of a step, or remaining samples.
        max_epochs: Passes over the forget set at most.
        forget_weight: w_f; None for 1, for classifiers 0.05.
        retain_weight: w_r; None for 1, for classifiers 0.95.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it. For language models "auto" is "suppressed"; see `descent.Stop`.
            For classifiers see `DeepCUT`.
        steps_per_round: Steps between two looks at the rule, for classifiers; language models are
            looked at behind each pass.
    """

    families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *CLASSIFIERS)
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.25, 8.0)}

    batch_size: PositiveInt = 16
    retain_batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    forget_weight: NonNegativeFloat | None = None
    retain_weight: NonNegativeFloat | None = None
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def for_family(self, family: str) -> Self:
        forget_weight, retain_weight = self._weights(family)
        stop = rule_for(self.stop, family, auto="suppressed")
        weights = {"forget_weight": forget_weight, "retain_weight": retain_weight}
        return self.model_copy(update={"stop": stop, **weights})

    def _weights(self, family: str) -> tuple[float, float]:
        """w_f and w_r."""
        forget, retain = WEIGHTS[family]
        return (
            forget if self.forget_weight is None else self.forget_weight,
            retain if self.retain_weight is None else self.retain_weight,
        )

    def loss(
        self, model: Any, batch: Mapping[str, Tensors | None], reference: Any = None
    ) -> dict[str, Tensor]:
        """The weighted terms of one step; their sum is the objective.

        Args:
            batch: "forget" and "retain", each as `data.batches.collate` makes it, or for a
                classifier `data.labelled.collate_examples`.
            reference: Not used.
        """
        if not is_text(batch):
            return self._terms(encode_batch(model, batch))  # type: ignore[arg-type]
        forget_weight, retain_weight = self._weights("causal-lm")
        return {
            "forget": -forget_weight * likelihoods(model, batch["forget"]).loss(),
            "retain": retain_weight * likelihoods(model, batch["retain"]).loss(),
        }

    def unlearn(self, model: Any, data: UnlearningData | ClassifierData, trainer: Trainer) -> Any:
        if isinstance(data, ClassifierData):
            return self._unlearn_labels(model, data, trainer)
        return descend(self.for_family("causal-lm"), model, data, trainer)

    def _unlearn_labels(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
        stop = rule_for(self.stop, data.family, auto="suppressed")
        rate = resolve_learning_rate(self.learning_rate, model, CLASSIFIER_RATE_TIMES_WIDTH)
        clip = self.max_gradient_norm
        model = trainer.start(model, rate, dropout=True, max_gradient_norm=clip)
        classifier = Classifier(model)
        sizes = (self.batch_size, self.retain_batch_size)
        batches = forget_and_remaining(data, trainer.generator, sizes)
        steps = (partial(self._step, classifier, parts, trainer) for parts in batches)
        epoch = math.ceil(len(data.forget.examples) / self.batch_size)
        rounds = Rounds(stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _step(self, classifier: Classifier, parts: Parts, trainer: Trainer) -> dict[str, Tensor]:
        return self._terms(encode_parts(classifier, parts, trainer))

    def _terms(self, encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
        forget, retain = encoded["forget"], encoded["retain"]
        forget_weight, retain_weight = self._weights(CLASSIFIERS[0])
        return {
            "forget": -forget_weight * cross_entropy(forget.logits.float(), forget.labels),
            "retain": retain_weight * cross_entropy(retain.logits.float(), retain.labels),
        }
