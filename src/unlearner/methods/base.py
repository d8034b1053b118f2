"""What a method is: hyper-parameters in the constructor, data in the call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

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

    A subclass writes `unlearn`, and `loss` where its objective can serve in a loop of one's own.

    Args:
        learning_rate: Step size of the optimiser, or "auto" for 0.064 / hidden size; of a
            classifier 0.0384 / hidden size.
        batch_size: Forget records of one step.
        max_epochs: Passes over the forget set at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    families: ClassVar[tuple[str, ...]] = ("causal-lm",)
    needs: ClassVar[tuple[str, ...]] = ("forget",)
    # It makes the model again from a pretrained one, and so has nothing to put adapters on.
    begins_anew: ClassVar[bool] = False

    learning_rate: LearningRate = "auto"
    batch_size: PositiveInt = 8
    max_epochs: PositiveInt = 40

    @property
    def name(self) -> str:
        """The method's name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def unlearn(self, model: Any, data: Any, trainer: Any) -> Any:
        """Train `model` in place on the sets in `data` and return the unlearned model."""


def resolve_learning_rate(rate: float | str, model: Any, times_width: float) -> float:
    """The rate itself, or for "auto" `times_width` / hidden size."""
    if isinstance(rate, float):
        return rate
    return times_width / model.config.get_text_config().hidden_size
