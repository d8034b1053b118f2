"""Representation misdirection for unlearning (RMU)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from unlearner import functional, processes
from unlearner.data.batches import Tensors
from unlearner.errors import UserError
from unlearner.inference.hidden_states import keep_states, states_at_labels
from unlearner.inference.reference import Batch
from unlearner.methods.base import Method
from unlearner.models import sharding
from unlearner.models.adapters import without_adapters
from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import Drawing, Places, Stop, take_epoch, train_to_level
from unlearner.training.trainer import AUTO_RATE_TIMES_WIDTH, Terms, Trainer, resolve_learning_rate

# Blocks of which weights are trained: that of the layer and the two before it.
TRAINED_BLOCKS = 3


@dataclass(frozen=True)
class Goal:
    """What a step is compared with.

    Attributes:
        direction: u, (D,).
        retain: The target model's hidden states at this process's retain labels, (N, D).
    """

    direction: Tensor
    retain: Tensor


class RMU(Method):
    r"""Steer what a middle layer makes of the forget records towards a random direction.

    .. math::
        L = E_{forget} \| h_l - c u \|^2 + a \, E_{retain} \| h_l - h_{l,ref} \|^2

    with h_l the hidden state behind block l, E the mean over the positions from which the scored
    tokens of a step are predicted, u a unit vector whose entries are drawn uniformly from [0, 1)
    before they are scaled, and ref the target model. Only the down-projections of the blocks l - 2,
    l - 1 and l are trained: the weights, not the biases, of every linear map outside attention that
    writes hidden states; of a model with adapters the adapters on them.

    Reference: Li et al. (2024), arXiv:2403.03218.
    Differs from the paper and its code: the learning rate (theirs is 5e-5), the batch (4) and the
    rule to stop (150 batches); squares are summed over the hidden units as in the paper, where the
    code and open-unlearning take their mean, so that both terms are theirs times the hidden size,
    which Adam's steps do not notice and `training.max_gradient_norm` does; means are over all
    positions of a step, where the paper and open-unlearning take each record's own first and the
    code counts padding; the states are those from which scored tokens are predicted, where
    open-unlearning takes those of the scored tokens themselves, one position further on; of
    retained text 4,096 windows at most are learned from, drawn once.

    The paper chooses c and a for each model; the defaults are those of its Zephyr-7B. In a model of
    64 hidden units that knew 40 TOFU records, with states 10 long, they had changed nothing after 3
    epochs; c = 60 and a = 10 had brought MA from 0.99 to 0.61 after 6.

    Args:
        retain_batch_size: Windows of retained text of a step.
        steering_coefficient: c, the length that hidden states of forget records are to have: some
            times what it is in the target model.
        retain_weight: a.
        layer: l, counted from 0; None for a quarter of the depth, the paper's 7 of 32, and 2 at
            least where there are so many.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "RMU (misdirected hidden states)"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {
        "steering_coefficient": (1.0, 300.0),
        "retain_weight": (1.0, 1200.0),
    }

    retain_batch_size: PositiveInt = 8
    steering_coefficient: PositiveFloat = 6.5
    retain_weight: NonNegativeFloat = 1200.0
    layer: NonNegativeInt | None = None
    stop: Stop = "suppressed"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"retain": "states"}

    def layer_of(self, model: PreTrainedModel) -> int:
        """The number of block l in a model.

        Raises:
            UserError: The model has no such block.
        """
        depth = len(sharding.blocks(model))
        if self.layer is None:
            return min(max(2, round(depth / 4) - 1), depth - 1)
        if self.layer >= depth:
            raise UserError(
                f"method.layer: {self.layer}, but MODEL has the blocks 0 to {depth - 1}; take one "
                "of these"
            )
        return self.layer

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Goal
    ) -> Terms:
        """The weighted terms of one step.

        Args:
            reference: What the step is compared with, or the frozen target model; then u is the
                same for all models of one width.
        """
        layer, goal = self.layer_of(model), reference
        if not isinstance(goal, Goal):
            with torch.no_grad(), without_adapters(goal):
                states = states_at_labels(goal, layer, batch["retain"])
            goal = Goal(random_direction(model, torch.Generator().manual_seed(0)), states)
        goals = {
            "forget": (self.steering_coefficient * goal.direction)[None],
            "retain": goal.retain,
        }
        weights = {"forget": 1.0, "retain": self.retain_weight}
        return {
            name: weights[name] * _mean_distance(model, layer, batch[name], goal)
            for name, goal in goals.items()
        }

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> PreTrainedModel:
        model, layer = trainer.prepare(model), self.layer_of(model)
        rate = resolve_learning_rate(self.learning_rate, model, AUTO_RATE_TIMES_WIDTH)
        drawing = Drawing(self, data, {}, trainer.generator)
        direction = random_direction(model, trainer.generator)
        states = keep_states(model, layer, drawing.windows["retain"])

        def terms(places: Places) -> Terms:
            device = sharding.device_of(model)
            mine = [states[place] for place in processes.share(places["retain"])]
            rows = torch.cat(mine) if mine else torch.zeros(0, len(direction))
            return self.loss(model, drawing.batch(places, device), Goal(direction, rows.to(device)))

        with only_trained(model, down_projections(model, layer)):
            model = trainer.start(model, rate)
            epoch = partial(take_epoch, drawing, trainer, terms)
            return train_to_level(self, model, data, trainer, epoch)


def random_direction(model: PreTrainedModel, generator: torch.Generator) -> Tensor:
    """u: a unit vector (D,) with entries >= 0, on the model's device."""
    drawn = torch.rand(model.config.get_text_config().hidden_size, generator=generator)
    return (drawn / drawn.norm()).to(sharding.device_of(model))


def _mean_distance(
    model: PreTrainedModel, layer: int, batch: Tensors | None, goals_ND: Tensor
) -> Tensor:
    """Mean over all processes' label positions of the squared distance from its goal."""
    states = states_at_labels(model, layer, batch)
    goals = goals_ND if len(goals_ND) == len(states) else goals_ND.expand(len(states), -1)
    return processes.gather_rows(functional.squared_distances(states, goals)).mean()


def down_projections(model: PreTrainedModel, layer: int) -> list[Tensor]:
    """The weights to be trained of block `layer` and the two before it.

    Raises:
        UserError: A block has none that is known.
    """
    width = model.config.get_text_config().hidden_size
    found: dict[int, Tensor] = {}
    first = max(0, layer - TRAINED_BLOCKS + 1)
    for number, block in enumerate(sharding.blocks(model)[first : layer + 1], start=first):
        before = len(found)
        for name, module in block.named_modules():
            if "att" not in name and _writes(module) == width:
                found |= {
                    id(some): some
                    for some in module.parameters()
                    if some.requires_grad and some.dim() > 1
                }
        if len(found) == before:
            raise UserError(
                f"method rmu: block {number} of MODEL has no linear layer outside attention that "
                f"writes its {width} hidden units; take another method"
            )
    return list(found.values())


def _writes(module: nn.Module) -> int:
    """Outputs of a linear layer, below its adapter where it has one; 0 for other modules."""
    plain = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if isinstance(plain, Conv1D):
        return plain.nf
    return plain.out_features if isinstance(plain, nn.Linear) else 0


@contextmanager
def only_trained(model: PreTrainedModel, weights: Sequence[Tensor]) -> Iterator[None]:
    """While the block runs, nothing but these weights is trained."""
    # By name: sharding puts others in their place.
    before = {name: some.requires_grad for name, some in model.named_parameters()}
    trained = {id(some) for some in weights}
    for some in model.parameters():
        some.requires_grad_(id(some) in trained)
    try:
        yield
    finally:
        for name, some in model.named_parameters():
            some.requires_grad_(before[name])
