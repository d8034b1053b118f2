"""Simple negative preference optimisation (SimNPO)."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from unlearner.inference.reference import Batch, likelihoods
from unlearner.methods.base import LossMethod, Terms
from unlearner.training.language_loop import Stop


class SimNPO(LossMethod):
    r"""Push forget records down by their mean log-probability, without a reference model.

    .. math::
        L = - w_f \frac{2}{\beta} E_{forget}
            \log \sigma(- \frac{\beta}{|y|} \log p(x) - \gamma) + w_r \, NLL(retain)

    with p(x) the probability of all scored tokens of a record together, |y| their number, and NLL
    the mean negative log-probability in nats over all scored tokens of a step. A record is pushed
    less the lower its mean log-probability is, whatever it was under the target model.

    Reference: Fan et al. (2024), arXiv:2410.07163. `beta` and `forget_weight` are those of its code
    for TOFU's forget10; for forget05 it takes 2.5 and 0.1375, for WMDP 5.5.
    Differs from the paper: the learning rate, and the rule to stop; the paper takes a fixed number
    of epochs (`stop: never`).

    Args:
        retain_batch_size: Windows of retained text of a step.
        beta: Inverse temperature of the mean log-probability; in the limit 0 the forget term's
            gradient is gradient ascent's, each record counting alike.
        gamma: The reward margin; the larger it is, the sooner the push fades.
        forget_weight: w_f.
        retain_weight: w_r.
        stop: The rule that ends it; see `language_loop.Stop`.
    """

    label: ClassVar[str] = "SimNPO"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.0625, 2.0)}

    retain_batch_size: PositiveInt = 8
    beta: PositiveFloat = 4.5
    gamma: NonNegativeFloat = 0.0
    forget_weight: NonNegativeFloat = 0.125
    retain_weight: NonNegativeFloat = 1.0
    stop: Stop = "suppressed"

    def loss(self, model: PreTrainedModel, batch: Batch, reference: object = None) -> Terms:
        mean_R = likelihoods(model, batch["forget"]).means()
        pushed = -(2 / self.beta) * logsigmoid(-self.beta * mean_R - self.gamma).mean()
        retain = likelihoods(model, batch["retain"]).loss()
        return {"forget": self.forget_weight * pushed, "retain": self.retain_weight * retain}
