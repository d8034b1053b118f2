"""Quantile matching: forget records get the token losses of unseen ones."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from unlearner.inference.reference import (
    Batch,
    KeptReference,
    Reference,
    asked_of,
    likelihoods,
)
from unlearner.methods.base import Method
from unlearner.training.data import UnlearningData
from unlearner.training.language_loop import Drawing, Places
from unlearner.training.level_loop import (
    LevelCourse,
    PartWeights,
    Stop,
    bring_to_level,
    kept_terms,
    start_course,
)
from unlearner.training.quantiles import Partners, Quantiles, distance, quantiles
from unlearner.training.trainer import Terms, Trainer


class QuantileMatching(Method):
    r"""Give each forget record the distribution of token losses that an unseen record has.

    With m scored tokens of a forget record f, their losses l and the entropies e of the model's
    distributions there, both sorted, and the quantile functions Q and E of the same of its unseen
    partner h(f),

    .. math::
        D_f = \frac{1}{m} \sum_{k=1}^m \left[ H(r(l_{(k)}) - r(Q_{h(f)}(\tfrac{k - 1/2}{m})))
              + w_e H(e_{(k)} - E_{h(f)}(\tfrac{k - 1/2}{m})) \right]

        L = w_f \, mean_f D_f(\theta_a) + KL(p_0 \| p)_{retain} + w_r NLL_{retain}
            + KL(p_0 \| p)_{unseen}

    H(x) = x^2 / 2 below 1 and |x| - 1/2 beyond (Huber); r(l) = log(e^l - 1 + 0.01), the log-odds
    against the token, so that nearly certain tokens, which a third of a text may be, become as
    certain as those of unseen text and not a little less. The gradient of the first term is taken
    on the way back to the target model, see `training/way_back.py`; the others are means over all
    labels of a step. The ranks are the model's own, so that no token is told which loss it must
    have; a token's gradient is bounded and turns round at its level. Partners are drawn once,
    without repetition while there are enough, from the unseen records, of which one in four is held
    still by the last term and no partner (`training.quantiles.divide`); their quantiles are taken
    anew under the model in training every few steps. They are measured in no figure of the run.
    The learning rate warms up and falls as that of `finetune`.

    Related are UNDIAL (arXiv:2402.10052), KGA (arXiv:2305.06535) and oracle matching
    (arXiv:2410.23232). What was measured is in `docs/log.md`: one seed each on TOFU with a model of
    0.26 M parameters and on SmolLM2-135M.

    Reference: none; a method of our own.
    Differs from the study that it comes from by the rule to stop and by r.

    Args:
        batch_size: Forget records of a step.
        retain_batch_size: Windows of retained text of a step.
        unseen_per_step: Windows of unseen text of a step.
        forget_weight: w_f.
        entropy_weight: w_e.
        by: "losses" has r(l) = l, as in the study.
        retain_weight: w_r.
        path: A, how far on the way back to the target at most; 0 for the model in training alone.
        refresh_every: Steps after which the partners' quantiles are taken anew.
        steps_per_round: Steps between two evaluation rounds.
        min_steps: Steps at least, where `max_epochs` passes over the forget set have fewer.
        max_gradient_norm: The gradient's norm at most.
        recovered_at: Perplexity of retained text, as a multiple of the target's, at which a run may
            end.
        stop: "level" ends a run once the records are within the limits of the verdict, one by one
            and as a set, are neither more nor less likely than unseen ones (AUC of membership by
            loss within its standard error of 0.5), retained text has recovered, and both it and
            unseen text are as likely as the verdict asks for; "never" takes every step.
    """

    label: ClassVar[str] = "quantile matching"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    rounds_are_epochs: ClassVar[bool] = False
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.5, 8.0)}

    batch_size: PositiveInt = 3
    max_epochs: PositiveInt = 16
    retain_batch_size: PositiveInt = 8
    unseen_per_step: PositiveInt = 2
    forget_weight: PositiveFloat = 1.0
    entropy_weight: NonNegativeFloat = 1.0
    by: Literal["odds", "losses"] = "odds"
    retain_weight: NonNegativeFloat = 2.0
    path: float = Field(default=0.6, ge=0.0, lt=1.0)
    refresh_every: PositiveInt = 20
    steps_per_round: PositiveInt = 20
    min_steps: PositiveInt = 200
    max_gradient_norm: PositiveFloat = 1.0
    recovered_at: float = Field(default=1.02, ge=1.0)
    stop: Stop = "level"

    @property
    def asks(self) -> Mapping[str, str]:
        return {"retain": "logits", "holdout": "logits"}

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        """The terms at the model as it is: those of kept text, and the distance of the records.

        Args:
            batch: With a part "partners", the unseen partner of each forget record in their order.
        """
        with torch.no_grad():
            partners = likelihoods(model, batch["partners"], entropies=True)
        kept = kept_terms(model, batch, asked_of(reference, batch), self.retain_weight)
        return kept | self.forget_term(model, batch, quantiles(partners))

    def forget_term(
        self, model: PreTrainedModel, batch: Batch, partners: Sequence[Quantiles]
    ) -> Terms:
        """The mean distance of the forget records from their partners.

        Args:
            partners: Of each forget record of the batch, in their order.
        """
        found = likelihoods(model, batch["forget"], entropies=self.entropy_weight > 0)
        distances = [
            distance(found, place, partner, self.entropy_weight, by_odds=self.by == "odds")
            for place, partner in enumerate(partners)
        ]
        return {"forget": self.forget_weight * torch.stack(distances).mean()}

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> PreTrainedModel:
        assert data.partners is not None  # "holdout" is in `needs`
        drawing = Drawing(self, data, {}, trainer.generator)
        reference = KeptReference.of(trainer.prepare(model), drawing.windows, self.asks)
        count = self.max_epochs * math.ceil(len(data.forget) / self.batch_size)
        count = max(count, self.min_steps)
        model = start_course(self, model, trainer, count, self.path)
        partners = Partners(data.partners, len(data.forget), trainer)
        weights = PartWeights(self.forget_weight, self.retain_weight, self.path)

        def forget(places: Places, batch: Batch, *_: object) -> Terms:
            records = [drawing.windows["forget"][place].record for place in places["forget"]]
            return self.forget_term(model, batch, partners.of(records))

        course = LevelCourse(
            drawing, reference, count, lambda _: weights, forget, partial(partners.refresh, model)
        )
        return bring_to_level(self, model, data, trainer, course)
