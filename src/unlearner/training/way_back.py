r"""On the way back: a gradient taken between the model in training and the target model.

What is pushed away from the target's weights comes back when anyone trains on kept text, which
moves the weights back towards where they came from. A term whose gradient is taken on that way,

.. math:: \theta_a = (1 - a) \theta + a \theta_0, \quad a \sim U(0, A)

and applied to theta, asks for the same of the models that lie there. A method of our own (a study
of 2026, see `methods/quantile_matching.py`); A is a method's field `path`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from unlearner.models import adapters, sharding


class OnWayBack(NamedTuple):
    """Terms of a step whose gradient is taken on the way back.

    Attributes:
        loss: Gives them, for the model as it is when called.
        share: a; 0 is the model in training itself, 1 the target.
    """

    loss: Callable[[], dict[str, Tensor]]
    share: float


def draw_share(path: float, generator: torch.Generator) -> float:
    """The share of one step, uniform below the path; nothing is drawn for a path of 0."""
    return path * float(torch.rand((), generator=generator)) if path else 0.0


class WayBack:
    """The way from a model in training to what it was before.

    With adapters the target is the model with them off, and a model on the way has them scaled by
    1 - a: no weights are kept. Else a copy of the trained weights is, beside the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        trained = [] if self.layers else [w for w in model.parameters() if w.requires_grad]
        self.weights = [sharding.own(weight) for weight in trained]
        self.target = [weight.detach().clone() for weight in self.weights]

    @contextmanager
    def at(self, share: float) -> Iterator[None]:
        """The model theta_a for as long as the block runs; gradients stay with the weights."""
        if share == 0:
            yield
            return
        scales = [layer.scaling[adapters.ADAPTER] for layer in self.layers]
        before = [weight.detach().clone() for weight in self.weights]
        for layer, scale in zip(self.layers, scales, strict=True):
            layer.scaling[adapters.ADAPTER] = (1 - share) * scale
        with torch.no_grad():
            for weight, target in zip(self.weights, self.target, strict=True):
                weight.lerp_(target, share)
        try:
            yield
        finally:
            for layer, scale in zip(self.layers, scales, strict=True):
                layer.scaling[adapters.ADAPTER] = scale
            with torch.no_grad():
                for weight, own in zip(self.weights, before, strict=True):
                    weight.copy_(own)

    def factor(self, share: float) -> float:
        """What the terms are multiplied with, so that their gradient is that with respect to W_a.

        The scale of an adapter is a factor of its gradient, too, which (1 - a) is to be taken from.
        """
        return 1 / (1 - share) if self.layers else 1.0
