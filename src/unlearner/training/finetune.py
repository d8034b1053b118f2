"""Make a target model, or a retrained one: plain learning, by the same steps as unlearning."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from unlearner import registry
from unlearner.data.batches import Tensors, share_of
from unlearner.data.windows import TokenizedSet
from unlearner.errors import UserError
from unlearner.evaluation.intervals import evaluate_set
from unlearner.inference.language_model import Questions, ask
from unlearner.inference.reference import label_log_probs
from unlearner.models import sharding
from unlearner.models.heads import output_head
from unlearner.settings import EvaluationSettings
from unlearner.training.trainer import LearningRate, Trainer, resolve_learning_rate

# 3e-3 for 64 hidden units, 2.5e-4 for 768, 4.7e-5 for 4096.
AUTO_RATE_TIMES_WIDTH = 0.192

WARMUP_SHARE = 0.05

COMPARE = {">=": float.__ge__, "<=": float.__le__, ">": float.__gt__, "<": float.__lt__}


class FinetuneSettings(BaseModel):
    """How a model learns records.

    Args:
        learning_rate: Of AdamW at its peak, or "auto" for 0.192 / hidden size; it warms up over a
            twentieth of the steps and falls linearly to 0.
        batch_size: Windows of one step.
        epochs: Passes over the records, at most.
        weight_decay: Of AdamW.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: LearningRate = "auto"
    batch_size: PositiveInt = 8
    epochs: PositiveInt = 30
    weight_decay: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class Until:
    """A goal for a metric of the records, such as ma>=0.99."""

    metric: str
    sign: str
    limit: float

    @property
    def families(self) -> tuple[str, ...]:
        """The families of models that the metric can be measured on."""
        return registry.load("metrics", self.metric).metric.families

    @classmethod
    def parse(cls, text: str) -> Until:
        """From "metric>=number".

        Raises:
            UserError: It is not of that form, or there is no such metric.
        """
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*([\d.eE+-]+)\s*", text)
        try:
            limit = float(match.group(3)) if match else math.nan
        except ValueError:
            limit = math.nan
        if match is None or math.isnan(limit):
            raise UserError(f"--until {text!r}: write a metric and a limit, for example 'ma>=0.99'")
        metric = registry.load("metrics", match.group(1)).metric
        if metric.versus or metric.needs in ("target", "bertscore", "retrained"):
            raise UserError(f"--until {text!r}: this metric needs more than the records themselves")
        return cls(match.group(1), match.group(2), limit)

    def reached(self, value: float) -> bool:
        """Whether a value of the metric meets the goal."""
        return bool(COMPARE[self.sign](value, self.limit))


@dataclass(frozen=True)
class FinetuneResult:
    """The trained model, the epochs it took, and the last value of the goal's metric."""

    model: Any
    epochs: int
    value: float | None
    reached: bool | None


def finetune(
    model: Any,
    tokenizer: Any,
    records: TokenizedSet,
    settings: FinetuneSettings,
    trainer: Trainer,
    until: Until | None = None,
) -> FinetuneResult:
    """Minimise the mean token loss of the records; stop early once the goal is reached."""
    take_epoch = learn(model, settings, trainer, records)
    value = None
    for epoch in range(1, settings.epochs + 1):
        model = take_epoch()
        value = None
        if until is not None:
            value = trainer.look(partial(_value, model, tokenizer, records, until))
        trainer.log_round({"round": epoch, "epochs": settings.epochs, "value": value})
        if until is not None and value is not None and until.reached(value):
            return FinetuneResult(model, epoch, value, True)
    return FinetuneResult(model, settings.epochs, value, None if until is None else False)


def learn(
    model: Any, settings: FinetuneSettings, trainer: Trainer, records: TokenizedSet
) -> Callable[[], Any]:
    """A function that takes one of all the settings' epochs and returns the model."""
    rate = resolve_learning_rate(settings.learning_rate, model, AUTO_RATE_TIMES_WIDTH)
    # A window inside a long prompt has no label that counts; a mean over none is not a number.
    windows = [window for window in records.windows if window.scored.any()]
    steps = math.ceil(len(windows) / settings.batch_size) * settings.epochs
    model = trainer.start(
        model,
        rate,
        weight_decay=settings.weight_decay,
        schedule=lambda step: share_of_peak(step, steps),
    )
    head = output_head(model)

    def epoch() -> Any:
        order = torch.randperm(len(windows), generator=trainer.generator).tolist()
        for start in range(0, len(order), settings.batch_size):
            some = [windows[i] for i in order[start : start + settings.batch_size]]
            batch = share_of(some, sharding.device_of(model))
            trainer.step(lambda batch=batch: {"loss": _mean_loss(model, head, batch)})
            trainer.tokens += sum(map(len, some))
        return model

    return epoch


def _mean_loss(model: Any, head: Any, batch: Tensors | None) -> torch.Tensor:
    """Mean over all label positions of all processes' batches, in nats."""
    return -label_log_probs(model, head, batch)[0].mean()


def share_of_peak(step: int, total: int) -> float:
    """The learning rate of a step: up over a twentieth of all steps, then down to 0."""
    warmup = max(1, round(WARMUP_SHARE * total))
    return min((step + 1) / warmup, (total - step) / max(1, total - warmup))


def _value(model: Any, tokenizer: Any, records: TokenizedSet, until: Until) -> float:
    metric = registry.load("metrics", until.metric).metric
    needed = "all" if metric.needs == "continuations" else "none"
    asked = Questions(continuations=needed, prompt_start=EvaluationSettings().prompt_start)
    answers = ask(model, tokenizer, records.windows, asked)
    found = evaluate_set(answers, {until.metric: metric}, records.groups, resamples=0)
    if until.metric not in found:
        raise UserError(f"--until: {until.metric} cannot be measured on these records")
    return found[until.metric].value
