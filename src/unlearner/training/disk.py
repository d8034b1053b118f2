"""What a run writes, beside what the disk has room for: said before anything is trained."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from unlearner import processes
from unlearner.errors import UserError
from unlearner.files import free_bytes
from unlearner.models.loading import FLOAT_BYTES, num_parameters
from unlearner.report.writing import size
from unlearner.settings import TrainingSettings

# Weights, two moments and the best weights so far; a new one is whole before the last is removed.
CHECKPOINTS_OF_WEIGHTS = 2 * 4


def result_bytes(model: PreTrainedModel) -> int:
    """Of the weights that a run saves."""
    return FLOAT_BYTES * num_parameters(model)


def check_disk(
    model: PreTrainedModel, settings: TrainingSettings, folder: Path, say: Callable[[str], None]
) -> None:
    """Refuse a run whose result has no room, and say where its checkpoints have none.

    Args:
        folder: On the disk that is written to.

    Raises:
        UserError: The result is larger than what is free; it names both and the way out.
    """
    result, free = result_bytes(model), processes.from_main(free_bytes(folder))
    if result > free and not settings.ignore_memory_plan:
        raise UserError(
            f"--output: the result takes {size(result)} and {size(free)} are free on that disk; "
            "make room, give a folder on another disk, or set training.ignore_memory_plan=true"
        )
    # Of adapters there is little to save.
    saves = settings.checkpoint_every != "never" and not settings.lora_rank
    checkpoints = CHECKPOINTS_OF_WEIGHTS * result * saves
    if result + checkpoints > free:
        say(
            f"the disk has {size(free)} free, the result takes {size(result)} and checkpoints up "
            f"to {size(checkpoints)}: those without room are left out; "
            "training.checkpoint_every=never saves none, training.lora_rank=16 small ones"
        )
