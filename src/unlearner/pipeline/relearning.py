"""Relearning: what comes back when the unlearned model goes on learning retained text alone.

The attack needs none of the forgotten records: whoever goes on fine-tuning a model makes it without
knowing. A few steps by the settings of `unlearner finetune` are taken on the saved model, looked at
in between, and taken back.

Reference: Hu et al. (2024), arXiv:2406.13356, whose attacker has some of the records; here none.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from unlearner import processes
from unlearner.config import RunConfig
from unlearner.families.base import AnyPrepared
from unlearner.models import sharding
from unlearner.models.loading import Loaded
from unlearner.output import Json
from unlearner.training import memory
from unlearner.training.relearning import LOOKS, STEPS, relearned

# It is left out where it would take more than this share of the run, and more than so many seconds.
SHARE_OF_RUN, SECONDS = 0.1, 10.0

# Of a trained float32 weight: its gradient, two moments, and the weight to go back to.
BYTES_PER_WEIGHT = 16


def measure_relearning(
    config: RunConfig,
    prepared: AnyPrepared,
    loaded: Loaded,
    sets: Mapping[str, Any],
    answers: Mapping[str, list[Any]],
    limit: float,
    say: Callable[[str], None],
) -> Json:
    """The forget set's figures after some steps on retained text; or why there are none.

    The model is afterwards as it was before, bit for bit.

    Args:
        loaded: The unlearned model.
        sets: The measured sets.
        answers: The unlearned model's on them, as measured: what relearning begins from.
        limit: Seconds that it may take, see `seconds_for`.

    Returns:
        "steps" and "figures", a list by metric; or "skipped", the reason.
    """
    if config.method.exact:
        return {"skipped": "the model has never learned the records"}
    kept = prepared.get("retain")
    if kept is None:
        return {"skipped": "there are no records to retain"}
    if sharding.wanted():
        return {"skipped": "the model is divided among processes"}
    trained = sum(weight.numel() for weight in loaded.model.parameters())
    needed, room = trained * BYTES_PER_WEIGHT, memory.room_on(loaded.model.device)
    if not config.training.lora_rank and processes.from_main(needed > room):
        return {"skipped": f"it needs {needed / 2**30:.1f} GiB, and {room / 2**30:.1f} are free"}
    say(f"training on the retained records for {STEPS} steps, to see what comes back")
    family = prepared.family
    figures = [family.forget_figures(loaded, answers, sets)]
    started = time.perf_counter()
    with relearned(config.training, loaded.model, kept) as steps:
        for step in steps:
            if step and step in LOOKS:
                found = family.infer_quickly(loaded, sets, config)
                figures.append(family.forget_figures(loaded, found, sets))
            taken = time.perf_counter() - started
            expected = processes.from_main(taken * STEPS / max(step, 1))
            if 0 < step < STEPS and expected > limit:
                return {"skipped": f"it would take {expected:.0f} s, over a tenth of the run"}
    by_metric = {name: [one[name] for one in figures] for name in figures[0]}
    return {"steps": list(LOOKS), "figures": by_metric, "seconds": time.perf_counter() - started}


def seconds_for(seconds: float) -> float:
    """What relearning may take in a run that has taken so many seconds."""
    return max(SECONDS, SHARE_OF_RUN * seconds)
