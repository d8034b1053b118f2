"""What a run found, as the dictionary that `report.json` holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from unlearner import provenance
from unlearner.config import RunConfig, method_values
from unlearner.data.record import digest_records
from unlearner.evaluation.harness import describe_tasks
from unlearner.evaluation.verdict import Verdict, digest_criteria
from unlearner.families.base import AnyMeasured, AnyPrepared
from unlearner.files import LARGE, read_json
from unlearner.models.lineage import PROVENANCE_FILE
from unlearner.models.loading import num_parameters
from unlearner.output import Json
from unlearner.report.facts import SCHEMA
from unlearner.retrieval.analogous import AnalogousSet
from unlearner.settings import further_kind, own_name, without_paths
from unlearner.training.data import ClassifierData, UnlearningData
from unlearner.training.trainer import Trainer


@dataclass(frozen=True)
class Findings:
    """What every report tells, whichever command makes it.

    Attributes:
        digests: Of the weights of each model.
        data: What the method got; None where none was run.
    """

    command: str
    config: RunConfig
    prepared: AnyPrepared
    measured: AnyMeasured
    digests: Mapping[str, str]
    data: UnlearningData | ClassifierData | None = None

    @property
    def analogous(self) -> AnalogousSet | None:
        """The records that ICU learned."""
        return getattr(self.data, "analogous", None)


def build_report(found: Findings, verdict: Verdict) -> Json:
    """The report without what only a run of a method has: rounds and cost."""
    prepared, measured, config = found.prepared, found.measured, found.config
    forget, key = prepared["forget"], provenance.read_key()
    digest = digest_records(forget.records, key)
    subjects = {record.subject for record in forget.records if record.subject}
    own = prepared.family.sections(prepared, measured, config)
    report = {
        "schema": SCHEMA,
        "command": found.command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "request": {
            "id": config.data.request_id or f"request-{digest.partition(':')[2][:12]}",
            "records": len(forget),
            "subjects": len(subjects) if subjects else None,
            "digest": digest,
            **own.pop("request", {}),
        },
        "model": _model(found),
        "data": _data(found, key),
        "criteria": [criterion.to_json() for criterion in measured.criteria],
        "criteria_digest": digest_criteria(measured.criteria),
        "results": {
            model: {
                role: {name: value.to_json() for name, value in sorted(values.items())}
                for role, values in scores.items()
            }
            for model, scores in measured.scores.items()
        },
        "verdict": verdict.to_json(),
        "environment": provenance.environment(prepared.loaded.model.device, config.training.seed),
        **own,
    }
    if measured.tasks:
        report["tasks"] = describe_tasks(measured.tasks, config.evaluation)
    if found.command == "forget":
        report["method"] = without_paths(method_values(config.method))
    if found.analogous is not None:
        report["retrieval"] = _retrieval(found.analogous, report["method"]["pairs"])
    return report


def _model(found: Findings) -> Json:
    name, loaded = found.config.model.name, found.prepared.loaded
    is_folder = bool(name) and Path(name).exists()
    described = {
        "name": Path(name).resolve().name if is_folder else name or "a model given from Python",
        "family": loaded.family,
        "parameters": num_parameters(loaded.model),
        "format": loaded.format.name,
        "digest_target": found.digests.get("target"),
        "digest_unlearned": found.digests.get("unlearned"),
    }
    notes = found.prepared.family.notes(loaded)
    described |= {"notes": list(notes)} if notes else {}
    return described | ({"hub_id": name} if name and not is_folder else {})


def _data(found: Findings, key: bytes) -> Json:
    prepared = found.prepared
    roles = ("forget", "retain", "holdout", "test", "holdout_class")
    sets = {role: prepared.sets[role] for role in roles if role in prepared.sets}
    sets |= {role: some for role, some in prepared.sets.items() if further_kind(role)}
    if found.analogous is not None:
        sets["analogous"] = found.analogous.chosen
    copies = {
        role: len({duplicate.other for duplicate in some})
        for role, some in prepared.duplicates.items()
    }
    copies |= {"forget": len(prepared["forget"]), "analogous": 0}
    return {
        role: {
            "records": len(some),
            "tokens": some.num_tokens,
            "digest": digest_records(some.records, key),
            "overlap_with_forget": copies.get(role, 0),
            **({"columns": prepared.columns[role]} if role in prepared.columns else {}),
        }
        for role, some in sets.items()
    }


def _retrieval(analogous: AnalogousSet, pairs: str) -> Json:
    found = analogous.found
    return {
        "encoder": f"{own_name(found.encoder)}{' in bfloat16' if found.shorter else ''}",
        "pairs": pairs,
        "near_duplicates_excluded": len(found.excluded),
        "without_clean_pair": found.overlapping,
        "longest_shared_run": analogous.longest_shared_run,
    }


def training_notes(trainer: Trainer, *, writes_text: bool) -> tuple[str, ...]:
    """What a method has to tell: unseen records that it used, an earlier round that it took."""
    details, notes = trainer.details, []
    if "unseen_set_aside" in details:
        note = f"{details['unseen_set_aside']} unseen records gave the method its goals; every "
        note += "figure is of the others."
        if details["partners_are_shared"]:
            note += " They are fewer than the records to forget, some of which share one."
        notes.append(note)
    kept = "quality of the other text" if writes_text else "score of the records to be kept"
    why = f"of the rounds that kept the {kept} it had forgotten most; the last round was not better"
    if "nearest_repair" in details:
        notes.append(
            f"The saved model is that of round {details['nearest_repair']}: of the repairs it came "
            "nearest to the target's score on other records; none came near enough."
        )
    elif "restored_round" in details:
        notes.append(f"The saved model is that of round {details['restored_round']}: {why}.")
    elif "repaired_round" in details:  # by steps that come behind the last round
        number = details["repaired_round"]
        notes.append(f"The repair steps went on from the model of round {number}: {why}.")
    return tuple(notes)


def seconds_of_training(model: str) -> float | None:
    """How long a model's training took, as `finetune` has written it down; None if not known."""
    if not model:
        return None
    try:
        recipe = read_json(Path(model) / PROVENANCE_FILE, LARGE)
        return float(recipe["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
