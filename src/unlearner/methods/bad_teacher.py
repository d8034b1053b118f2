"""Bad teaching: imitating an incompetent teacher on what is to be forgotten."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from unlearner import functional
from unlearner.data.batches import Tensors
from unlearner.methods.base import Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.heads import Classifier
from unlearner.training.classifier_loop import (
    Parts,
    Rounds,
    Stop,
    encode_batch,
    encode_parts,
    frozen_copy,
    teach,
    train_in_rounds,
)
from unlearner.training.data import ClassifierData, passes
from unlearner.training.trainer import CLASSIFIER_RATE_TIMES_WIDTH, Trainer, resolve_learning_rate


class BadTeacher(Method):
    r"""Imitate a random model on the forget records and the target model on remaining ones.

    .. math::
        L = \frac{1}{n} \Big( \sum_{forget} KL_T(p_{random} \| p)
            + \sum_{retain} KL_T(p_0 \| p) \Big)

    with KL_T the divergence of the predictions at temperature T, times T^2, in nats; p_0 the target
    model, p_random one of the same architecture with fresh weights, both without dropout, and n the
    labelled positions of a step. Steps go over the forget set and a share of the remaining records,
    shuffled together.

    Reference: Chundawat et al. (2023), arXiv:2205.08096.
    Differs from the published code: the mean is over positions, where the code divides by the
    number of classes as well; AdamW at another rate (its Adam: 1e-4), batches of 32 instead of 256,
    and the rule to stop (its example takes one epoch).

    Args:
        learning_rate: Of AdamW, or "auto" for 0.0384 / hidden size: 1e-4 for 384 units.
        batch_size: Samples of a step, forget and remaining together.
        max_epochs: Passes over both at most.
        retain_share: Share of the remaining records that is taught, drawn once.
        temperature: T.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two looks at the rule.
    """

    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")

    batch_size: PositiveInt = 32
    max_epochs: PositiveInt = 10
    retain_share: float = Field(default=0.3, gt=0.0, le=1.0)
    temperature: PositiveFloat = 1.0
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(
        self, model: Any, batch: Mapping[str, Tensors], reference: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The terms of one step; their sum is the objective.

        Args:
            batch: "forget" and "retain", each as `data.labelled.collate_examples` makes it.
            reference: The teacher of each: a random model, and the frozen target model.
        """
        said = {role: some.logits for role, some in encode_batch(model, batch).items()}
        with torch.no_grad():
            taught = {role: Classifier(reference[role])(batch[role])[0] for role in batch}
        return self._terms(said, taught)

    def unlearn(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
        rate = resolve_learning_rate(self.learning_rate, model, CLASSIFIER_RATE_TIMES_WIDTH)
        clip = self.max_gradient_norm
        model = trainer.start(model, rate, dropout=True, max_gradient_norm=clip)
        teachers = {
            "forget": Classifier(random_model(model, trainer.generator)),
            "retain": Classifier(frozen_copy(model)),
        }
        student = Classifier(model)
        retain = data.retain.examples
        num_kept = max(1, round(self.retain_share * len(retain)))
        kept = torch.randperm(len(retain), generator=trainer.generator)[:num_kept].tolist()
        union = {"forget": data.forget.examples, "retain": [retain[index] for index in kept]}
        batches = self._batches(union, trainer.generator)
        steps = (partial(self._step, student, teachers, parts, trainer) for parts in batches)
        epoch = math.ceil(sum(map(len, union.values())) / self.batch_size)
        rounds = Rounds(self.stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _batches(self, union: Parts, generator: Generator) -> Iterator[Parts]:
        forgotten = set(map(id, union["forget"]))
        for batch in passes([*union["forget"], *union["retain"]], self.batch_size, generator):
            yield {
                "forget": [example for example in batch if id(example) in forgotten],
                "retain": [example for example in batch if id(example) not in forgotten],
            }

    def _step(
        self,
        student: Classifier,
        teachers: Mapping[str, Classifier],
        parts: Parts,
        trainer: Trainer,
    ) -> dict[str, Tensor]:
        parts = {role: some for role, some in parts.items() if some}
        said = {role: some.logits for role, some in encode_parts(student, parts, trainer).items()}
        return self._terms(said, {role: teach(teachers[role], parts[role]) for role in parts})

    def _terms(self, said: Mapping[str, Tensor], taught: Mapping[str, Tensor]) -> dict[str, Tensor]:
        num_positions = sum(map(len, said.values()))
        return {
            role: functional.tempered_kl(taught[role], logits, self.temperature).sum()
            / num_positions
            for role, logits in said.items()
        }


def random_model(model: Any, generator: Generator) -> Any:
    """A frozen model of the same architecture with fresh weights, on the same device."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # architectures draw their first weights from the global generator
        fresh = type(model)(copy.deepcopy(model.config))
    return fresh.to(model.device).requires_grad_(False).eval()
