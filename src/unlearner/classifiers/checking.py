"""Before anything is trained: are the records known, where else are they, what will it take?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlearner.classifiers.finetuning import ClassifierFinetuneSettings
from unlearner.classifiers.measuring import Answers, Scores, ask_sets, score_sets
from unlearner.classifiers.preparation import Prepared, measured
from unlearner.classifiers.verdict import FORGET_SCORE
from unlearner.data.duplicates import Duplicate
from unlearner.data.labelled import LabelledSet
from unlearner.errors import UserError
from unlearner.planning import Plan, Step, forwards_per_step, largest_draw, make_plan
from unlearner.run import RunConfig

# Further models that a method keeps beside the one in training; and with adapters, with which off
# that one is the target itself.
FURTHER = {"bad_teacher": 2, "scrub": 1, "retrain": 1}
FURTHER_WITH_ADAPTERS = {"bad_teacher": 1}


@dataclass(frozen=True)
class CheckResult:
    """What the target model knows of the records.

    Attributes:
        answers: The target model's answers by set.
        values: Every metric of every set.
        score: The metric that the forget set is judged by.
        chance: Recall of a class to be removed by guessing; None where records are removed.
        memorised: Whether there is something to unlearn; None without a holdout set.
        duplicates: Copies of forget records in the other sets.
        record_ids: The ids of every set's records.
    """

    answers: Answers
    values: Scores
    score: str
    chance: float | None
    memorised: bool | None
    duplicates: dict[str, list[Duplicate]]
    record_ids: dict[str, list[str]]
    plan: Plan
    family: str

    def ids(self, role: str, found: list[Duplicate]) -> list[tuple[str, str]]:
        """The ids of each forget record and its copy in another set."""
        return [
            (self.record_ids["forget"][one.forget], self.record_ids[role][one.other])
            for one in found
        ]

    def summary(self) -> str:
        """The answer in one sentence."""
        forget = self.values["forget"]
        value = forget[self.score].value if self.score in forget else math.nan
        found = f"{self.score} {value:.3f}"
        if self.chance is not None:
            known = "known" if self.memorised else "nothing to unlearn by this measure"
            return f"{known}: {found} of the class, chance is {self.chance:.3f}"
        if self.memorised is None:
            return f"{found}; without --holdout there are no unseen records to compare with"
        unseen = self.values["holdout"].get(self.score)
        level = f"unseen records have {unseen.value:.3f}" if unseen else "no level of unseen ones"
        attack = forget["mia_loss_auc"]
        told = f"they are told from unseen ones with AUC {attack.value:.3f} (0.5 is guessing)"
        known = "known" if self.memorised else "nothing to unlearn by these measures"
        return f"{known}: {found}, {level}; {told}"


def measured_sets(prepared: Prepared, config: RunConfig) -> dict[str, LabelledSet]:
    """The sets whose figures are reported, large ones as a seeded sample."""
    limit, seed = config.evaluation.limit_for(prepared.loaded.family), config.training.seed
    return {
        role: some if role == "forget" else measured(some, limit, seed)
        for role, some in prepared.sets.items()
    }


def check_sets(
    prepared: Prepared, sets: Mapping[str, LabelledSet], config: RunConfig
) -> CheckResult:
    """Ask the target model about every set and compare with unseen records."""
    loaded, evaluation = prepared.loaded, config.evaluation
    started = time.perf_counter()
    answers = ask_sets(loaded.model, sets, loaded.labels, evaluation.batch_tokens)
    seconds = (time.perf_counter() - started) / sum(some.num_tokens for some in sets.values())
    values = score_sets(answers, sets, evaluation, seed=config.training.seed)
    _check_finite(values, loaded.name)
    chance = None if prepared.forget_class is None else 1 / len(loaded.labels)
    score = FORGET_SCORE[loaded.family]
    return CheckResult(
        answers=answers,
        values=values,
        score=score,
        chance=chance,
        memorised=_memorised(values, score, chance, config.criteria.score_margin),
        duplicates=prepared.duplicates,
        record_ids={role: [r.id for r in some.records] for role, some in prepared.sets.items()},
        plan=_plan(prepared, config, seconds),
        family=loaded.family,
    )


def _check_finite(values: Scores, name: str) -> None:
    """Refuse a broken model: one that knows nothing at all would pass for having forgotten.

    Raises:
        UserError: The loss of a set is not a finite number.
    """
    for role, found in values.items():
        if not math.isfinite(found["loss"].value):
            raise UserError(
                f"MODEL {name}: its loss on the {role} set is {found['loss'].value}; its weights "
                "are damaged, save or download it again"
            )


def _memorised(values: Scores, score: str, chance: float | None, margin: float) -> bool | None:
    """Above chance for a class; else classified better, or with less loss, than unseen records."""
    forget = values["forget"]
    if chance is not None:
        return forget[score].value > chance
    if "mia_loss_auc" not in forget:
        return None
    low = forget["mia_loss_auc"].low
    told = low == low and low > 0.5  # the interval of one record is NaN
    unseen = values["holdout"].get(score)
    better = (
        unseen is not None and score in forget and (forget[score].value > unseen.value + margin)
    )
    return bool(told or better)


def _plan(prepared: Prepared, config: RunConfig, asking: float) -> Plan:
    """What a run takes, from the seconds that asking about a token took just now."""
    method, forget = config.method, prepared["forget"]
    fields: dict[str, Any] = method.model_dump()
    kept, made_again = prepared.get("retain") or forget, "epochs" in fields
    batch_size, beside = _examples(fields)
    passed = kept if made_again else forget
    steps = -(-len(passed) // batch_size) * fields.get("remaining_per_forget", 1)
    seen = batch_size * fields.get("num_views", 1) + beside * fields.get("retain_views", 1)
    step_tokens = seen * kept.num_tokens / max(1, len(kept.examples))
    epochs = fields.get("epochs") or ClassifierFinetuneSettings().epochs
    return make_plan(
        prepared.loaded.model,
        lambda changed: _largest_step(prepared, changed),
        config,
        seconds=asking * forwards_per_step(config.training) * steps * step_tokens,
        max_epochs=epochs if made_again else method.max_epochs,
    )


def _examples(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Examples of a step: those that an epoch passes over, and remaining ones beside them."""
    batch_size = fields["batch_size"] or ClassifierFinetuneSettings().batch_size
    return batch_size, fields.get("retain_batch_size", 0)


def _largest_step(prepared: Prepared, config: RunConfig) -> Step:
    """The largest step of a method, whose examples go forward in groups of similar length."""
    fields: dict[str, Any] = config.method.model_dump()
    forget, sets = prepared["forget"], prepared.sets.values()
    kept, (batch_size, beside) = prepared.get("retain") or forget, _examples(fields)
    passed = forget if beside or "remaining_per_forget" in fields else kept
    parts = [
        (passed, batch_size, fields.get("num_views", 1)),
        (kept, beside, fields.get("retain_views", 1)),
    ]
    lengths = [
        ([len(example) for example in some.examples], count, views) for some, count, views in parts
    ]
    further = FURTHER_WITH_ADAPTERS if config.training.lora_rank else FURTHER
    return Step(
        tokens=sum(views * largest_draw(some, count) for some, count, views in lengths),
        square=sum(
            views * largest_draw([n * n for n in some], count) for some, count, views in lengths
        ),
        labels=sum(views * count for _, count, views in lengths),
        longest=max(len(example) for some in sets for example in some.examples),
        asked=max(some.num_tokens for some in sets),
        dropout=True,
        # SISA has its shards, and the weights before each slice of one
        copies=further.get(config.method.name, 0)
        + sum(fields.get(name, 0) for name in ("num_shards", "num_slices")),
        others=int(bool(config.model.retrained)),
        saved=fields.get("num_shards", 1),
    )
