"""What a method is: hyper-parameters in the constructor, data in the call."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, PositiveInt

from unlearner.errors import UserError
from unlearner.metrics.base import CLASSIFIERS
from unlearner.registry import load
from unlearner.training.classifier_loop import Stop as ClassifierStop
from unlearner.training.language_loop import Stop as TextStop
from unlearner.training.trainer import LearningRate


class Method(BaseModel, ABC):
    """Anything that unlearns. The class is its configuration section: unknown fields fail.

    A subclass for language models writes `loss`, and has the loop of `descent.descend`, or writes
    an `unlearn` of its own.

    Args:
        learning_rate: Step size of the optimiser, or "auto" for 0.064 / hidden size; of a
            classifier 0.0384 / hidden size.
        batch_size: Forget records of one step.
        max_epochs: Passes over the forget set at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    families: ClassVar[tuple[str, ...]] = ("causal-lm",)
    # The sets that it works on: "forget", "retain" (text that it learns or stays close on),
    # "analogous" (ICU's), and for classifiers "holdout".
    needs: ClassVar[tuple[str, ...]] = ("forget",)
    # It makes the model again from a pretrained one, and so has nothing to put adapters on.
    begins_anew: ClassVar[bool] = False
    # The forget records' own windows are in the batch of its loss.
    reads_forget: ClassVar[bool] = True
    # The one or two weights that decide its result, with the range in which a search looks.
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {}

    learning_rate: LearningRate = "auto"
    batch_size: PositiveInt = 8
    max_epochs: PositiveInt = 40

    @property
    def name(self) -> str:
        """The method's name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    def needs_of(self, family: str) -> tuple[str, ...]:
        """The sets that it works on with models of a family."""
        # Of language models unseen text gives the level only, which no method reads itself.
        left_out = ("holdout",) if family == "causal-lm" else ()
        return tuple(name for name in self.needs if name not in left_out)

    def for_family(self, family: str) -> Self:
        """The method with everything filled in that depends on the family of models.

        Raises:
            UserError: A setting means nothing for that family, or one that it needs is missing.
        """
        return self

    @property
    def kept_per_step(self) -> int:
        """Windows of text to be kept in a step."""
        if "retain" not in self.needs:
            return 0
        return self.model_dump().get("retain_batch_size", self.batch_size)

    @property
    def windows_per_record(self) -> int:
        """Windows that go forward for each forget window of a step, companions included."""
        return 1

    @property
    def asks(self) -> Mapping[str, str]:
        """What the loss asks the reference model on which set: "log_probs", "logits" or "states".

        With "states", hidden states, the method keeps them itself.
        """
        return {}

    def check_sets(self, sets: Mapping[str, Any]) -> None:
        """Refuse records that it cannot work on, before anything slow is done.

        Raises:
            UserError: It cannot work on them.
        """

    def companions(self, data: Any, generator: Any) -> Mapping[str, Any]:
        """Sets that it makes itself, with a record for each forget record, which go with it.

        Args:
            data: `data.sets.UnlearningData`.
            generator: The run's source of randomness.
        """
        return {}

    def loss(self, model: Any, batch: Any, reference: Any) -> dict[str, Any]:
        """The weighted scalar terms of one step, by name; their sum is the objective.

        A term of the forget records is named "forget": where there is only one record, its value
        is not logged.
        """
        raise TypeError(f"{self.name} is a procedure, and has no loss of its own")

    def unlearn(self, model: Any, data: Any, trainer: Any) -> Any:
        """Train `model` in place on the sets in `data` and return the unlearned model."""
        from unlearner.training.language_loop import descend

        return descend(self, model, data, trainer)


def load_method(name: str) -> type[Method]:
    """The one public class of `unlearner.methods.<name>` that is a method.

    Raises:
        UserError: There is no such method.
    """
    module = load("methods", name)
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


# The rules of both; "auto" is a rule of its own for classifiers.
Stop = Literal[ClassifierStop, TextStop]


def rule_for(stop: Stop, family: str, *, auto: TextStop) -> Any:
    """The rule to stop by with models of a family: a `TextStop` or a `ClassifierStop`.

    Args:
        auto: What "auto" means for language models.

    Raises:
        UserError: The rule is one of the other family.
    """
    if family not in CLASSIFIERS and stop == "auto":
        return auto
    allowed = get_args(ClassifierStop if family in CLASSIFIERS else TextStop)
    if stop not in allowed:
        raise UserError(
            f"method.stop: {stop!r} is no rule for {family} models; "
            f"allowed: {', '.join(dict.fromkeys(('auto', *allowed)))}"
        )
    return stop


def is_text(batch: Mapping[str, Any]) -> bool:
    """Whether a batch is one of windows of text, and not of labelled examples.

    Only of text may a process have no share, and only windows tell which record they are of.
    """
    return any(some is None or "owner" in some for some in batch.values())
