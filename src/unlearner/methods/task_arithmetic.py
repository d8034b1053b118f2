"""Task arithmetic (a negated task vector)."""

from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.methods.base import Method
from unlearner.models import sharding
from unlearner.models.adapters import has_adapters, own_weights, set_own_weights
from unlearner.training.checkpoints import Weights
from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import Drawing, Places, take_epoch
from unlearner.training.losses import mean_losses
from unlearner.training.stop_rule import Refinement, Rules, is_better
from unlearner.training.trainer import AUTO_RATE_TIMES_WIDTH, Terms, Trainer, resolve_learning_rate


class TaskArithmetic(Method):
    r"""Learn the forget records, and go as far the other way.

    .. math:: \theta_a = \theta - a \, (\theta_f - \theta), \quad
        \theta_f = \arg\min NLL(forget) \text{ from } \theta

    with NLL the mean negative log-probability in nats over all scored tokens of a step. The scales
    a grow evenly up to `max_scale`, each with an evaluation of its model; the first whose forget
    records are suppressed is the result (see `language_loop.Stop`), else, of those that kept the
    retained text's perplexity under the floor, the one that had forgotten most. With adapters the
    product B A of each is scaled.

    Reference: Ilharco et al. (2022), arXiv:2212.04089.
    Differs from the paper: the learning rate and the epochs of the fine-tuning, and the choice of
    a, which the paper takes from 0.05, 0.1, ..., 1 by the accuracy on a control task.

    Args:
        learning_rate: Of the fine-tuning.
        batch_size: Forget records of one of its steps.
        finetune_epochs: Its passes over the forget set.
        max_scale: The largest a.
        max_epochs: Scales that are tried, a round each; the first is max_scale / max_epochs.
    """

    label: ClassVar[str] = "task arithmetic (negated task vector)"
    needs: ClassVar[tuple[str, ...]] = ("forget",)

    finetune_epochs: PositiveInt = 5
    max_scale: PositiveFloat = 1.0
    max_epochs: PositiveInt = 20

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> PreTrainedModel:
        rate = resolve_learning_rate(self.learning_rate, model, AUTO_RATE_TIMES_WIDTH)
        model = trainer.start(model, rate)
        before = own_weights(model)
        refinement, best = Refinement(Rules(), data, by_set=True), None
        first = state = refinement.evaluate_round(trainer, model)
        trainer.log_round(state.line({}))
        losses = {} if state.suppressed else self._learn(model, data, trainer)
        while not state.suppressed and state.round < self.max_epochs:
            self._go(model, before, trainer, state.round + 1)
            state = refinement.evaluate_round(trainer, model, first)
            trainer.log_round(state.line(losses if state.round == 1 else {}))
            if state.kept_ratio <= data.utility_floor and is_better(state, best):
                best = state
        if not state.suppressed and best is not None and best.round != state.round:
            self._go(model, before, trainer, best.round)
            trainer.details["restored_round"] = best.round
        return model

    def _learn(
        self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> dict[str, float]:
        """Fine-tune on the forget records; returns the mean of the last epoch's term."""
        drawing = Drawing(self, data, {}, trainer.generator)
        losses: dict[str, float] = {}

        def terms(places: Places) -> Terms:
            return mean_losses(model, drawing.batch(places, sharding.device_of(model)))

        for _ in range(self.finetune_epochs):
            losses = take_epoch(drawing, trainer, terms)
        trainer.keep(model)  # so that a run that goes on has it, whichever scale it was at
        return losses

    def _go(self, model: PreTrainedModel, before: Weights, trainer: Trainer, number: int) -> None:
        """Give the model the weights of a scale, by its number from 1."""
        scale = self.max_scale * number / self.max_epochs
        set_own_weights(model, negated(before, trainer.kept, scale, has_adapters(model)))


def negated(before: Weights, after: Weights, scale: float, adapters: bool) -> Weights:
    """Before - scale * (after - before), by name.

    Args:
        adapters: They are those of adapters, whose change is B A, with B zero before: B alone is
            scaled, and A is what it is after.
    """
    found = {}
    for name, some in after.items():
        first = some if adapters and "lora_A" in name else before[name]
        found[name] = first - scale * (some - first)
    return found
