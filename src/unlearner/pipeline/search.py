"""The least damaging settings with which a method forgets: a search with a budget.

A trial is a run of the method from the target model, judged by what it looked at itself between
rounds, on the forget set and on what is to be kept, and cut short where it leads nowhere. "No
settings of these reached it" is an answer. How a round is judged is the one thing that differs
between language models (`TextJudge`) and classifiers (`LabelJudge`).
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import optuna
from torch import Tensor
from transformers import PreTrainedModel

from unlearner import processes, provenance
from unlearner.config import RunConfig
from unlearner.errors import TrainingError, UserError
from unlearner.evaluation.verdict import auc_noise
from unlearner.files import LARGE, read_small, write_whole
from unlearner.methods.base import Method
from unlearner.models import sharding
from unlearner.models.loading import Loaded
from unlearner.output import Json
from unlearner.settings import SearchSettings
from unlearner.training.classifier_loop import EVEN_AUC, ClassifierRound, Watch
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.log import Log
from unlearner.training.trainer import (
    AUTO_RATE_TIMES_WIDTH,
    CLASSIFIER_RATE_TIMES_WIDTH,
    Trainer,
    resolve_learning_rate,
)

# Added to the score of a trial that has not reached the criteria, so that any that has is better:
# the perplexity ratio of such a one is at most the floor, and of a classifier its score at most 2.
NOT_REACHED = 100.0

# Of a trial whose numbers were not finite.
FAILED = 1000.0

# Settings that differ by less are the same: a run of the same settings gives the same.
SAME = 0.01

# A gain of less is none.
GAIN = 0.01


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        number: From 0, which is that of the settings given.
        settings: What it was run with, as fields of the method.
        status: "reached" (forgotten, and what is to be kept within the floor), "not reached",
            "hopeless" (cut short) or "failed" (not finite).
        score: Of a trial that reached it the damage, 1 where there is none; of others 100 and more:
            see `Judge.score`. Lower is better.
        figures: What was looked at where the trial ended, by name; None where it is not known. See
            the judges.
        rounds: How many it took.
        seconds: Its time.
    """

    number: int
    settings: dict[str, float]
    status: str
    score: float
    figures: dict[str, float | None] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0

    def to_json(self) -> Json:
        """As reports hold it: the figures beside the rest."""
        found: Json = {}
        for one in fields(self):
            value = getattr(self, one.name)
            found |= value if one.name == "figures" else {one.name: value}
        return found

    @classmethod
    def of_json(cls, saved: Json) -> "Trial":
        """The trial of which `to_json` gave this."""
        own = {one.name for one in fields(cls)}
        figures = {name: value for name, value in saved.items() if name not in own}
        return cls(**{name: saved[name] for name in own if name in saved}, figures=figures)


@dataclass(frozen=True)
class Searched:
    """What a search found: the method with the best settings, and every trial.

    Attributes:
        floor: What is kept within the floor, in words.
    """

    method: Method
    trials: tuple[Trial, ...]
    floor: str = "kept text under the floor"

    @property
    def best(self) -> Trial:
        """The least damaging that reached the criteria, else the one that came nearest."""
        return best_of(self.trials)

    @property
    def seconds(self) -> float:
        """What the trials took, also those from before the run was cut off."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def reached(self) -> bool:
        """Whether any trial did."""
        return self.best.status == "reached"

    def notes(self) -> tuple[str, ...]:
        """What the report has to say of it."""
        if self.reached:
            return ()
        return (
            f"No settings of the {len(self.trials)} tried reached the criteria on the forget set "
            f"with {self.floor}; these came nearest (trial {self.best.number}).",
        )

    def to_json(self) -> Json:
        """As the report holds it."""
        return {
            "reached": self.reached,
            "chosen": self.best.number,
            "trials": [trial.to_json() for trial in self.trials],
        }


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial of the lowest score, the first of several."""
    return min(trials, key=lambda trial: (trial.score, trial.number))


def check_search(config: RunConfig) -> None:
    """Refuse a search that cannot be made, before anything is read.

    Raises:
        UserError: The model is divided among processes, or the method has nothing to search.
    """
    if not config.search.trials:
        return
    if config.method.begins_anew:
        raise UserError(
            f"--search: method {config.method.name} makes the model anew by the target's own "
            "recipe, and has nothing to search; leave --search out"
        )
    if sharding.wanted():
        raise UserError(
            "--search: not for a model that is divided among processes; search on a smaller model "
            "or leave --use_fsdp out"
        )


def search(
    config: RunConfig,
    loaded: Loaded,
    data: UnlearningData | ClassifierData,
    past: Path | None,
    say: Callable[[str], None],
) -> Searched:
    """Run the method with up to `search.trials` settings; the model is then as it was.

    Args:
        past: A file of finished trials, which are not repeated, and in which each new one is kept;
            None to keep none.
    """
    judge = judge_of(config.method, data)
    space = space_of(config.method, loaded.model, config.search, judge.family)
    before = {name: some.detach().clone() for name, some in loaded.model.state_dict().items()}
    trials = read_trials(past)
    began = time.perf_counter() - sum(trial.seconds for trial in trials)
    while _another_trial(config.search, space, len(trials), began):
        # Sampled by one process: the last bits of what another computes may differ.
        settings = processes.from_main(_propose(trials, space, config.training.seed))
        trial = _try(config, settings, len(trials), loaded, judge, before)
        trials.append(trial)
        if past is not None and processes.is_main():
            _write_trials(past, trials)
        say(f"  {_trial_line(trial, judge)}")
    best = best_of(trials)
    return Searched(with_settings(config.method, best.settings), tuple(trials), judge.floor)


def _another_trial(
    settings: SearchSettings, space: Mapping[str, tuple[float, ...]], done: int, began: float
) -> bool:
    """Whether there is another trial; where nothing can differ the first is the only one."""
    differs = any(low < high for low, _, high in space.values())
    if done >= (settings.trials if differs else 1):
        return False
    late = settings.seconds is not None and time.perf_counter() - began > settings.seconds
    # Clocks of several processes differ: one of them decides.
    return done == 0 or not processes.from_main(late)


def space_of(
    method: Method, model: PreTrainedModel, settings: SearchSettings, family: str = "causal-lm"
) -> dict[str, tuple[float, ...]]:
    """For each field that is searched: its least, its given and its largest value.

    A weight of 0 was switched off, and stays so.
    """
    texts = family == "causal-lm"
    times_width = AUTO_RATE_TIMES_WIDTH if texts else CLASSIFIER_RATE_TIMES_WIDTH
    rate = resolve_learning_rate(method.learning_rate, model, times_width)
    factor = settings.rate_factor
    space: dict[str, tuple[float, ...]] = {"learning_rate": (rate / factor, rate, rate * factor)}
    for name, (low, high) in method.searched.items():
        given = method.search_start(name, family)
        if given:
            space[name] = (min(low, given), given, max(high, given))
    return space


def with_settings(method: Method, settings: Mapping[str, float]) -> Method:
    """The method with some fields replaced, checked again."""
    return type(method).model_validate(method.model_dump() | dict(settings))


def read_trials(past: Path | None) -> list[Trial]:
    """The finished trials.

    Raises:
        UserError: The file is damaged.
    """
    if past is None or not past.exists():
        return []
    try:
        lines = read_small(past, LARGE).splitlines()
        return [Trial.of_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--resume {past}: the trials cannot be read ({type(error).__name__}); remove "
            f"{past.parent} and begin again"
        ) from None


def _write_trials(past: Path, trials: Sequence[Trial]) -> None:
    """The file as a whole, so that it never ends within a line."""
    write_whole(past, "".join(json.dumps(trial.to_json()) + "\n" for trial in trials))


def _propose(
    trials: Sequence[Trial], space: Mapping[str, tuple[float, ...]], seed: int
) -> dict[str, float]:
    """The settings of the next trial: those given first, then where the best is expected."""
    if not trials:
        return {name: given for name, (_, given, _) in space.items()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A Gaussian process makes the most of few trials; the first are spread.
    sampler = optuna.samplers.GPSampler(seed=seed + len(trials), n_startup_trials=3)
    study = optuna.create_study(sampler=sampler)
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(low, high, log=True)
        for name, (low, _, high) in space.items()
        if low < high
    }
    for trial in trials:
        params = {name: trial.settings[name] for name in ranges}
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=ranges, value=_sampler_value(trial.score)
            )
        )
    asked = study.ask(ranges).params
    if any(_is_same(asked, trial.settings) for trial in trials):  # such as a corner, once more
        study.sampler = optuna.samplers.RandomSampler(seed=seed + len(trials))
        asked = study.ask(ranges).params
    return {name: float(asked.get(name, given)) for name, (_, given, _) in space.items()}


def _is_same(asked: Mapping[str, float], settings: Mapping[str, float]) -> bool:
    return all(math.isclose(value, settings[name], rel_tol=SAME) for name, value in asked.items())


def _sampler_value(score: float) -> float:
    """A score as the sampler gets it: on one scale, on which no failure hides what differs."""
    return min(math.log(score), 0.9) if score < NOT_REACHED else 1.0 + min(score - NOT_REACHED, 5.0)


def _try(
    config: RunConfig,
    settings: Mapping[str, float],
    number: int,
    loaded: Loaded,
    judge: "Judge",
    before: Mapping[str, Tensor],
) -> Trial:
    method = with_settings(config.method, settings)
    provenance.set_seeds(config.training.seed)
    trainer, status = _TrialTrainer(config, judge), ""
    began = time.perf_counter()
    try:
        method.unlearn(loaded.model, judge.data, trainer)
    except _Pruned:
        status = "hopeless"
    except TrainingError:
        status = "failed"
    finally:
        put_back(loaded.model, trainer, before)
    seconds = time.perf_counter() - began
    if status == "failed" or not trainer.states:
        figures, rounds = dict.fromkeys(judge.names), len(trainer.states)
        return Trial(number, dict(settings), "failed", FAILED, figures, rounds, seconds)
    return trainer.judged(number, dict(settings), status, seconds)


def put_back(model: PreTrainedModel, trainer: Trainer, before: Mapping[str, Tensor]) -> None:
    """Make it the target model again, without adapters, every weight to be trained."""
    trainer.detach(model)
    model.load_state_dict(before)
    model.requires_grad_(True).eval()


class _Pruned(Exception):  # noqa: N818 - an end, not an error
    """A trial that has brought nothing for some rounds."""


class _TrialTrainer(Trainer):
    """A trainer that remembers what was looked at, and ends a trial that leads nowhere."""

    def __init__(self, config: RunConfig, judge: "Judge") -> None:
        super().__init__(config.training, Log(None), config.model.bits)
        self.judge = judge
        # A run that gives its last round, whatever it was before, has to come to it.
        fields = config.method.model_dump()
        last = fields.get("stop") == "never" or fields.get("keep") == "last"
        self.patience = config.method.max_epochs + 1 if last else config.search.patience
        self.states: list[Json] = []

    def evaluate_round(self, examine: Callable[[], Any]) -> Any:
        found = super().evaluate_round(examine)
        if isinstance(found, dict) and self.judge.watched in found:
            self.states.append(found)
            if self._is_pruned():
                raise _Pruned
        return found

    def scores(self) -> list[float]:
        """The score of each round."""
        first = self.states[0]
        return [self.judge.score(state, first) for state in self.states]

    def _is_pruned(self) -> bool:
        scores = self.scores()
        early, late = scores[: -self.patience], scores[-self.patience :]
        return len(early) > 0 and min(late) > min(early) - GAIN

    def judged(self, number: int, settings: dict[str, float], status: str, seconds: float) -> Trial:
        """The trial by the round whose model it gave, or by its best one if it was cut short."""
        scores, last = self.scores(), len(self.states) - 1
        place = self.details.get("restored_round", last)
        if status == "hopeless":
            place = scores.index(min(scores))
        state = self.states[place]
        status = "reached" if self.judge.reached(state, self.states[0]) else status or "not reached"
        figures = self.judge.figures(state)
        return Trial(number, settings, status, scores[place], figures, last, seconds)


class Judge(Protocol):
    """How what a method looked at between rounds is judged.

    Attributes:
        data: What the method gets.
        family: Of the models.
        watched: What every such round has, and no other.
        names: Of the figures of a trial.
        floor: What is kept within the floor, in words.
    """

    watched: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    floor: ClassVar[str]

    @property
    def data(self) -> UnlearningData | ClassifierData: ...

    @property
    def family(self) -> str: ...

    def reached(self, state: Json, first: Json) -> bool:
        """Whether the records are forgotten there and the floor holds."""
        ...

    def score(self, state: Json, first: Json) -> float:
        """How good a round's model is; lower is better, see `NOT_REACHED`."""
        ...

    def figures(self, state: Json) -> dict[str, float | None]:
        """What a trial that ended there has to show."""
        ...

    def words(self, figures: Json) -> str:
        """The figures for the terminal."""
        ...


def judge_of(method: Method, data: UnlearningData | ClassifierData) -> Judge:
    """The judge of the method's trials."""
    if isinstance(data, ClassifierData):
        return LabelJudge(method, data)
    return TextJudge(data)


class TextJudge:
    """Of language models: MA, EL_10 and ES of the forget set, and the perplexity of retained text.

    EL_10 is None where it was left out because MA was above its level, and the ratio of the
    perplexity to the target model's where it was not finite.
    """

    family = "causal-lm"
    watched: ClassVar[str] = "kept_ratio"
    names: ClassVar[tuple[str, ...]] = ("ma", "el_10", "es", "kept_ratio")
    floor: ClassVar[str] = "kept text under the floor"

    def __init__(self, data: UnlearningData) -> None:
        self.data = replace(data, quick_looks=True)

    def reached(self, state: Json, first: Json) -> bool:  # noqa: ARG002 - of the other judge
        return state["suppressed"] and all(over <= 0 for over in _damage(state, self.data))

    def score(self, state: Json, first: Json) -> float:
        return score_of(state, first, self.data)

    def figures(self, state: Json) -> dict[str, float | None]:
        ratio = state["kept_ratio"]
        found = {name: state["values"].get(name) for name in self.names}
        return found | {"kept_ratio": ratio if math.isfinite(ratio) else None}

    def words(self, figures: Json) -> str:
        return f"MA {figures['ma']:.3f}, kept text's perplexity x {figures['kept_ratio']:.3f}"


class LabelJudge:
    """Of classifiers: the method's own rule to stop, and the score of watched retained records."""

    watched: ClassVar[str] = "retain_score"
    names: ClassVar[tuple[str, ...]] = (
        "forget_score",
        "holdout_score",
        "mia_loss_auc",
        "retain_score",
    )
    floor: ClassVar[str] = "the score of records to be kept within its limit"

    def __init__(self, method: Method, data: ClassifierData) -> None:
        self.data, self.family = data, data.family
        self.watch = Watch(method.model_dump().get("stop") or "auto", data)

    def reached(self, state: Json, first: Json) -> bool:
        floor = self.watch.floor(ClassifierRound(**first))
        return self.watch.excess(ClassifierRound(**state)) == 0 and state["retain_score"] >= floor

    def score(self, state: Json, first: Json) -> float:
        """1 and what the score of retained records has lost, where the trial has reached it.

        Before that counts how far the AUC of membership is below 0.5 beyond chance: records that
        went too far are recognised as treated. Else 100, and on top the share of what there was to
        forget that is left, and what the score is below the floor.
        """
        drop = max(0.0, first["retain_score"] - state["retain_score"])
        if self.reached(state, first):
            return 1 + drop + MARK_WEIGHT * self._mark(state)
        before, left = (self.watch.excess(ClassifierRound(**one)) for one in (first, state))
        found = NOT_REACHED + left / (before or 1.0) + max(0.0, drop - self.data.score_drop)
        return min(found, FAILED) if math.isfinite(found) else FAILED

    def _mark(self, state: Json) -> float:
        """What is beyond chance on the far side; a class that is removed has no such side."""
        auc = state["mia_loss_auc"]
        if self.data.forget_class is not None or not math.isfinite(auc):
            return 0.0
        chance = auc_noise(len(self.data.forget), len(self.data.holdout))
        return max(0.0, EVEN_AUC - chance - auc)

    def figures(self, state: Json) -> dict[str, float | None]:
        return {name: state[name] if math.isfinite(state[name]) else None for name in self.names}

    def words(self, figures: Json) -> str:
        return (
            f"forget score {figures['forget_score']:.3f}, unseen {figures['holdout_score']:.3f}, "
            f"AUC {figures['mia_loss_auc']:.3f}, retained {figures['retain_score']:.3f}"
        )


# How much the mark counts in a score, beside the perplexity's ratio, which the floor keeps small.
MARK_WEIGHT = 10.0


def score_of(state: Json, first: Json, data: UnlearningData) -> float:
    """How good a round's model is; lower is better.

    One that is suppressed and whose retained and unseen text is under the floors has the retained
    text's perplexity as a multiple of the target model's, 1 at least: retained text is also
    learned, and to know it better than the target does is no less damage. Before that counts how
    far the AUC of membership is off 0.5 beyond chance. Any other has 100, and on top what is left
    to forget, as the sum over MA, EL_10 and ES of the share of the first distance to the level that
    remains, and the logarithms of the perplexity ratios over their floors. An EL_10 that was left
    out counts as far from its level as MA is; where the first round left it out, it is taken to
    have been 1.
    """
    level, damage = data.level, _damage(state, data)
    if state["suppressed"] and all(over <= 0 for over in damage):
        return max(state["kept_ratio"], 1.0) + MARK_WEIGHT * state.get("mark", 0.0)
    limits = {"ma": level.ma, "el_10": level.el_10, "es": level.es}
    left = 0.0
    for name, limit in limits.items():
        if limit is None:
            continue
        known = name if name in state["values"] else "ma"
        start, end = first["values"].get(known, 1.0), limits[known]
        if end is not None and start > end:
            left += max(state["values"][known] - end, 0.0) / (start - end)
    return min(NOT_REACHED + left + sum(max(over, 0.0) for over in damage), FAILED)


def _damage(state: Json, data: UnlearningData) -> list[float]:
    """By how much the perplexities of retained and unseen text are over their floors, as logs."""
    floors = {"kept_ratio": data.utility_floor, "unseen_ratio": data.unseen_floor}
    ratios = (state.get(name, 1.0) / floor for name, floor in floors.items())
    return [math.log(max(some, 1e-9)) if math.isfinite(some) else math.inf for some in ratios]


def _trial_line(trial: Trial, judge: Judge) -> str:
    """A line for the terminal."""
    settings = ", ".join(f"{name} {value:.3g}" for name, value in trial.settings.items())
    line = f"trial {trial.number}: {settings}: {trial.status}"
    needed = [trial.figures[name] for name in judge.names if name not in ("el_10", "es")]
    if None in needed:
        return line
    words = judge.words(trial.figures)
    return f"{line}, {words}, {trial.rounds} rounds, {trial.seconds:.0f} s"
