"""What `check` advises before a run is begun."""

from unlearner.config import RunConfig
from unlearner.evaluation.measure import Scores
from unlearner.families.base import AnyPrepared
from unlearner.pipeline.findings import seconds_of_training
from unlearner.report.writing import duration
from unlearner.retrieval.neighbours import emulates_bfloat16
from unlearner.training.memory import ResourcePlan


def advice_on(
    config: RunConfig, prepared: AnyPrepared, plan: ResourcePlan, target: Scores
) -> tuple[str, ...]:
    """Sentences on the method, the text to keep, training again and the precision, if any.

    Args:
        target: The target model's scores.
    """
    found = prepared.family.advice(prepared, config) + new_text(target)
    found += training_again(config, plan)
    lower = config.training.precision == "bfloat16"
    if lower and emulates_bfloat16(prepared.loaded.model.device):
        found += (
            "training.precision=bfloat16: this processor has no arithmetic for it, and steps take "
            "several times as long as in float32.",
        )
    return found


def new_text(target: Scores) -> tuple[str, ...]:
    """That the retained text is no better known than unseen text, if it is so.

    A run learns it then: of 1,440 and 3,440 new texts among those retained (`docs/log.md`, cost by
    the number of retained records), unseen text was a seventh as perplexing behind it.
    """
    kept, unseen = (target.get(role, {}).get("perplexity") for role in ("retain", "holdout"))
    if kept is None or unseen is None or not kept.value >= unseen.value:
        return ()
    return (
        "The records to retain are as new to the model as unseen ones (perplexity "
        f"{kept.value:.3g} and {unseen.value:.3g}): a run would learn them. Give records that it "
        "was trained on where there are some; other text belongs in --pool.",
    )


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
