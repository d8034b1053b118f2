"""Retraining without the records."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveInt

from unlearner.classifiers.finetuning import ClassifierFinetuneSettings, learn
from unlearner.classifiers.retraining import new_classifier, recipe_for
from unlearner.classifiers.sets import ClassifierData
from unlearner.classifiers.watching import Watch
from unlearner.methods.base import LearningRate, Method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.training import Trainer


class Retrain(Method):
    r"""Make the model again from the pretrained one, without the records: the yardstick.

    .. math:: \min_\theta CE(retain), \quad \theta_0 = pretrained

    with CE the mean cross-entropy in nats over all labelled positions of a step, and the settings
    that the target was made with: `unlearner finetune` writes them down beside its model.

    Reference: none; what every other method is measured against.
    Differs: nothing, where the target's recipe is known; the fields below replace parts of it.

    Args:
        pretrained: The encoder to start from, by folder or hub id; the target's own where empty.
        learning_rate: At its peak, of AdamW.
        batch_size: Samples of a step.
        epochs: Passes over the remaining samples.
        weight_decay: Of AdamW.
        max_epochs: Not used.
    """

    families: ClassVar[tuple[str, ...]] = CLASSIFIERS
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    begins_anew: ClassVar[bool] = True

    pretrained: str = ""
    learning_rate: LearningRate | None = None  # type: ignore[assignment]  # None: the target's
    batch_size: PositiveInt | None = None  # type: ignore[assignment]
    epochs: PositiveInt | None = None
    weight_decay: NonNegativeFloat | None = None

    def unlearn(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
        """Leave `model` as it is and return the new one."""
        changes = self.model_dump(include=set(ClassifierFinetuneSettings.model_fields))
        recipe = recipe_for(data, self.pretrained, changes)
        settings = ClassifierFinetuneSettings.model_validate(recipe.finetune)
        watch = Watch("never", data)
        trainer.log_round(watch.look(trainer, model, 0, 0).line({}))
        examples = data.retain.examples
        steps = math.ceil(len(examples) / settings.batch_size) * settings.epochs
        retrained = new_classifier(recipe, data)
        take_epoch = learn(retrained, settings, trainer, steps)
        for _ in range(settings.epochs):
            retrained = take_epoch(examples)
        trainer.log_round(watch.look(trainer, retrained, 1, trainer.steps).line({}))
        return retrained
