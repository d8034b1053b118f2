"""Measure models as they are: one that was to forget, and those it is compared with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.evaluation.intervals import Value
from unlearner.evaluation.measure import Answers, ask_sets, score_sets, target_distributions
from unlearner.evaluation.verdict import Verdict
from unlearner.families.causal_lm import Prepared, measured_sets
from unlearner.families.causal_lm_criteria import (
    Recall,
    fix_criteria,
    judge,
    level_of,
    record_statuses,
)
from unlearner.models.loading import Loaded, load_causal_lm
from unlearner.pipeline.findings import Findings, build_report, per_record

logger = logging.getLogger(__name__)

Scores = dict[str, dict[str, dict[str, Value]]]

EVALUATE_NEEDS = ("level",)


def evaluate(
    config: RunConfig,
    prepared: Prepared,
    *,
    target: str = "",
    retrained: str = "",
    say: Callable[[str], None] = logger.info,
) -> tuple[Verdict, dict[str, Any]]:
    """Measure a model on records that it was to forget.

    The level of unseen text is taken under the target model, and under the model itself where none
    is given, which the report says.

    Args:
        target: The model before unlearning, by name.
        retrained: A model trained without the records, by name.

    Raises:
        UserError: A model cannot be loaded, or reads other tokens than the one to be measured.
    """
    started = time.perf_counter()
    key, device = provenance.read_key(), prepared.loaded.model.device
    models = _models(prepared.loaded, target, retrained)
    answers, scores = _measure(config, prepared, models, say)
    before, under = ("target", "the target model") if target else ("unlearned", "the model itself")
    level = level_of(answers[before].get("holdout"), config.criteria, under=under)
    criteria = fix_criteria(level, scores.get("target", {}), config.criteria)
    recall = Recall.of(answers["unlearned"]["forget"])
    ids = [record.id for record in prepared["forget"].records]
    verdict = judge(criteria, scores, record_statuses(ids, recall.ma, recall.el_10, level))
    digests = {role: provenance.digest_model(one.model) for role, one in models.items()}
    found = Findings(
        "evaluate", config, prepared, scores, criteria, verdict, prepared.duplicates, digests, key
    )
    report = build_report(found, device)
    if target:
        earlier = Recall.of(answers["target"]["forget"])
        report["per_record"] = per_record(prepared["forget"], earlier, recall)
    seconds = time.perf_counter() - started
    report["cost"] = {
        "seconds": seconds,
        "seconds_evaluation": seconds,
        "peak_memory_bytes": provenance.peak_memory_bytes(device),
    }
    return verdict, report


def _models(unlearned: Loaded, target: str, retrained: str) -> dict[str, Loaded]:
    """The models to measure, the target first: the others' divergence from it is measured."""
    names = {"target": target, "retrained": retrained}
    models = {role: load_like(name, role, unlearned) for role, name in names.items() if name}
    return {**models, "unlearned": unlearned}


def load_like(name: str, role: str, other: Loaded) -> Loaded:
    """A model to compare another with, beside it.

    Raises:
        UserError: It cannot be loaded, or reads other tokens than the other.
    """
    loaded = load_causal_lm(name)
    if other.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise UserError(
            f"--{role} {name}: its tokenizer differs from that of {other.name}; figures of models "
            "that read other tokens cannot be compared"
        )
    loaded.model.to(other.model.device)
    return loaded


def _measure(
    config: RunConfig,
    prepared: Prepared,
    models: dict[str, Loaded],
    say: Callable[[str], None],
) -> tuple[dict[str, Answers], Scores]:
    sets, evaluation = measured_sets(prepared, config), config.evaluation
    targets = target_distributions(models["target"].model, sets) if "target" in models else {}
    answers, scores = {}, {}
    for role, one in models.items():
        say(f"measuring the {role} model")
        kept = {} if role == "target" else targets
        answers[role] = ask_sets(one.model, one.tokenizer, sets, evaluation, kept)
        scores[role] = score_sets(answers[role], sets, evaluation, seed=config.training.seed)
    return answers, scores
