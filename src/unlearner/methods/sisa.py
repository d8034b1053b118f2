"""SISA: shards and slices, so that little must be trained again."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from transformers import PreTrainedModel

from unlearner.data.labelled import Example
from unlearner.errors import UserError
from unlearner.methods.base import Exactness, Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.ensemble import make_ensemble
from unlearner.training.classifier_loop import Watch
from unlearner.training.data import ClassifierData, Recipe
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    learn_all,
    new_model,
    recipe_for,
)
from unlearner.training.trainer import LearningRate, Trainer

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """One training of a shard.

    Attributes:
        phase: "preparation", or "deletion" for what the request makes necessary.
        slice: The last slice that it learns; it learns all before it as well.
        records: Those learnt: the forget set's from 0 on, then the retain set's.
    """

    phase: str
    slice: int
    records: tuple[int, ...]


class SISA(Method):
    r"""Train models on shards of the data; to delete records, go back to before their slice.

    .. math:: p(y | x) = \frac{1}{S} \sum_{s=1}^S p_s(y | x)

    All records, those to be forgotten too, are dealt out at random to S shards of R slices. The
    model of a shard learns slice 1, then 1 and 2, and so on, and its weights are kept before each.
    That is the preparation, done before any request comes, which the seconds of unlearning leave
    out. The request then takes the shards that hold a forget record back to before the first slice
    with one, and trains them on with what remains. No model that is returned has seen a forget
    record: forgetting is exact. Every training depends on the seed, its shard, its slice and its
    records only, so the result is, bit for bit, the one that the remaining records alone would have
    given.

    Reference: Bourtoule et al. (2021), arXiv:1912.03817.
    Differs from the paper: shards begin with a pretrained encoder; optimiser and learning rate
    begin anew with each slice; probabilities are averaged, where the paper mostly takes a vote.
    With E epochs of the target each slice has 2 E / (R + 1), as in the paper, so that a shard sees
    as many samples as E epochs give. S and R are chosen in the paper for each task; 5 and 3 are not
    measured. The target model is not used.

    Args:
        num_shards: S.
        num_slices: R.
        pretrained: The encoder to start from, by folder or hub id; the target's own where empty.
        learning_rate: At its peak, of AdamW; the target's where None, as the next three.
        batch_size: Samples of a step.
        epochs: E.
        weight_decay: Of AdamW.
        max_epochs: Not used.
    """

    label: ClassVar[str] = "SISA (retraining of the shards concerned)"
    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    begins_anew: ClassVar[bool] = True
    exact: ClassVar[Exactness | None] = Exactness(
        done="The parts of the model that had seen a record were trained again without it",
        why="whatever had been trained on a record was trained again without it",
    )

    num_shards: int = Field(default=5, gt=0, le=1000)
    num_slices: int = Field(default=3, gt=0, le=1000)
    pretrained: str = ""
    learning_rate: LearningRate | None = None  # type: ignore[assignment]  # None: the target's
    batch_size: PositiveInt | None = None  # type: ignore[assignment]
    epochs: PositiveInt | None = None
    weight_decay: NonNegativeFloat | None = None

    def unlearn(
        self, model: PreTrainedModel, data: ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        """Leave `model` as it is and return the ensemble of the shards.

        `trainer.details` gets `seconds_preparation`, `steps_preparation`, `tokens_preparation` and
        `sisa_trained_on`, for each shard its stages in the order of training.
        """
        changes = self.model_dump(include=set(ClassifierFinetuneSettings.model_fields))
        training = _Training(recipe_for(data.recipe, self.pretrained, changes), data, trainer)
        watch = Watch("never", data)
        trainer.log_round(watch.evaluate_round(trainer, model, 0, 0).line({}))
        shards = deal(
            len(data.forget) + len(data.retain), self.num_shards, self.num_slices, trainer.generator
        )
        seed = int(torch.randint(2**31, (), generator=trainer.generator))
        forgotten = range(len(data.forget))
        trained = [
            training.shard(slices, forgotten, (seed, number))
            for number, slices in enumerate(shards)
        ]
        trainer.details |= training.spent | {"sisa_trained_on": training.stages}
        remaining = [shard for shard in trained if shard is not None]
        # It has what is needed of a model.
        ensemble = cast("PreTrainedModel", make_ensemble(remaining, data.family))
        trainer.log_round(watch.evaluate_round(trainer, ensemble, 1, trainer.steps).line({}))
        return ensemble


class _Training:
    """Trains shards, and keeps account of what and how long."""

    def __init__(self, recipe: Recipe, data: ClassifierData, trainer: Trainer) -> None:
        self.recipe, self.data, self.trainer = recipe, data, trainer
        self.settings = ClassifierFinetuneSettings.model_validate(recipe.finetune)
        self.examples: dict[int, list[Example]] = {}
        for start, some in ((0, data.forget), (len(data.forget), data.retain)):
            for example in some.examples:
                self.examples.setdefault(start + example.record, []).append(example)
        self.stages: list[list[Stage]] = []
        names = ("seconds_preparation", "steps_preparation", "tokens_preparation")
        self.spent: dict[str, float] = dict.fromkeys(names, 0)

    def shard(
        self, slices: Sequence[Sequence[int]], forgotten: Collection[int], seed: tuple[int, int]
    ) -> PreTrainedModel | None:
        """Train a shard, delete the forgotten records; None where no record of it remains."""
        self.stages.append([])
        with self._preparation():
            with _seeded(self.trainer, (*seed, len(slices))):
                model = new_model(self.recipe.pretrained, self.data)
            checkpoints = self._train(model, slices, 0, "preparation", seed)
        holds = [any(record in forgotten for record in some) for some in slices]
        if not any(holds):
            return model
        first = holds.index(True)
        model.load_state_dict(checkpoints[first])
        remaining = [[record for record in some if record not in forgotten] for some in slices]
        if not any(remaining):
            return None
        self._train(model, remaining, first, "deletion", seed)
        return model

    def _train(
        self,
        model: PreTrainedModel,
        slices: Sequence[Sequence[int]],
        first: int,
        phase: str,
        seed: tuple[int, int],
    ) -> list[Weights]:
        """Train on from a slice to the last; returns the weights before each, on the CPU."""
        checkpoints = []
        for number in range(first, len(slices)):
            checkpoints.append(
                {name: some.detach().cpu().clone() for name, some in model.state_dict().items()}
            )
            records = tuple(sorted(record for some in slices[: number + 1] for record in some))
            if not records:  # all that came so far is forgotten
                continue
            with _seeded(self.trainer, (*seed, number)):
                self._learn(model, records, len(slices))
            self.stages[-1].append(Stage(phase, number, records))
            self.trainer.log.write(
                {
                    "shard": len(self.stages) - 1,
                    "slice": number,
                    "phase": phase,
                    "records": len(records),
                    "loss": {},
                }
            )
        return checkpoints

    def _learn(self, model: PreTrainedModel, records: Sequence[int], num_slices: int) -> None:
        examples = [example for record in records for example in self.examples[record]]
        epochs = max(1, round(2 * self.settings.epochs / (num_slices + 1)))
        settings = self.settings.model_copy(update={"epochs": epochs})
        learn_all(model, settings, self.trainer, examples)

    @contextmanager
    def _preparation(self) -> Iterator[None]:
        trainer, started = self.trainer, time.perf_counter()
        steps, tokens = trainer.steps, trainer.tokens
        yield
        self.spent["seconds_preparation"] += time.perf_counter() - started
        self.spent["steps_preparation"] += trainer.steps - steps
        self.spent["tokens_preparation"] += trainer.tokens - tokens


def deal(
    num_records: int, num_shards: int, num_slices: int, generator: torch.Generator
) -> list[list[list[int]]]:
    """Records dealt out at random: shards of slices of record indices, as even as can be.

    Raises:
        UserError: There are not enough records for one in each slice.
    """
    if num_records < num_shards * num_slices:
        raise UserError(
            f"method.num_shards: {num_shards} shards of {num_slices} slices need as many records "
            f"as there are slices, {num_shards * num_slices}; there are {num_records} to forget "
            "and to retain, set fewer"
        )
    order = torch.randperm(num_records, generator=generator)
    return [
        [some.tolist() for some in shard.tensor_split(num_slices)]
        for shard in order.tensor_split(num_shards)
    ]


@contextmanager
def _seeded(trainer: Trainer, key: Sequence[int]) -> Iterator[None]:
    """Make what is drawn inside depend on the key only: data order, dropout, first weights."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    trainer.generator.manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
