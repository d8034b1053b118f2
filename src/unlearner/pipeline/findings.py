"""What a run found, as the dictionary that `report.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearner import provenance
from unlearner.config import RunConfig, method_values
from unlearner.data.duplicates import Duplicate
from unlearner.data.record import digest_records
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.intervals import Value
from unlearner.evaluation.verdict import Criterion, Verdict, digest_criteria
from unlearner.families.causal_lm_criteria import Recall
from unlearner.models.loading import num_parameters
from unlearner.report import SCHEMA
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.settings import own_name, without_paths

Scores = Mapping[str, Mapping[str, Value]]


@dataclass(frozen=True)
class Findings:
    """What every report tells, whichever command makes it."""

    command: str
    config: RunConfig
    prepared: Any  # of the model's family
    scores: Mapping[str, Scores]
    criteria: tuple[Criterion, ...]
    verdict: Verdict
    duplicates: Mapping[str, list[Duplicate]]
    digests: Mapping[str, str]
    key: bytes
    analogous: AnalogousSet | None = None


def build_report(found: Findings, device: Any) -> dict[str, Any]:
    """The report without what only a run of a method has: rounds, records, cost."""
    forget, config = found.prepared["forget"], found.config
    digest = digest_records(forget.records, found.key)
    subjects = {record.subject for record in forget.records if record.subject}
    report = {
        "schema": SCHEMA,
        "command": found.command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "request": {
            "id": config.data.request_id or f"request-{digest.partition(':')[2][:12]}",
            "records": len(forget),
            "subjects": len(subjects) if subjects else None,
            "digest": digest,
        },
        "model": _model(found),
        "data": _data(found),
        "criteria": [criterion.to_json() for criterion in found.criteria],
        "criteria_digest": digest_criteria(found.criteria),
        "results": {
            model: {role: _figures(values) for role, values in scores.items()}
            for model, scores in found.scores.items()
        },
        "verdict": found.verdict.to_json(),
        "environment": provenance.environment(device, config.training.seed),
    }
    if found.prepared.loaded.family == "causal-lm":
        evaluation = config.evaluation
        report["evaluation"] = {"prompt_start": evaluation.prompt_start}
        if evaluation.bertscore_model is not None:
            report["evaluation"] |= {
                "bertscore_model": own_name(evaluation.bertscore_model),
                "bertscore_baseline": evaluation.bertscore_baseline,
            }
    if found.command == "forget":
        report["method"] = without_paths(method_values(config.method))
    if found.analogous is not None:
        report["retrieval"] = _retrieval(found.analogous, report["method"]["pairs"])
    return report


def per_record(forget: TokenizedSet, before: Recall, after: Recall) -> list[dict[str, Any]]:
    """MA and EL_10 of every forget record, under the target and the unlearned model."""
    return [
        {"id": record.id, "before": before.to_json(index), "after": after.to_json(index)}
        for index, record in enumerate(forget.records)
    ]


def _model(found: Findings) -> dict[str, Any]:
    name, loaded = found.config.model.name, found.prepared.loaded
    is_folder = bool(name) and Path(name).exists()
    described = {
        "name": Path(name).resolve().name if is_folder else name or "a model given from Python",
        "family": loaded.family,
        "parameters": num_parameters(loaded.model),
        "digest_target": found.digests.get("target"),
        "digest_unlearned": found.digests.get("unlearned"),
    }
    return described | ({"hub_id": name} if name and not is_folder else {})


def _data(found: Findings) -> dict[str, Any]:
    roles = ("forget", "retain", "holdout", "test", "holdout_class")
    sets: dict[str, Any] = {role: found.prepared.get(role) for role in roles}
    if found.analogous is not None:
        sets["analogous"] = found.analogous.chosen
    copies = {
        role: len({duplicate.other for duplicate in some})
        for role, some in found.duplicates.items()
    }
    copies |= {"forget": len(found.prepared["forget"]), "analogous": 0}
    return {
        role: {
            "records": len(some),
            "tokens": some.num_tokens,
            "digest": digest_records(some.records, found.key),
            "overlap_with_forget": copies.get(role, 0),
        }
        for role, some in sets.items()
        if some is not None
    }


def _figures(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: value.to_json() for name, value in sorted(values.items())}


def _retrieval(analogous: AnalogousSet, pairs: str) -> dict[str, Any]:
    return {
        "encoder": own_name(analogous.found.encoder),
        "pairs": pairs,
        "near_duplicates_excluded": len(analogous.found.excluded),
        "without_clean_pair": analogous.found.overlapping,
        "longest_shared_run": analogous.longest_shared_run,
    }
