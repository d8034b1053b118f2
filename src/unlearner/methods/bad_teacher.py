"""Bad teaching: imitating an incompetent teacher on what is to be forgotten."""

import copy
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Generator
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
        batch_size: Samples of a step, forget and remaining together.
        max_epochs: Passes over both at most.
        retain_share: Share of the remaining records that is taught, drawn once.
        temperature: T.
        max_gradient_norm: Gradients are scaled down to this norm.
        stop: The rule that ends it; see `DeepCUT`.
        steps_per_round: Steps between two evaluations.
    """

    label: ClassVar[str] = "bad teacher"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    companion_models: ClassVar[tuple[str, ...]] = ("target", "random")

    batch_size: PositiveInt = 32
    max_epochs: PositiveInt = 10
    retain_share: float = Field(default=0.3, gt=0.0, le=1.0)
    temperature: PositiveFloat = 1.0
    max_gradient_norm: PositiveFloat | None = 1.0
    stop: Stop = "auto"
    steps_per_round: PositiveInt = 5

    def loss(
        self, model: PreTrainedModel, batch: Parts, reference: Mapping[str, PreTrainedModel]
    ) -> Terms:
        """A term for each part, of which a step may lack one.

        Args:
            reference: The teacher of each: a random model, and the frozen target model.
        """
        encoded = encode_parts(model, batch)
        num_positions = sum(len(some.labels) for some in encoded.values())
        terms = {}
        for role, some in encoded.items():
            taught = teach(reference[role], batch[role])
            kl = functional.tempered_kl(taught, some.logits, self.temperature)
            terms[role] = kl.sum() / num_positions
        return terms

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        model = start_training(self, model, trainer)
        teachers = {
            "forget": random_model(model, trainer.generator),
            "retain": frozen_copy(model),
        }
        retain = data.retain.examples
        num_shown = max(1, round(self.retain_share * len(retain)))
        shown = torch.randperm(len(retain), generator=trainer.generator)[:num_shown].tolist()
        union = {"forget": data.forget.examples, "retain": [retain[index] for index in shown]}
        batches = self._batches(union, trainer.generator)
        epoch = math.ceil(sum(map(len, union.values())) / self.batch_size)
        steps = loss_steps(trainer, batches, partial(self.loss, model, reference=teachers))
        rounds = Rounds(self.stop, self.steps_per_round, epoch * self.max_epochs)
        return train_in_rounds(model, data, trainer, steps, rounds)

    def _batches(self, union: Examples, generator: Generator) -> Iterator[Examples]:
        """Both sets shuffled together; a batch may lack examples of one of them."""
        forgotten = set(map(id, union["forget"]))
        for batch in passes([*union["forget"], *union["retain"]], self.batch_size, generator):
            yield {
                "forget": [example for example in batch if id(example) in forgotten],
                "retain": [example for example in batch if id(example) not in forgotten],
            }


def random_model(model: PreTrainedModel, generator: Generator) -> PreTrainedModel:
    """A frozen model of the same architecture with fresh weights, on the same device."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # architectures draw their first weights from the global generator
        fresh = type(model)(copy.deepcopy(model.config))
    return fresh.requires_grad_(False).eval().to(model.device)  # type: ignore[arg-type]
