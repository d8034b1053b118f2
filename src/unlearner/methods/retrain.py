"""Retraining without the records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import NonNegativeFloat, PositiveInt

from unlearner.data.duplicates import find_duplicates
from unlearner.data.windows import TokenizedSet, contents
from unlearner.errors import UserError
from unlearner.methods.base import Method
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS
from unlearner.models.loading import load_causal_lm
from unlearner.training.classifier_finetune import (
    ClassifierFinetuneSettings,
    learn,
    new_classifier,
    read_recipe,
    recipe_for,
)
from unlearner.training.classifier_loop import Watch
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.finetune import FinetuneSettings
from unlearner.training.finetune import learn as learn_text
from unlearner.training.language_loop import LevelRules
from unlearner.training.stop_rule import Refinement
from unlearner.training.trainer import LearningRate, Trainer

NO_RETAIN = "--retain: none given; method retrain learns all the remaining training data anew"


class Retrain(Method):
    r"""Make the model again from the pretrained one, without the records: the yardstick.

    .. math:: \min_\theta NLL(retain), \quad \theta_0 = pretrained

    with NLL the mean negative log-probability in nats over all scored tokens of a step, for
    classifiers the mean cross-entropy over all labelled positions, and the settings that the target
    was made with: `unlearner finetune` writes them down beside its model. Of any other language
    model they are taken to be the defaults of that command.

    Reference: none; what every other method is measured against.
    Differs: nothing, where the target's recipe is known; the fields below replace parts of it. Of
    the retain set, which has to be all the remaining training data, exact copies of forget records
    are left out.

    Args:
        pretrained: The model to start from, by folder or hub id. A classifier's is the target's own
            where empty; of a language model it has to be given.
        learning_rate: At its peak, of AdamW.
        batch_size: Windows or samples of a step.
        epochs: Passes over the remaining data.
        weight_decay: Of AdamW.
        max_epochs: Not used.
    """

    families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *CLASSIFIERS)
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    begins_anew: ClassVar[bool] = True

    pretrained: str = ""
    learning_rate: LearningRate | None = None  # type: ignore[assignment]  # None: the target's
    batch_size: PositiveInt | None = None  # type: ignore[assignment]
    epochs: PositiveInt | None = None
    weight_decay: NonNegativeFloat | None = None

    @property
    def kept_per_step(self) -> int:
        return 0  # the kept text is not beside what a step passes over: it is that

    def for_family(self, family: str) -> Self:
        if family in CAUSAL_LM and not self.pretrained:
            raise UserError(
                "method.pretrained: none given; name the pretrained model, by folder or hub id, "
                "that the target was fine-tuned from"
            )
        return self

    def check_sets(self, sets: Mapping[str, Any]) -> None:
        if "retain" not in sets:
            raise UserError(NO_RETAIN)

    def unlearn(self, model: Any, data: UnlearningData | ClassifierData, trainer: Trainer) -> Any:
        """Leave `model` as it is and return the new one."""
        if isinstance(data, ClassifierData):
            return self._retrain_classifier(model, data, trainer)
        settings = self.for_family("causal-lm")._settings_of(model)
        refinement = Refinement(LevelRules(), data, by_set=True)
        first = refinement.look(trainer, model)
        trainer.log_round(first.line({}))
        retrained = self._pretrained(data)
        take_epoch = learn_text(retrained, settings, trainer, remaining(data))
        for _ in range(settings.epochs):
            retrained = take_epoch()
        trainer.log_round(refinement.look(trainer, retrained, first).line({}))
        return retrained

    def _settings_of(self, model: Any) -> FinetuneSettings:
        """Those that the target was made with, as far as they are known, and the user's changes."""
        changes = self.model_dump(include=set(FinetuneSettings.model_fields))
        recipe = read_recipe(model.name_or_path)
        known = {} if recipe is None else recipe.finetune
        known = {name: known[name] for name in changes if name in known}
        chosen = {name: value for name, value in changes.items() if value is not None}
        return FinetuneSettings.model_validate(known | chosen)

    def _pretrained(self, data: UnlearningData) -> Any:
        """The model to start from.

        Raises:
            UserError: It cannot be loaded, or reads other tokens than the sets are made of.
        """
        loaded = load_causal_lm(self.pretrained)
        if loaded.tokenizer.get_vocab() != data.tokenizer.get_vocab():
            raise UserError(
                f"method.pretrained: the tokenizer of {self.pretrained} differs from the target's; "
                "name the model that the target was fine-tuned from"
            )
        return loaded.model

    def _retrain_classifier(self, model: Any, data: ClassifierData, trainer: Trainer) -> Any:
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


def remaining(data: UnlearningData) -> TokenizedSet:
    """The retain set without exact copies of forget records.

    Raises:
        UserError: There is no retain set, or nothing else is in it.
    """
    if data.retain is None:
        raise UserError(NO_RETAIN)
    forget, retain = (contents(some, data.tokenizer) for some in (data.forget, data.retain))
    copies = {copy.other for copy in find_duplicates(forget, retain) if copy.exact}
    left = [place for place in range(len(retain)) if place not in copies]
    if not left:
        raise UserError("--retain: all of its records are records to forget; give the others")
    return data.retain.subset(left) if copies else data.retain
