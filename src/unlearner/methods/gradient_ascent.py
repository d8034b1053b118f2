"""Gradient ascent (GA)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import PositiveFloat, PositiveInt
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
    train_in_rounds,
)
from unlearner.training.data import ClassifierData, UnlearningData, passes
from unlearner.training.language_loop import descend
from unlearner.training.trainer import CLASSIFIER_RATE_TIMES_WIDTH, Trainer, resolve_learning_rate


class GradientAscent(Method):
    r"""Raise the loss of the forget records.

    .. math:: L = -NLL(forget)

    with NLL the mean negative log-probability in nats over all scored tokens of a step; for
    classifiers the mean cross-entropy over all labelled positions. The objective has no lower bound
    and nothing in it keeps the rest: only the rule to stop limits the damage.

    Reference: for language models Jang et al. (2022), arXiv:2210.01504 (KUMPR, "unlikelihood"); for
    classifiers the baseline "negative gradient" of Golatkar et al. (2020), arXiv:1911.04933.
    Differs from the sources: for language models the learning rate (theirs is 5e-5), the batch
    (theirs is the whole forget set) and clipping; the rule to stop is theirs, EL_10 and MA of the
    forget set at the level of unseen text, with the level measured on this model. For classifiers
    AdamW, the rule to stop and all settings, which stand for no published ones.

    Args:
        learning_rate: Of AdamW, or "auto": for language models 0.064 / hidden size, for classifiers
            0.0384 / hidden size, 1e-4 for 384 units.
        batch_size: Forget records of a step.
        max_epochs: Passes over the forget set at most.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it. For language models "auto" is "level"; see `descent.Stop`. For
            classifiers see `DeepCUT`.
        steps_per_round: Steps between two looks at the rule, for classifiers; language models are
            looked at behind each pass.
    """

    families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *CLASSIFIERS)
    needs: ClassVar[tuple[str, ...]] = ("forget", "holdout")

    batch_size: PositiveInt = 16
    max_epochs: PositiveInt = 80
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def for_family(self, family: str) -> Self:
        return self.model_copy(update={"stop": rule_for(self.stop, family, auto="level")})

    def loss(
        self, model: Any, batch: Mapping[str, Tensors | None], reference: Any = None
    ) -> dict[str, Tensor]:
        """The objective as its one term.

        Args:
            batch: "forget", as `data.batches.collate` makes it, or for a classifier
                `data.labelled.collate_examples`; other parts are not read.
            reference: Not used.
        """
        forget = batch["forget"]
        if forget is None or is_text(batch):
            return {"forget": -likelihoods(model, forget).loss()}
        return self._terms(encode_batch(model, {"forget": forget}))

    def unlearn(self, model: Any, data: UnlearningData | ClassifierData, trainer: Trainer) -> Any:
        if isinstance(data, ClassifierData):
            return self._unlearn_labels(model, data, trainer)
        return descend(self.for_family("causal-lm"), model, data, trainer)

    def _unlearn_labels(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
        stop = rule_for(self.stop, data.family, auto="level")
        rate = resolve_learning_rate(self.learning_rate, model, CLASSIFIER_RATE_TIMES_WIDTH)
        clip = self.max_gradient_norm
        model = trainer.start(model, rate, dropout=True, max_gradient_norm=clip)
        classifier = Classifier(model)
        batches = passes(data.forget.examples, self.batch_size, trainer.generator)
        steps = (partial(self._step, classifier, {"forget": some}, trainer) for some in batches)
        epoch = math.ceil(len(data.forget.examples) / self.batch_size)
        rounds = Rounds(stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _step(self, classifier: Classifier, parts: Parts, trainer: Trainer) -> dict[str, Tensor]:
        return self._terms(encode_parts(classifier, parts, trainer))

    def _terms(self, encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
        forget = encoded["forget"]
        return {"forget": -cross_entropy(forget.logits.float(), forget.labels)}
