"""A number of steps that bring forget records to the level of unseen text, from either side.

The loop of the methods whose forget term is a distance from that level. Its gradient is taken on
the way back to the target model (`training/way_back.py`); retained and unseen text are held beside
it. The learning rate warms up and falls as that of `finetune`.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Literal, NamedTuple, Protocol

from transformers import PreTrainedModel

from unlearner.inference.reference import Batch, KeptReference, Reference, likelihoods
from unlearner.models import sharding
from unlearner.training.data import UnlearningData
from unlearner.training.finetune import share_of_peak
from unlearner.training.language_loop import Drawing, Places
from unlearner.training.stop_rule import Refinement, RoundState, Rules, is_better, keeps_the_rest
from unlearner.training.trainer import Terms, Trainer, resolve_learning_rate
from unlearner.training.way_back import OnWayBack, draw_share

# Of "auto": 1.5e-3 for 64 hidden units.
RATE_TIMES_WIDTH = 0.096

# When a run ends before its last step: once the records are within the limits of the verdict, one
# by one and as a set, are told from unseen ones by their loss no better than by chance, and all
# other text is as likely as it has to be; or never.
Stop = Literal["level", "never"]


class LevelMethod(Protocol):
    """What the loop follows of a method: see the fields of `QuantileMatching`."""

    @property
    def learning_rate(self) -> float | str: ...
    @property
    def refresh_every(self) -> int: ...
    @property
    def steps_per_round(self) -> int: ...
    @property
    def max_gradient_norm(self) -> float: ...
    @property
    def recovered_at(self) -> float: ...
    @property
    def stop(self) -> Stop: ...


class PartWeights(NamedTuple):
    """Those of a part of the run, and its A: how far on the way back to the target at most."""

    forget: float
    retain: float
    path: float


@dataclass(frozen=True)
class LevelCourse:
    """The steps of a run, and what each takes.

    Attributes:
        drawing: The windows of each step.
        reference: The target's answers on them, at least its logits of kept text.
        count: Steps at most.
        weights: Those of a step, by its number from 0.
        forget: The term "forget" of a step, from its windows as places and as this process's
            batch, what the reference gives for them, and the step's weights.
        refresh: Takes the level anew under the model in training.
    """

    drawing: Drawing
    reference: KeptReference
    count: int
    weights: Callable[[int], PartWeights]
    forget: Callable[[Places, Batch, Reference, PartWeights], Terms]
    refresh: Callable[[], None]


def start_course(
    method: LevelMethod, model: PreTrainedModel, trainer: Trainer, count: int, path: float
) -> PreTrainedModel:
    """Start the training of a copy of the model for so many steps; returns the copy.

    Args:
        path: The largest A of the run.
    """
    return trainer.start(
        model,
        resolve_learning_rate(method.learning_rate, model, RATE_TIMES_WIDTH),
        betas=(0.9, 0.98),
        max_gradient_norm=method.max_gradient_norm,
        schedule=lambda step: share_of_peak(step, count),
        path=path,
    )


def bring_to_level(
    method: LevelMethod,
    model: PreTrainedModel,
    data: UnlearningData,
    trainer: Trainer,
    course: LevelCourse,
) -> PreTrainedModel:
    """Take the steps of a course until the method's rule says stop; returns the model.

    Where it never does, the weights are those of the best round in which retained and unseen text
    were as likely as the verdict asks for, if there was one.
    """
    before = trainer.steps
    refinement, best = Refinement(Rules(), data, by_set=True, two_sided=True), None
    first = state = refinement.evaluate_round(trainer, model)
    trainer.log_round(first.line({}) | {"steps": 0})
    logged: defaultdict[str, list[float]] = defaultdict(list)
    epoch: list[dict[str, list[int]]] = []
    for step in range(course.count):
        if step % method.refresh_every == 0:
            course.refresh()
        epoch = epoch or course.drawing.epoch()
        for name, value in take_level_step(step, epoch.pop(0), model, course, trainer).items():
            logged[name].append(value)
        if (step + 1) % method.steps_per_round and step + 1 < course.count:
            continue
        state = refinement.evaluate_round(trainer, model, first)
        losses = {name: fmean(some) for name, some in logged.items()}
        trainer.log_round(state.line(losses) | {"steps": trainer.steps - before})
        logged.clear()
        if method.stop == "level" and is_reached(state, data, method.recovered_at):
            return model
        if keeps_the_rest(state, data) and is_better(state, best):
            best = state
            trainer.keep(model)
    if method.stop != "never" and best is not None and best.round != state.round:
        trainer.restore(model)
        trainer.details["restored_round"] = best.round
    return model


def take_level_step(
    step: int, places: Places, model: PreTrainedModel, course: LevelCourse, trainer: Trainer
) -> dict[str, float]:
    """One step; returns the values of its terms."""
    drawing, weights = course.drawing, course.weights(step)
    batch = drawing.batch(places, sharding.device_of(model))
    known = course.reference.at(places, batch)
    trainer.tokens += drawing.num_tokens(places)
    return trainer.step(
        partial(kept_terms, model, batch, known, weights.retain),
        # A lone record's term would be its own loss, which no file of a run may hold.
        private=("forget",) if drawing.num_forget(places) == 1 else (),
        on_way_back=OnWayBack(
            partial(course.forget, places, batch, known, weights),
            draw_share(weights.path, trainer.generator),
        ),
    )


def kept_terms(
    model: PreTrainedModel, batch: Batch, known: Reference, retain_weight: float
) -> Terms:
    """Of retained and of unseen text: means over the labels of the step, in nats.

    Args:
        known: With the target's logits of both.
    """
    retain = likelihoods(model, batch["retain"], known.logits("retain"))
    unseen = likelihoods(model, batch["holdout"], known.logits("holdout"))
    return {
        "retain": retain_weight * retain.loss(),
        "retain_kl": retain.kl.mean(),
        "unseen_kl": unseen.kl.mean(),
    }


def is_reached(state: RoundState, data: UnlearningData, recovered_at: float) -> bool:
    """Whether records are at the level from both sides, and other text is as likely as before.

    Args:
        recovered_at: The retained text's perplexity at most, as a multiple of the target's.
    """
    recovered = state.kept_ratio <= recovered_at and keeps_the_rest(state, data)
    return state.suppressed and state.mark == 0 and recovered
