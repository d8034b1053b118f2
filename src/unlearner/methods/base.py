"""What a method is: hyper-parameters in the constructor, data in the call."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

LearningRate = PositiveFloat | Literal["auto"]

# Adam's step is about the learning rate whatever the gradient, while the useful change of a weight
# shrinks with the width of the layer: one rate times width serves small and large models alike.
# 0.064 / width is 1e-3 for 64 hidden units and 1.6e-5 for 4096.
AUTO_RATE_TIMES_WIDTH = 0.064

# Of a classifier: 1e-4 for 384 hidden units, 5e-5 for 768.
CLASSIFIER_RATE_TIMES_WIDTH = 0.0384


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
        from unlearner.descent import descend

        return descend(self, model, data, trainer)


def resolve_learning_rate(rate: float | str, model: Any, times_width: float) -> float:
    """The rate itself, or for "auto" `times_width` / hidden size."""
    if isinstance(rate, float):
        return rate
    return times_width / model.config.get_text_config().hidden_size
