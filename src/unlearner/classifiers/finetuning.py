"""Make a target classifier, or a retrained one: cross-entropy on labelled records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from unlearner import catalog
from unlearner.classifiers.asking import ask
from unlearner.classifiers.heads import Classifier
from unlearner.classifiers.sets import Recipe, similar_lengths
from unlearner.data.labelled import Example, LabelledSet
from unlearner.errors import UserError
from unlearner.evaluation import evaluate_set
from unlearner.finetuning import (
    AUTO_RATE_TIMES_WIDTH,
    FinetuneResult,
    FinetuneSettings,
    Until,
    share_of_peak,
)
from unlearner.methods.base import resolve_learning_rate
from unlearner.training import Trainer

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
    metric = catalog.load("metrics", until.metric).metric
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
