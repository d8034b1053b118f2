"""Make a target model, or a retrained one: plain learning, by the same steps as unlearning."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt
from torch import Generator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unlearner import registry
from unlearner.data.batches import share_of
from unlearner.data.labelled import Example, LabelledSet
from unlearner.data.windows import TokenizedSet, Window
from unlearner.errors import UserError
from unlearner.evaluation.intervals import evaluate_set
from unlearner.files import LARGE, read_json
from unlearner.inference import language_model
from unlearner.inference.classifier import classify
from unlearner.metrics.base import Metric
from unlearner.models import sharding
from unlearner.models.lineage import PROVENANCE_FILE
from unlearner.models.loading import Loaded, load_causal_lm, load_with_new_head
from unlearner.settings import EvaluationSettings
from unlearner.training.data import ClassifierData, Recipe, UnlearningData, similar_lengths
from unlearner.training.losses import Part, mean_losses
from unlearner.training.trainer import LearningRate, Trainer, resolve_learning_rate

# 3e-3 for 64 hidden units, 2.5e-4 for 768, 4.7e-5 for 4096.
AUTO_RATE_TIMES_WIDTH = 0.192

WARMUP_SHARE = 0.05

COMPARE = {">=": float.__ge__, "<=": float.__le__, ">": float.__gt__, "<": float.__lt__}


class FinetuneSettings(BaseModel):
    """How a model learns records.

    Args:
        learning_rate: Of AdamW at its peak, or "auto" for 0.192 / hidden size; it warms up over a
            twentieth of the steps and falls linearly to 0.
        batch_size: Windows of one step.
        epochs: Passes over the records, at most.
        weight_decay: Of AdamW.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: LearningRate = "auto"
    batch_size: PositiveInt = 8
    epochs: PositiveInt = 30
    weight_decay: NonNegativeFloat = 0.0


class ClassifierFinetuneSettings(FinetuneSettings):
    """How a classifier learns records; the fields are those of `FinetuneSettings`."""

    batch_size: PositiveInt = 32
    epochs: PositiveInt = 10


@dataclass(frozen=True)
class Until:
    """A goal for a metric of the records, such as ma>=0.99."""

    metric: str
    sign: str
    limit: float

    @property
    def families(self) -> tuple[str, ...]:
        """The families of models that the metric can be measured on."""
        return self.definition.families

    @property
    def definition(self) -> Metric:
        """The metric itself."""
        return registry.load("metrics", self.metric).metric

    @classmethod
    def parse(cls, text: str) -> "Until":
        """From "metric>=number".

        Raises:
            UserError: It is not of that form, or there is no such metric.
        """
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*([\d.eE+-]+)\s*", text)
        try:
            limit = float(match.group(3)) if match else math.nan
        except ValueError:
            limit = math.nan
        if match is None or math.isnan(limit):
            raise UserError(f"--until {text!r}: write a metric and a limit, for example 'ma>=0.99'")
        until = cls(match.group(1), match.group(2), limit)
        if until.definition.versus or until.definition.needs in (
            "target",
            "bertscore",
            "retrained",
        ):
            raise UserError(f"--until {text!r}: this metric needs more than the records themselves")
        return until

    def reached(self, value: float) -> bool:
        """Whether a value of the metric meets the goal."""
        return bool(COMPARE[self.sign](value, self.limit))


@dataclass(frozen=True)
class FinetuneResult:
    """The trained model, the epochs it took, and the last value of the goal's metric."""

    model: PreTrainedModel
    epochs: int
    value: float | None
    reached: bool | None


def finetune_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: TokenizedSet | LabelledSet,
    settings: FinetuneSettings,
    trainer: Trainer,
    until: Until | None = None,
) -> FinetuneResult:
    """Minimise the mean loss of the records' labels; stop early once the goal is reached."""
    text = isinstance(records, TokenizedSet)
    take_epoch = learn(model, settings, trainer, records if text else records.examples)
    value = None
    for epoch in range(1, settings.epochs + 1):
        model = take_epoch()
        if until is not None:
            value = trainer.evaluate_round(partial(_goal_value, until, model, tokenizer, records))
        trainer.log_round({"round": epoch, "epochs": settings.epochs, "value": value})
        if until is not None and value is not None and until.reached(value):
            return FinetuneResult(model, epoch, value, True)
    return FinetuneResult(model, settings.epochs, value, None if until is None else False)


def _goal_value(
    until: Until,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: TokenizedSet | LabelledSet,
) -> float:
    metric = until.definition
    if isinstance(records, LabelledSet):
        labels = Loaded(model, tokenizer, "").labels
        answers = classify(model, records, labels)
    else:
        questions = language_model.Questions(
            continuations="all" if metric.needs == "continuations" else "none",
            prompt_start=EvaluationSettings().prompt_start,
        )
        answers = language_model.infer(model, tokenizer, records.windows, questions)
    values = evaluate_set(answers, {until.metric: metric}, records.groups, resamples=0)
    if until.metric not in values:
        raise UserError(f"--until: {until.metric} cannot be measured on these records")
    return values[until.metric].value


def learn_all(
    model: PreTrainedModel,
    settings: FinetuneSettings,
    trainer: Trainer,
    records: TokenizedSet | Sequence[Example],
) -> PreTrainedModel:
    """The model after all the settings' epochs."""
    take_epoch = learn(model, settings, trainer, records)
    for _ in range(settings.epochs):
        model = take_epoch()
    return model


def learn(
    model: PreTrainedModel,
    settings: FinetuneSettings,
    trainer: Trainer,
    records: TokenizedSet | Sequence[Example],
) -> Callable[[], PreTrainedModel]:
    """A function that takes one of all the settings' epochs and returns the model."""
    count, batches = batches_of(records)
    steps = math.ceil(count / settings.batch_size) * settings.epochs
    model = begin(model, settings, trainer, records, steps)

    def epoch() -> PreTrainedModel:
        for batch, num_tokens in batches(model, settings.batch_size, trainer.generator):
            trainer.step(partial(mean_losses, model, {"loss": batch}))
            trainer.tokens += num_tokens
        return model

    return epoch


def begin(
    model: PreTrainedModel,
    settings: FinetuneSettings,
    trainer: Trainer,
    records: TokenizedSet | Sequence[Example],
    steps: int,
) -> PreTrainedModel:
    """Start training by the settings, for so many steps; returns the model to train.

    A classifier has its dropout on, and gradients of norm 1 at most.
    """
    text = isinstance(records, TokenizedSet)
    return trainer.start(
        model,
        resolve_learning_rate(settings.learning_rate, model, AUTO_RATE_TIMES_WIDTH),
        weight_decay=settings.weight_decay,
        dropout=not text,
        max_gradient_norm=None if text else 1.0,
        schedule=lambda step: share_of_peak(step, steps),
    )


# The batches of one pass, for a model, of a size and in an order: this process's share of each, and
# the tokens of the whole batch.
Batches = Callable[[PreTrainedModel, int, Generator], Iterator[tuple[Part | None, int]]]


def batches_of(records: TokenizedSet | Sequence[Example]) -> tuple[int, Batches]:
    """How many windows or examples a pass has, and what gives their batches."""
    if not isinstance(records, TokenizedSet):
        return len(records), partial(_example_batches, records)
    # A window inside a long prompt has no label that counts; a mean over none is no number.
    windows = [window.with_end() for window in records.windows if window.scored.any()]
    return len(windows), partial(_window_batches, windows)


def _window_batches(
    windows: Sequence[Window], model: PreTrainedModel, size: int, generator: Generator
) -> Iterator[tuple[Part | None, int]]:
    order = torch.randperm(len(windows), generator=generator).tolist()
    for start in range(0, len(order), size):
        some = [windows[index] for index in order[start : start + size]]
        yield share_of(some, sharding.device_of(model)), sum(map(len, some))


def _example_batches(
    examples: Sequence[Example], _: PreTrainedModel, size: int, generator: Generator
) -> Iterator[tuple[Part | None, int]]:
    for some in similar_lengths(examples, size, generator):
        yield some, sum(map(len, some))


def share_of_peak(step: int, total: int) -> float:
    """The learning rate of a step: up over a twentieth of all steps, then down to 0."""
    warmup = max(1, round(WARMUP_SHARE * total))
    return min((step + 1) / warmup, (total - step) / max(1, total - warmup))


def read_recipe(folder: str) -> Recipe | None:
    """How a model made by `unlearner finetune` was made; None for any other."""
    try:
        recipe = read_json(Path(folder) / PROVENANCE_FILE, LARGE)
        return Recipe(str(recipe["model"]), dict(recipe["finetune"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def recipe_for(known: Recipe | None, pretrained: str, changes: Mapping[str, object]) -> Recipe:
    """The target's recipe with the user's changes to it.

    Args:
        known: The target's; None where it is not known.
        pretrained: The model to start from; where empty, the one that the target started from.
        changes: Settings of `FinetuneSettings`; None leaves the target's.

    Raises:
        UserError: It is not known what the target was fine-tuned from.
    """
    if not pretrained and known is None:
        raise UserError(
            "method.pretrained: how the target was made is not known (its folder has no "
            "provenance.json); name the encoder that it was fine-tuned from"
        )
    known = known or Recipe(pretrained, {})
    settings = {
        name: known.finetune[name]
        for name in FinetuneSettings.model_fields
        if name in known.finetune
    }
    chosen = {name: value for name, value in changes.items() if value is not None}
    return Recipe(pretrained or known.pretrained, settings | chosen)


def new_model(pretrained: str, data: UnlearningData | ClassifierData) -> PreTrainedModel:
    """A pretrained model, where labels are to be learned with a fresh head for the target's.

    Raises:
        UserError: It cannot be loaded, or reads other tokens than the sets are made of.
    """
    if isinstance(data, ClassifierData):
        kind, loaded = "encoder", load_with_new_head(pretrained, data.family, data.labels)
    else:
        kind, loaded = "model", load_causal_lm(pretrained)
    if loaded.tokenizer.get_vocab() != data.tokenizer.get_vocab():
        raise UserError(
            f"method.pretrained: the tokenizer of {pretrained} differs from the target's; "
            f"name the {kind} that the target was fine-tuned from"
        )
    return loaded.model
