"""What `check` advises before a run is begun."""

from unlearner.config import RunConfig
from unlearner.families.base import AnyPrepared
from unlearner.pipeline.findings import seconds_of_training
from unlearner.report.writing import duration
from unlearner.retrieval.neighbours import emulates_bfloat16
from unlearner.training.memory import ResourcePlan


def advice_on(config: RunConfig, prepared: AnyPrepared, plan: ResourcePlan) -> tuple[str, ...]:
    """Sentences on the method, on training again, and on the precision; none where all is well."""
    found = (*prepared.family.advice(prepared, config), *training_again(config, plan))
    lower = config.training.precision == "bfloat16"
    if lower and emulates_bfloat16(prepared.loaded.model.device):
        found += (
            "training.precision=bfloat16: this processor has no arithmetic for it, and steps take "
            "several times as long as in float32.",
        )
    return found


def training_again(config: RunConfig, plan: ResourcePlan) -> tuple[str, ...]:
    """That training without the records would take no longer than unlearning may, if it is so."""
    seconds = seconds_of_training(config.model.name)
    longest = plan.seconds_per_epoch * plan.max_epochs
    if seconds is None or config.method.begins_anew or not seconds <= longest:
        return ()
    return (
        f"This model was trained in {duration(seconds)}, and a run may take {duration(longest)}: "
        "training again without the records, by `unlearner finetune` on those that are retained, "
        "forgets exactly, and may be quicker.",
    )
