"""Retraining without the records."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Self

from pydantic import NonNegativeFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.data.duplicates import find_duplicates
from unlearner.data.windows import TokenizedSet, contents
from unlearner.errors import UserError
from unlearner.methods.base import Exactness, Method
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS
from unlearner.output import Json
from unlearner.training.classifier_loop import Watch
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    FinetuneSettings,
    learn_all,
    new_model,
    read_recipe,
    recipe_for,
)
from unlearner.training.stop_rule import Refinement, Rules
from unlearner.training.trainer import LearningRate, Trainer

NO_RETAIN = "--retain: none given; method retrain learns all the remaining training data anew"


class Retrain(Method):
    r"""Make the model again from the pretrained one, without the records, to compare with.

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

    label: ClassVar[str] = "retraining without the records"
    families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *CLASSIFIERS)
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    begins_anew: ClassVar[bool] = True
    companion_models: ClassVar[tuple[str, ...]] = ("target",)
    exact: ClassVar[Exactness | None] = Exactness(
        done="A new model was trained without the records",
        why="they were trained without any of the records",
    )

    pretrained: str = ""
    learning_rate: LearningRate | None = None  # type: ignore[assignment]  # None: the target's
    batch_size: PositiveInt | None = None  # type: ignore[assignment]
    epochs: PositiveInt | None = None
    weight_decay: NonNegativeFloat | None = None

    @property
    def kept_per_step(self) -> int:
        return 0  # the retained text is not beside what a step passes over: it is that

    def for_family(self, family: str) -> Self:
        if family in CAUSAL_LM and not self.pretrained:
            raise UserError(
                "method.pretrained: none given; name the pretrained model, by folder or hub id, "
                "that the target was fine-tuned from"
            )
        return self

    def check_sets(self, sets: Mapping[str, object]) -> None:
        if "retain" not in sets:
            raise UserError(NO_RETAIN)

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData | ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        """Leave `model` as it is and return the new one."""
        if isinstance(data, ClassifierData):
            kind, known = ClassifierFinetuneSettings, data.recipe
        else:
            self.for_family(CAUSAL_LM[0])
            kind, known = FinetuneSettings, read_recipe(str(model.name_or_path))
        changes = self.model_dump(include=set(kind.model_fields))
        recipe = recipe_for(known, self.pretrained, changes)
        evaluate = _evaluation(data, trainer)
        trainer.log_round(evaluate(model))
        retrained = learn_all(
            new_model(recipe.pretrained, data),
            kind.model_validate(recipe.finetune),
            trainer,
            data.retain.examples if isinstance(data, ClassifierData) else remaining(data),
        )
        trainer.log_round(evaluate(retrained))
        return retrained


def _evaluation(
    data: UnlearningData | ClassifierData, trainer: Trainer
) -> Callable[[PreTrainedModel], Json]:
    """A function that evaluates a model for the round's line in the report."""
    if isinstance(data, ClassifierData):
        watch = Watch("never", data)
        return lambda model: watch.evaluate_round(
            trainer, model, len(trainer.rounds), trainer.steps
        ).line({})
    refinement = Refinement(Rules(), data, by_set=True)
    return lambda model: refinement.evaluate_round(trainer, model).line({})


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
