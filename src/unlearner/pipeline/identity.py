"""What a run is known by: in the provenance of its model, and in its checkpoints."""

from unlearner import processes, provenance
from unlearner.config import RunConfig, method_values
from unlearner.data.record import digest_records
from unlearner.evaluation.harness import digest_tasks
from unlearner.families.base import AnyPrepared
from unlearner.models.lineage import Provenance, describe, digests_of
from unlearner.output import Json
from unlearner.settings import without_paths


def lineage_of(config: RunConfig, prepared: AnyPrepared, digest: str) -> Provenance:
    """What the unlearned model is made of: the target, the request, what was learned meanwhile.

    Args:
        digest: Of the target's weights.

    Raises:
        UserError: The target's own provenance is damaged.
    """
    key, forget = provenance.read_key(), prepared["forget"]
    learned = {role: prepared.sets[role] for role in ("retain", "pool") if role in prepared.sets}
    return describe(
        "forget",
        config.model.name,
        digest,
        key,
        learned={
            role: digests_of(some.records, key, some.source) for role, some in learned.items()
        },
        method=without_paths(method_values(config.method)),
        training=config.training.values(),
        request=digests_of(forget.records, key, forget.source),
    )


def run_identity(config: RunConfig, prepared: AnyPrepared, digest: str, key: bytes) -> Json:
    """A run's settings and the digests of everything that it was given."""
    digests = {role: digest_records(some.records, key) for role, some in prepared.sets.items()}
    tasks = digest_tasks(config.evaluation)
    return {
        "command": "forget",
        "settings": config.sections(),
        "model": digest,
        "records": digests,
        "processes": processes.count(),
        **({"tasks": tasks} if tasks else {}),
    }
