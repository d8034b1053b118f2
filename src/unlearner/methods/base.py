"""What a method is: hyper-parameters in the constructor, data in the call."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Generator
from transformers import PreTrainedModel

from unlearner import registry
from unlearner.errors import UserError
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS
from unlearner.training import classifier_loop, language_loop
from unlearner.training.data import ClassifierData, Recipe, UnlearningData
from unlearner.training.trainer import LearningRate, Terms, Trainer

# The rules to stop by of both families.
Stop = Literal[classifier_loop.Stop, language_loop.Stop]

RULES = {
    **dict.fromkeys(CAUSAL_LM, get_args(language_loop.Stop)),
    **dict.fromkeys(CLASSIFIERS, get_args(classifier_loop.Stop)),
}


class Exactness(NamedTuple):
    """Why nothing of the records can be left in a model, in the words of a report."""

    done: str  # what was done, such as "A new model was trained without the records"
    why: str  # such as "they were trained without any of the records"


class Method(BaseModel, ABC):
    """Anything that unlearns. The class is its configuration section: unknown fields fail.

    A subclass writes `unlearn`; one that is a loss and nothing else is a `LossMethod`.

    Args:
        learning_rate: Of AdamW, or "auto" for 0.064 / hidden size, 0.096 / hidden size of
            `icu`; of a classifier 0.0384 / hidden size, 1e-4 for 384 units.
        batch_size: Forget records of one step.
        max_epochs: Passes over the forget set at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # What a report calls it; empty for the name of its file.
    label: ClassVar[str] = ""
    # Set where the weights are exact by construction: as if the records had never been learned.
    exact: ClassVar[Exactness | None] = None
    # The families of models that it works on.
    families: ClassVar[tuple[str, ...]] = CAUSAL_LM
    # The sets that it works on: "forget", "retain" (what it learns or stays close on), "analogous"
    # (ICU's), and for classifiers "holdout".
    needs: ClassVar[tuple[str, ...]] = ("forget",)
    # Its loss reads the forget set; else what it makes of it, or the retain set alone.
    reads_forget: ClassVar[bool] = True
    # Records that count as forgotten sit the next epoch out.
    skips_forgotten: ClassVar[bool] = False
    # Of a language model: an evaluation round follows each epoch, so that their number is known.
    rounds_are_epochs: ClassVar[bool] = True
    # It makes the model again from a pretrained one, and so has nothing to put adapters on.
    begins_anew: ClassVar[bool] = False
    # Whole models beside the one in training. "target" costs nothing where adapters are trained:
    # with those off, the model in training is the target.
    companion_models: ClassVar[tuple[str, ...]] = ()
    # Windows that go forward for each forget window of a step, companions included.
    windows_per_record: ClassVar[int] = 1
    # The one or two weights that decide its result, with the range in which a search looks.
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {}
    # What "auto" or None in a field stands for, where that depends on the family.
    by_family: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    learning_rate: LearningRate = "auto"
    batch_size: PositiveInt = 8
    max_epochs: PositiveInt = 40

    @property
    def name(self) -> str:
        """The method's name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def kept_per_step(self) -> int:
        """Windows of retained text in a step."""
        if "retain" not in self.needs:
            return 0
        return self.model_dump().get("retain_batch_size", self.batch_size)

    @property
    def learns_from_unseen(self) -> bool:
        """Whether it learns from some unseen text, which then no figure may be measured on."""
        return "unseen_per_step" in type(self).model_fields

    @property
    def asks(self) -> Mapping[str, str]:
        """What the loss compares with the target language model on which set.

        "log_probs" of its labels, "logits" at their positions, or "states", hidden states, which
        the method stores itself.
        """
        return {}

    def needs_of(self, family: str) -> tuple[str, ...]:
        """The sets that it works on with models of a family."""
        # Of language models unseen text gives the level only, which no method reads itself.
        left_out = ("holdout",) if family in CAUSAL_LM else ()
        return tuple(name for name in self.needs if name not in left_out)

    def for_family(self, family: str) -> Self:
        """The method with everything filled in that depends on the family of models.

        Raises:
            UserError: A setting means nothing for that family, or one that it needs is missing.
        """
        fields, filled = self.model_dump(), self.by_family.get(family, {})
        filled = {name: value for name, value in filled.items() if fields[name] in (None, "auto")}
        stop, allowed = (fields | filled).get("stop"), RULES[family]
        # That a method is of another family altogether is said where the model is known.
        if family in self.families and stop is not None and stop not in allowed:
            raise UserError(
                f"method.stop: {stop!r} is no rule for {family} models; "
                f"allowed: {', '.join(dict.fromkeys(('auto', *allowed)))}"
            )
        return self.model_copy(update=filled)

    def search_start(self, field: str, family: str) -> float:
        """The value of a field of `searched` that a search begins with."""
        return float(getattr(self, field))

    def check_sets(self, sets: Mapping[str, Any]) -> None:
        """Refuse records that it cannot work on, before anything slow is done.

        Raises:
            UserError: It cannot work on them.
        """

    def check_target(self, recipe: Recipe | None) -> None:
        """Refuse a language model of which too little is known, before anything slow is done.

        Args:
            recipe: How it was made; None where that is not known.

        Raises:
            UserError: The method cannot work on it.
        """

    def remarks(self, model: PreTrainedModel) -> tuple[str, ...]:
        """What is to be said of running the method on this model, a sentence each."""
        return ()

    def companions(self, data: Any, generator: Generator) -> Mapping[str, Any]:
        """Sets that it makes itself, with a record for each forget record, which go with it.

        For classifiers: what it learns in place of the sets of the same names.

        Args:
            data: `UnlearningData`, or `ClassifierData`.
            generator: The run's source of randomness.
        """
        return {}

    def loss(self, model: PreTrainedModel, batch: Any, reference: Any) -> Terms:
        """The weighted scalar terms of one step, by name; their sum is the objective.

        A term of the forget records is named "forget": where there is only one record, its value
        is not logged.

        Args:
            batch: A part for each set that is named in `needs` or made by `companions`: of text as
                `data.batches.collate` makes it, of classifiers as
                `data.labelled.collate_examples`, or the examples themselves.
            reference: The frozen target model, or what is stored of it: see `asks` and
                `companion_models`. Losses that compare with nothing do not read it.
        """
        raise TypeError(f"{self.name} is a procedure, and has no loss of its own")

    @abstractmethod
    def unlearn(self, model: PreTrainedModel, data: Any, trainer: Trainer) -> PreTrainedModel:
        """Train `model` in place on the sets in `data` and return the unlearned model."""


class LossMethod(Method):
    """A method that is its `loss` and nothing else, for language models, classifiers or both.

    Each family has a loop that takes care of the rest: batches of the sets in `needs`, evaluation
    between them, and the rule to stop.
    """

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Any, reference: Any) -> Terms: ...

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData | ClassifierData, trainer: Trainer
    ) -> PreTrainedModel:
        if isinstance(data, ClassifierData):
            method = self.for_family(data.family)
            return classifier_loop.descend_classifier(method, model, data, trainer)
        return language_loop.descend(self.for_family(CAUSAL_LM[0]), model, data, trainer)


def load_method(name: str) -> type[Method]:
    """The one public class of `unlearner.methods.<name>` that is a method.

    Raises:
        UserError: There is no such method.
    """
    module = registry.load("methods", name)
    found = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
        and (hasattr(value, "loss") or hasattr(value, "unlearn"))
    ]
    assert len(found) == 1, f"methods/{name}.py must define one public method, found {found}"
    return cast("type[Method]", found[0])
