"""Measure classifiers as they are: one that was to forget, and those it is compared with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.evaluation.classifier_measure import ask_sets
from unlearner.evaluation.verdict import Verdict
from unlearner.families.classifier import Prepared, measured_sets
from unlearner.families.classifier_criteria import Yardstick, fix_criteria
from unlearner.pipeline.classifier_pipeline import conclude, load_other, score_models

logger = logging.getLogger(__name__)

EVALUATE_NEEDS = ("forget", "holdout")


def evaluate(
    config: RunConfig,
    prepared: Prepared,
    *,
    target: str = "",
    retrained: str = "",
    say: Callable[[str], None] = logger.info,
) -> tuple[Verdict, dict[str, Any]]:
    """Measure a classifier on records that it was to forget.

    The level of unseen records is taken under the target model, and under the model itself where
    none is given; a fall of the scores on other records can then not be told.

    Args:
        target: The model before unlearning, by name.
        retrained: A model trained without the records, by name.

    Raises:
        UserError: A model cannot be loaded, or is of another kind than the one to be measured.
    """
    started = time.perf_counter()
    key, loaded = provenance.read_key(), prepared.loaded
    names = {"target": target, "retrained": retrained or config.model.retrained}
    others = {role: load_other(name, role, loaded) for role, name in names.items() if name}
    for other in others.values():
        other.model.to(loaded.model.device)
    models = {**others, "unlearned": loaded}
    sets = measured_sets(prepared, config)
    answers = {}
    for role, one in models.items():
        say(f"measuring the {role} model")
        answers[role] = ask_sets(one.model, sets, loaded.labels, config.evaluation.batch_tokens)
    scores = score_models(answers, sets, config)
    before = scores.get("target", scores["unlearned"])
    removes_class = prepared.forget_class is not None
    yardstick = Yardstick(
        loaded.family, len(loaded.labels), removes_class, before, scores.get("retrained", {})
    )
    criteria = fix_criteria(yardstick, config.criteria)
    if "target" not in scores:  # its own scores are no floor for themselves
        criteria = tuple(one for one in criteria if one.claim != "utility")
    digests = {role: provenance.digest_model(one.model) for role, one in models.items()}
    device = loaded.model.device
    verdict, report = conclude(
        "evaluate", config, prepared, answers, scores, criteria, digests, key, device
    )
    seconds = time.perf_counter() - started
    report["cost"] = {
        "seconds": seconds,
        "seconds_evaluation": seconds,
        "peak_memory_bytes": provenance.peak_memory_bytes(device),
    }
    return verdict, report
