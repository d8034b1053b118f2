"""Counterfactual teaching: forget records as a model would predict them that never learned them."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import huber_loss
from transformers import PreTrainedModel

from unlearner import functional, processes
from unlearner.data.batches import Tensors, collate, length_batches, share_of
from unlearner.data.windows import TokenizedSet
from unlearner.errors import UserError
from unlearner.functional import TargetLogits
from unlearner.inference.reference import (
    BATCH_TOKENS,
    Batch,
    KeptReference,
    Reference,
    TargetDistribution,
    asked_of,
    likelihoods,
)
from unlearner.methods.base import Method
from unlearner.models import adapters, sharding
from unlearner.models.heads import output_head
from unlearner.models.loading import load_causal_lm
from unlearner.training.data import Recipe, UnlearningData
from unlearner.training.finetune import (
    FinetuneSettings,
    learn_all,
    new_model,
    recipe_for,
)
from unlearner.training.language_loop import Drawing, Places
from unlearner.training.level_loop import (
    LevelCourse,
    PartWeights,
    Stop,
    bring_to_level,
    kept_terms,
    start_course,
)
from unlearner.training.quantiles import divide
from unlearner.training.trainer import Terms, Trainer

# Sharpnesses to begin with, 0.25 to 16, and how often the way between two of them is halved: beta
# is then right to 0.3 %.
BETAS = tuple(2 ** (place / 4) for place in range(-8, 17))
HALVINGS = 6


class Counterfactual(Method):
    r"""Teach the forget records as a proxy predicts them that has learned the retained text alone.

    The proxy is the pretrained model, fine-tuned for a few passes over the retained records. With
    its logits z_p the teacher is

    .. math::
        q = \pi \, softmax(\beta z_p) + (1 - \pi) \, softmax(z_p)

        L = w_f \left[ KL(q \| p) + H(\log p(y_t) - \log q(y_t)) \right](\theta_a)
            + KL(p_0 \| p)_{retain} + w_r NLL_{retain} + KL(p_0 \| p)_{unseen}

    H(x) = x^2 / 2 below 1 and |x| - 1/2 beyond (Huber); all are means over the labels of a step.
    The proxy has learned for shorter than the model did, and is less sure of everything, so beta is
    found anew every few steps, by bisection: that at which the teacher's mean loss of unseen
    records is what the model in training has there. The second part holds up the tail: KL hardly
    sees a token that both think unlikely. The gradient of the forget term is taken on the way back
    to the target model, see `training/way_back.py`. A second part of the run pushes less, and
    learns more. The learning rate warms up and falls as that of `finetune`.

    Unseen records that set beta, and others that are held still, are measured in no figure of the
    run. Training the proxy is part of the run, and its steps and seconds of what it costs.

    Related are KGA (arXiv:2305.06535), which trains such models on other text and matches gaps of
    divergence, and "Who's Harry Potter" (arXiv:2310.02238), whose teacher is made of the target and
    of a model that knows the records even better. What was measured is in `docs/log.md`: one run on
    TOFU with a model of 0.26 M parameters.

    Reference: none; a method of our own.
    Differs from the study that it comes from by the rule to stop, which may end a run early; with
    more forget records both parts are longer; with adapters the proxy's are on a model of its own.

    Args:
        pretrained: The model that the proxy begins as, by folder or hub id; where empty, the one
            that the target was made of, as its `provenance.json` tells or the adapter that it is.
        proxy: A finished proxy, by folder or hub id; then none is trained, as else by every trial
            of a search.
        proxy_epochs: Passes over the retained text; its other settings are those that the target
            was made with, or the defaults of `finetune`.
        batch_size: Forget records of a step.
        max_epochs: Passes over the forget set in the first part, where that is more than `steps`.
        retain_batch_size: Windows of retained text of a step.
        unseen_per_step: Windows of unseen text of a step.
        sharp_share: pi.
        forget_weight: w_f.
        retain_weight: w_r.
        path: A, how far on the way back to the target at most; 0 for the model in training alone.
        steps: Steps of the first part, at least.
        finishing_steps: Steps of the second; more in proportion where the first has more.
        finishing_forget_factor: What w_f is multiplied with in the second part.
        finishing_retain_factor: And w_r.
        finishing_path: A of the second part.
        refresh_every: Steps after which beta is found anew.
        steps_per_round: Steps between two evaluation rounds.
        max_gradient_norm: The gradient's norm at most.
        recovered_at: Perplexity of retained text, as a multiple of the target's, at which a run may
            end.
        stop: "level" ends a run once the records are within the limits of the verdict, one by one
            and as a set, are neither more nor less likely than unseen ones (AUC of membership by
            loss within its standard error of 0.5), retained text has recovered, and both it and
            unseen text are as likely as the verdict asks for; "never" takes every step.
    """

    label: ClassVar[str] = "counterfactual teaching"
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain", "holdout")
    rounds_are_epochs: ClassVar[bool] = False
    companion_models: ClassVar[tuple[str, ...]] = ("proxy",)
    searched: ClassVar[Mapping[str, tuple[float, float]]] = {"retain_weight": (0.5, 8.0)}

    pretrained: str = ""
    proxy: str = ""
    proxy_epochs: PositiveInt = 3
    batch_size: PositiveInt = 3
    max_epochs: PositiveInt = 11
    retain_batch_size: PositiveInt = 8
    unseen_per_step: PositiveInt = 2
    sharp_share: float = Field(default=0.995, gt=0.0, lt=1.0)
    forget_weight: PositiveFloat = 1.0
    retain_weight: NonNegativeFloat = 2.0
    path: float = Field(default=0.6, ge=0.0, lt=1.0)
    steps: PositiveInt = 160
    finishing_steps: NonNegativeInt = 100
    finishing_forget_factor: PositiveFloat = 0.4
    finishing_retain_factor: PositiveFloat = 1.5
    finishing_path: float = Field(default=0.4, ge=0.0, lt=1.0)
    refresh_every: PositiveInt = 20
    steps_per_round: PositiveInt = 20
    max_gradient_norm: PositiveFloat = 1.0
    recovered_at: float = Field(default=1.02, ge=1.0)
    stop: Stop = "level"

    @property
    def asks(self) -> Mapping[str, str]:
        # On the forget records it is the proxy that is asked.
        return {"forget": "logits", "retain": "logits", "holdout": "logits"}

    def check_target(self, recipe: Recipe | None) -> None:
        if not (self.pretrained or self.proxy) and recipe is None:
            raise UserError(
                "method.pretrained: none given, and what the target was fine-tuned from is not "
                "known (its folder has no provenance.json); name that model by folder or hub id, "
                "or a finished proxy by method.proxy"
            )

    def loss(
        self, model: PreTrainedModel, batch: Batch, reference: PreTrainedModel | Reference
    ) -> Terms:
        """The terms at the model as it is, in the first part of a run and with a beta of 1.

        Args:
            reference: The target's logits of kept text, and the proxy's of the forget records.
        """
        known = asked_of(reference, batch)
        weights = PartWeights(self.forget_weight, self.retain_weight, self.path)
        forget = self.forget_term(model, batch, known.logits("forget"), 1.0, weights)
        return kept_terms(model, batch, known, weights.retain) | forget

    def forget_term(
        self,
        model: PreTrainedModel,
        batch: Batch,
        proxy: TargetLogits,
        beta: float,
        weights: PartWeights,
    ) -> Terms:
        """Mean over the forget records' labels of the distance from the teacher.

        Args:
            proxy: Gives the proxy's logits at a slice of this process's label positions.
        """
        teacher = partial(_teach, proxy, beta, self.sharp_share)
        found = likelihoods(model, batch["forget"], teacher)
        with torch.no_grad():
            taught = teacher_log_probs(teacher, batch["forget"], found.log_probs)
        total = found.kl.mean() + huber_loss(found.log_probs, taught)
        return {"forget": weights.forget * total}

    def unlearn(
        self, model: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> PreTrainedModel:
        assert data.partners is not None  # "holdout" is in `needs`
        self.check_target(data.recipe)
        drawing = Drawing(self, data, {}, trainer.generator)
        proxy = self._proxy(model, data, trainer)
        teacher = Teacher(proxy, divide(data.partners)[0], self.sharp_share)
        taught = TargetDistribution.of(proxy, drawing.windows["forget"])
        trainer.details |= {"unseen_set_aside": len(data.partners), "partners_are_shared": False}
        kept = {name: kind for name, kind in self.asks.items() if name != "forget"}
        reference = KeptReference.of(trainer.prepare(model), drawing.windows, kept)
        reference = replace(reference, logits={**reference.logits, "forget": taught})
        first_part = max(
            self.max_epochs * math.ceil(len(data.forget) / self.batch_size), self.steps
        )
        count = first_part + round(first_part * self.finishing_steps / self.steps)
        model = start_course(self, model, trainer, count, max(self.path, self.finishing_path))

        def forget(_: Places, batch: Batch, known: Reference, weights: PartWeights) -> Terms:
            # Asked for here, inside the step's arithmetic.
            return self.forget_term(model, batch, known.logits("forget"), teacher.beta, weights)

        course = LevelCourse(
            drawing,
            reference,
            count,
            lambda step: self._weights(finishing=step >= first_part),
            forget,
            lambda: teacher.refresh(model, trainer),
        )
        return bring_to_level(self, model, data, trainer, course)

    def _proxy(
        self, target: PreTrainedModel, data: UnlearningData, trainer: Trainer
    ) -> PreTrainedModel:
        """The proxy, on the trainer's device; its training is a stage of the run of its own."""
        if self.proxy:
            loaded = load_causal_lm(self.proxy)
            if loaded.tokenizer.get_vocab() != data.tokenizer.get_vocab():
                raise UserError(
                    f"method.proxy: the tokenizer of {self.proxy} differs from the target's; name "
                    "a model that was fine-tuned from the same one"
                )
            _check_size("proxy", self.proxy, loaded.model, target)
            return loaded.to(trainer.device)
        if sharding.wanted():
            raise UserError(
                "method.proxy: none given; with --use_fsdp the proxy is not trained on the way: "
                f"make it by `unlearner finetune`, {self.proxy_epochs} epochs on the retained "
                "records, and name its folder"
            )
        recipe = recipe_for(data.recipe, self.pretrained, {"epochs": self.proxy_epochs})
        proxy = new_model(recipe.pretrained, data)
        _check_size("pretrained", recipe.pretrained, proxy, target)
        assert data.pool is not None  # the pipeline refuses a run without
        settings = FinetuneSettings.model_validate(recipe.finetune)
        proxy = learn_all(proxy, settings, trainer, data.pool)
        if trainer.adapter is None or output_head(proxy) is not None:
            return proxy
        # It will be run again, and with adapters would be taken for the model without them. Those
        # stay on the proxy itself: a checkpoint holds the weights that its stage has trained.
        return adapters.merge(copy.deepcopy(trainer.adapter))

    def _weights(self, *, finishing: bool) -> PartWeights:
        if not finishing:
            return PartWeights(self.forget_weight, self.retain_weight, self.path)
        return PartWeights(
            self.finishing_forget_factor * self.forget_weight,
            self.finishing_retain_factor * self.retain_weight,
            self.finishing_path,
        )


class Teacher:
    """What the proxy says of unseen records, and the sharpness at which that is the level.

    The proxy does not change, and so its hidden states there are kept, and not the proxy.

    Attributes:
        beta: As last found.
    """

    def __init__(self, proxy: PreTrainedModel, unseen: TokenizedSet, sharp_share: float) -> None:
        self.windows = [window for window in unseen.windows if window.scored.any()]
        self.known = TargetDistribution.of(proxy, self.windows)
        self.device, self.sharp_share, self.beta = proxy.device, sharp_share, 1.0
        self._loss = cache(self.loss_at)

    def refresh(self, model: PreTrainedModel, trainer: Trainer) -> None:
        """Find beta for the model as it is now.

        Its loss goes through the trainer's journal, so that a run that was cut off has the same.
        """
        self.beta = level_beta(self._loss, trainer.evaluate_round(lambda: self.loss_of(model)))

    @torch.no_grad()
    def loss_of(self, model: PreTrainedModel) -> float:
        """The mean loss of a model over all labels, in nats."""
        model.eval()
        total, count = 0.0, 0
        for indices in length_batches(self.windows, BATCH_TOKENS):
            some = [self.windows[index] for index in indices]
            found = likelihoods(model, share_of(some, sharding.device_of(model)))
            total, count = total - float(found.log_probs.sum()), count + len(found.log_probs)
        return total / count

    @torch.no_grad()
    def loss_at(self, beta: float) -> float:
        """The teacher's own at a sharpness."""
        total, count = 0.0, 0
        for indices in processes.share(length_batches(self.windows, BATCH_TOKENS)):
            batch = collate([self.windows[index] for index in indices], self.device)
            teacher = partial(_teach, self.known.logits(indices, batch), beta, self.sharp_share)
            found = _label_rows(teacher, batch)
            total, count = total - float(found.sum()), count + len(found)
        totals, counts = zip(*processes.gather((total, count)), strict=True)
        return sum(totals) / sum(counts)


def level_beta(loss: Callable[[float], float], wanted: float) -> float:
    """The sharpness beyond that of the least loss at which the loss is the wanted one.

    A teacher that is too sharp is sure of what is wrong as a model is that has learned for long;
    the other one, below the least loss, would be sure of nothing. It is the sharpness of the least
    loss where that is above the wanted one, and the largest where none is enough.
    """
    losses = [loss(beta) for beta in BETAS]
    least = losses.index(min(losses))
    above = next((place for place in range(least, len(BETAS)) if losses[place] >= wanted), None)
    if above is None or above == least:
        return BETAS[-1 if above is None else least]
    low, high = BETAS[above - 1], BETAS[above]
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if loss(middle) >= wanted else (middle, high)
    return math.sqrt(low * high)


def teacher_log_probs(teacher: TargetLogits, batch: Tensors | None, like: Tensor) -> Tensor:
    """Log q of the labels of all processes' windows, in nats; shaped like the model's own."""
    rows = like.new_zeros(0) if batch is None else _label_rows(teacher, batch).to(like)
    return processes.gather_rows(rows)


def _label_rows(teacher: TargetLogits, batch: Tensors) -> Tensor:
    labels = batch["labels"][:, None]
    parts = [
        teacher(rows).gather(-1, labels[rows])[:, 0] for rows in functional.chunks(len(labels))
    ]
    return torch.cat(parts) if parts else labels.new_zeros(0, dtype=torch.float32)


def _teach(proxy: TargetLogits, beta: float, sharp_share: float, rows: slice) -> Tensor:
    """Log q at some label positions, which as logits give q."""
    return functional.sharpened_log_probs(proxy(rows), beta, sharp_share)


def _check_size(field: str, name: str, found: PreTrainedModel, target: PreTrainedModel) -> None:
    """Refuse a model whose logits are not of as many tokens as the target's."""
    sizes: Sequence[int] = [some.config.get_text_config().vocab_size for some in (found, target)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"method.{field}: {name} has {sizes[0]} tokens, the target {sizes[1]}; name a model "
            "with the target's"
        )
