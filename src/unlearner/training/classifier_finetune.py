"""Make a target classifier, or a retrained one: cross-entropy on labelled records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from unlearner import registry
from unlearner.data.labelled import Example, LabelledSet
from unlearner.errors import UserError
from unlearner.evaluation.intervals import evaluate_set
from unlearner.inference.classifier import ask
from unlearner.models.heads import Classifier
from unlearner.models.loading import load_with_new_head
from unlearner.training.data import ClassifierData, Recipe, similar_lengths
from unlearner.training.finetune import (
    AUTO_RATE_TIMES_WIDTH,
    FinetuneResult,
    FinetuneSettings,
    Until,
    share_of_peak,
)
from unlearner.training.trainer import Trainer, resolve_learning_rate

RECIPE_FILE = "finetune.json"


class ClassifierFinetuneSettings(FinetuneSettings):
    """How a classifier learns records; the fields are those of `FinetuneSettings`."""

    batch_size: PositiveInt = 32
    epochs: PositiveInt = 10


def finetune_classifier(
    model: Any,
    records: LabelledSet,
    labels: tuple[str, ...],
    settings: FinetuneSettings,
    trainer: Trainer,
    until: Until | None = None,
) -> FinetuneResult:
    """Minimise the mean cross-entropy, with dropout; stop early once the goal is reached."""
    examples = records.examples
    steps = math.ceil(len(examples) / settings.batch_size) * settings.epochs
    take_epoch = learn(model, settings, trainer, steps)
    value = None
    for epoch in range(1, settings.epochs + 1):
        model = take_epoch(examples)
        value = None
        if until is not None:
            value = trainer.look(partial(_value, model, records, labels, until))
        trainer.log_round({"round": epoch, "epochs": settings.epochs, "value": value})
        if until is not None and value is not None and until.reached(value):
            return FinetuneResult(model, epoch, value, True)
    return FinetuneResult(model, settings.epochs, value, None if until is None else False)


def learn(
    model: Any, settings: FinetuneSettings, trainer: Trainer, num_steps: int
) -> Callable[[Sequence[Example]], Any]:
    """A function that takes one epoch on some examples and returns the model.

    Args:
        num_steps: Steps of all epochs, over which the learning rate rises and falls.
    """
    rate = resolve_learning_rate(settings.learning_rate, model, AUTO_RATE_TIMES_WIDTH)
    model = trainer.start(
        model,
        rate,
        weight_decay=settings.weight_decay,
        dropout=True,
        max_gradient_norm=1.0,
        schedule=lambda step: share_of_peak(step, num_steps),
    )
    classifier = Classifier(model)

    def epoch(examples: Sequence[Example]) -> Any:
        for batch in similar_lengths(examples, settings.batch_size, trainer.generator):
            trainer.step(partial(_terms, classifier, batch))
            trainer.tokens += sum(map(len, batch))
        return model

    return epoch


def _terms(classifier: Classifier, batch: Sequence[Example]) -> dict[str, Tensor]:
    said = classifier.encode(batch)
    return {"loss": cross_entropy(said.logits.float(), said.labels)}


def _value(model: Any, records: LabelledSet, labels: tuple[str, ...], until: Until) -> float:
    metric = registry.load("metrics", until.metric).metric
    answers = ask(model, records.examples, labels)
    found = evaluate_set(answers, {until.metric: metric}, records.groups, resamples=0)
    if until.metric not in found:
        raise UserError(f"--until: {until.metric} cannot be measured on these records")
    return found[until.metric].value


def read_recipe(folder: str) -> Recipe | None:
    """How a model made by `unlearner finetune` was made; None for any other."""
    path = Path(folder) / RECIPE_FILE
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        return Recipe(str(recipe["model"]), dict(recipe["finetune"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def recipe_for(data: ClassifierData, pretrained: str, changes: Mapping[str, Any]) -> Recipe:
    """The target's recipe with the user's changes to it.

    Args:
        pretrained: The encoder to start from; where empty, the one that the target started from.
        changes: Settings of `ClassifierFinetuneSettings`; None leaves the target's.

    Raises:
        UserError: It is not known what the target was fine-tuned from.
    """
    known = data.recipe.finetune if data.recipe else {}
    if not pretrained and data.recipe is None:
        raise UserError(
            "method.pretrained: how the target was made is not known (its folder has no "
            "finetune.json); name the encoder that it was fine-tuned from"
        )
    name = pretrained or (data.recipe.pretrained if data.recipe else "")
    settings = {key: known[key] for key in ClassifierFinetuneSettings.model_fields if key in known}
    chosen = {key: value for key, value in changes.items() if value is not None}
    return Recipe(name, settings | chosen)


def new_classifier(recipe: Recipe, data: ClassifierData) -> Any:
    """The recipe's encoder with a fresh head for the target's labels.

    Raises:
        UserError: It cannot be loaded, or reads other tokens than the sets are made of.
    """
    loaded = load_with_new_head(recipe.pretrained, data.family, data.labels)
    if loaded.tokenizer.get_vocab() != data.tokenizer.get_vocab():
        raise UserError(
            f"method.pretrained: the tokenizer of {recipe.pretrained} differs from the target's; "
            "name the encoder that the target was fine-tuned from"
        )
    return loaded.model
