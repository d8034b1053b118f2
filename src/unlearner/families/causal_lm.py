"""From files and names to a loaded model and tokenized sets."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch

from unlearner.config import RunConfig
from unlearner.data.duplicates import Duplicate, find_duplicates
from unlearner.data.loading import check_ids_in_vocabulary, read_records
from unlearner.data.record import RecordSet
from unlearner.data.windows import Layout, TokenizedSet, contents, tokenize_set
from unlearner.datasets.base import named_sets
from unlearner.errors import UserError
from unlearner.evaluation.intervals import Value
from unlearner.evaluation.measure import ask_set, questions, score_sets
from unlearner.families.causal_lm_criteria import level_of
from unlearner.inference.answers import Answer
from unlearner.inference.language_model import ask
from unlearner.methods.base import Method
from unlearner.models.loading import Loaded
from unlearner.settings import DataSettings, EvaluationSettings
from unlearner.training.data import Level
from unlearner.training.finetune import FinetuneSettings
from unlearner.training.language_loop import MAX_COMPARED
from unlearner.training.memory import Plan, Step, forwards_per_step, largest_draw, make_plan
from unlearner.training.stop_rule import WATCHED_RECORDS, above_worst

ROLES = ("forget", "retain", "pool", "holdout")


def read_sets(data: DataSettings, given: Mapping[str, Any]) -> dict[str, RecordSet]:
    """The record sets of a run by role, from files, a named data set or Python objects.

    Args:
        data: Where the sets are, and the names of their columns; a file goes before the set that a
            named data set has for its role.
        given: Sets that come from Python, by role; they go before the paths in `data`.

    Raises:
        UserError: A set cannot be read.
    """
    named = named_sets(data, "causal-lm")
    sets = {role: named[role] for role in ROLES if role in named}
    for role in ROLES:
        source = given.get(role)
        source = getattr(data, role) if source is None else source
        if isinstance(source, RecordSet):
            sets[role] = source
        elif source is not None and not (isinstance(source, str) and source == ""):
            sets[role] = read_records(source, name=role, columns=data.columns)
    return sets


@dataclass(frozen=True)
class Prepared:
    """A model with the sets of a run in its tokens, and how they became so."""

    loaded: Loaded
    sets: dict[str, TokenizedSet]
    contents: dict[str, list[str]]
    layout: Layout

    def __getitem__(self, role: str) -> TokenizedSet:
        return self.sets[role]

    def get(self, role: str) -> TokenizedSet | None:
        """The set of a role, None where there is none."""
        return self.sets.get(role)

    @cached_property
    def duplicates(self) -> dict[str, list[Duplicate]]:
        """Exact and near duplicates of forget records in every other set."""
        forget = self.contents["forget"]
        return {
            role: find_duplicates(forget, contents)
            for role, contents in self.contents.items()
            if role != "forget"
        }


def prepare(loaded: Loaded, sets: Mapping[str, RecordSet], data: DataSettings) -> Prepared:
    """Tokenize every set for the model.

    Raises:
        UserError: Token ids are outside the vocabulary, or a record cannot be tokenized.
    """
    layout = Layout(
        template=data.template,
        chat=data.chat,
        scope=data.scope,
        max_length=max(2, min(data.max_length, loaded.context)),
        append_eos=data.append_eos,
    )
    size = loaded.model.get_input_embeddings().num_embeddings
    tokenized = {}
    for role, records in sets.items():
        check_ids_in_vocabulary(records, size)
        tokenized[role] = tokenize_set(records, loaded.tokenizer, layout)
        _check_tokens_known(tokenized[role], size)
    texts = {role: contents(some, loaded.tokenizer) for role, some in tokenized.items()}
    return Prepared(loaded, tokenized, texts, layout)


def _check_tokens_known(some: TokenizedSet, size: int) -> None:
    """Refuse a tokenizer with more tokens than the model has, once a record holds one of them."""
    for window in some.windows:
        largest = int(window.input_ids.max())
        if largest >= size:
            raise UserError(
                f"{some.name} {some.source}, record {window.id!r}: its tokenizer gives the token "
                f"id {largest}, the model has 0 to {size - 1}; use the model's own tokenizer"
            )


def sample(some: TokenizedSet, evaluation: EvaluationSettings, seed: int) -> TokenizedSet:
    """The set itself, or a seeded sample of its records where it is larger than is measured."""
    limit = evaluation.limit_for("causal-lm")
    if len(some) <= limit:
        return some
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(some), generator=generator)[:limit]
    return some.subset(sorted(order.tolist()))


@dataclass(frozen=True)
class CheckResult:
    """What the target model knows of the records.

    Attributes:
        answers: The target model's answers by set.
        values: Every metric of every set.
        level: The level of unseen text; None without holdout text and levels by hand.
        memorised: Whether there is something to unlearn; None where there is no level.
        duplicates: Copies of forget records in the other sets.
        record_ids: The ids of every set's records.
    """

    answers: dict[str, list[Answer]]
    values: dict[str, dict[str, Value]]
    level: Level | None
    memorised: bool | None
    duplicates: dict[str, list[Duplicate]]
    record_ids: dict[str, list[str]]
    plan: Plan
    family: str = "causal-lm"

    def ids(self, role: str, found: list[Duplicate]) -> list[tuple[str, str]]:
        """The ids of each forget record and its copy in another set."""
        return [
            (self.record_ids["forget"][one.forget], self.record_ids[role][one.other])
            for one in found
        ]

    def summary(self) -> str:
        """The answer in one sentence."""
        forget = self.values["forget"]
        found = f"MA {forget['ma'].value:.3f}"
        found += f", EL_10 {forget['el_10'].value:.3f}" if "el_10" in forget else ""
        if self.level is None:
            return f"{found}; without --holdout there is no level of unseen text to compare with"
        level = f"unseen text has {self.level.ma:.3f} and {self.level.el_10:.3f}"
        if self.memorised:
            return f"memorised: {found}, {level}"
        return f"nothing to unlearn by these measures: {found}, {level}"


def measured_sets(prepared: Prepared, config: RunConfig) -> dict[str, TokenizedSet]:
    """The sets whose figures are reported, large ones as a seeded sample."""
    roles = [role for role in ("retain", "holdout") if role in prepared.sets]
    sampled = {
        role: sample(prepared[role], config.evaluation, config.training.seed) for role in roles
    }
    return {"forget": prepared["forget"], **sampled}


def check_sets(
    prepared: Prepared, sets: Mapping[str, TokenizedSet], config: RunConfig
) -> CheckResult:
    """Ask the target model about every set and compare with unseen text."""
    loaded, evaluation = prepared.loaded, config.evaluation
    answers, seconds = {}, {}
    for role, some in sets.items():
        started = time.perf_counter()
        answers[role] = ask_set(loaded.model, loaded.tokenizer, some, evaluation)
        seconds[role] = (time.perf_counter() - started) / max(1, some.num_tokens)
    values = score_sets(answers, sets, evaluation, seed=config.training.seed)
    _check_finite(values, loaded.name)
    has_level = "holdout" in answers or config.criteria.by_hand
    level = level_of(answers.get("holdout"), config.criteria) if has_level else None
    return CheckResult(
        answers=answers,
        values=values,
        level=level,
        memorised=None if level is None else _memorised(answers["forget"], values, level),
        duplicates=prepared.duplicates,
        record_ids={role: [r.id for r in some.records] for role, some in prepared.sets.items()},
        plan=_plan(prepared, sets, config, max(seconds.values())),
    )


def _check_finite(values: Mapping[str, Mapping[str, Value]], name: str) -> None:
    """Refuse a broken model: one that knows nothing at all would pass for having forgotten.

    Raises:
        UserError: The loss of a set is not a finite number.
    """
    for role, found in values.items():
        if "loss" in found and not math.isfinite(found["loss"].value):
            raise UserError(
                f"MODEL {name}: its loss on the {role} set is {found['loss'].value}; its weights "
                "are damaged, save or download it again"
            )


def _memorised(
    answers: list[Answer], values: Mapping[str, Mapping[str, Value]], level: Level
) -> bool:
    """Above what unseen text could show by chance, as a set or in a single record."""
    if above_worst(answers, level):
        return True
    unseen, forget = values.get("holdout", {}), values["forget"]
    for name, limit in (("ma", level.ma), ("el_10", level.el_10)):
        if name not in forget:
            continue
        high = unseen[name].high if name in unseen else limit
        limit = max(limit, high) if high == high else limit  # the interval of one record is NaN
        if forget[name].value > limit:
            return True
    return False


def _plan(
    prepared: Prepared, sets: Mapping[str, TokenizedSet], config: RunConfig, asking: float
) -> Plan:
    """What a run takes, from one timed forward pass and the seconds of asking for a token."""
    model, method, forget = prepared.loaded.model, config.method, sets["forget"]
    pool, kept_windows = _kept(prepared, method)
    passed = _passed(prepared, sets, method)
    steps = -(-len(passed) // _batch_size(method))
    tokens = method.windows_per_record * passed.num_tokens
    tokens += steps * kept_windows * pool.num_tokens / len(pool.windows)
    started = time.perf_counter()
    forced = replace(questions(config.evaluation), continuations="none")
    ask(model, prepared.loaded.tokenizer, forget.windows, forced)
    forward = (time.perf_counter() - started) / forget.num_tokens
    watched = sum(map(len, (prepared.get("retain") or pool).windows_of(range(WATCHED_RECORDS))))
    return make_plan(
        model,
        lambda changed: _largest_step(prepared, sets, changed),
        config,
        seconds=forward * (forwards_per_step(config.training) * tokens + watched)
        + asking * forget.num_tokens,
        max_epochs=_epochs(method),
    )


def _passed(prepared: Prepared, sets: Mapping[str, TokenizedSet], method: Method) -> TokenizedSet:
    """What an epoch passes over: the remaining data where the model is made anew."""
    retain = prepared.get("retain")
    return sets["forget"] if retain is None or not method.begins_anew else retain


def _batch_size(method: Method) -> int:
    """Records of a step; where the method leaves that to the target's recipe, the default."""
    return method.batch_size or FinetuneSettings().batch_size


def _epochs(method: Method) -> int:
    if not method.begins_anew:
        return method.max_epochs
    return method.model_dump().get("epochs") or FinetuneSettings().epochs


def _kept(prepared: Prepared, method: Method) -> tuple[TokenizedSet, int]:
    """The text that is learned meanwhile, and how many of its windows a step holds."""
    pool = prepared.get("pool") or prepared.get("retain") or prepared["forget"]
    return pool, min(method.kept_per_step, len(pool.windows))


def _largest_step(prepared: Prepared, sets: Mapping[str, TokenizedSet], config: RunConfig) -> Step:
    """The largest step, its windows all padded to the longest of them."""
    method = config.method
    pool, kept_windows = _kept(prepared, method)
    records: dict[int, list[int]] = {}
    for window in _passed(prepared, sets, method).windows:
        records.setdefault(window.record, []).append(len(window))
    largest = sorted(records.values(), key=sum)[-_batch_size(method) :]
    forget = list(chain(*largest)) * method.windows_per_record
    kept = [len(window) for window in pool.windows]
    count, longest = len(forget) + kept_windows, max(*forget, *kept)
    compared = [some.num_tokens for role, some in sets.items() if role != "forget"]
    spread = [name for name, kind in method.asks.items() if kind == "logits"]
    stated = [*spread, *(name for name, kind in method.asks.items() if kind == "states")]
    limit = method.model_dump().get("max_analogous", MAX_COMPARED)
    most = min(pool.num_tokens, limit * longest)
    states = [sets["forget"].num_tokens if name == "forget" else most for name in stated]
    measured = int("analogous" in method.needs)
    return Step(
        tokens=count * longest,
        square=count * longest**2,
        labels=sum(forget) + largest_draw(kept, kept_windows) - count,
        longest=max(len(window) for some in sets.values() for window in some.windows),
        asked=max(some.num_tokens for some in sets.values()),
        copies=int(method.begins_anew),  # the target model, beside the new one
        # Of every set that is measured but the forget set, and of those that the method compares
        # with; the analogous set is both.
        outputs=len(compared) + measured + (0 if config.training.lora_rank else len(spread)),
        states=sum(compared) + sum(states) + measured * sum(states),
        keeps_best=True,
    )
