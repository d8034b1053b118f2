"""A run's looks on one device: measuring three sets, a look between steps, and 25 steps of ICU."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

import torch

from gpu_round import PROMPT_START, Round, fits, release
from gpu_shapes import Combination, Load, build
from speed_asking import values
from speed_cases import NoText, own_text, random_ids, windows_of
from speed_timing import timed
from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet
from unlearner.inference.language_model import Questions, infer
from unlearner.provenance import forget_peak, peak_memory_bytes
from unlearner.training.data import HoldoutBaseline, UnlearningData
from unlearner.training.stop_rule import Refinement, Rules

STEPS = 25
SAMPLES_MS = 250

# EL_10 is asked for in every look, as it is near the end of a run.
LEVEL = HoldoutBaseline(1.0, 1.0, None, None, 1.0, 1.0, "none")


def looks(shape: str, load: Load, records: int, device: str) -> dict[str, Any]:
    """A line of the table of looks; without figures where it does not fit.

    Args:
        records: Of each of the three sets.
    """
    found: dict[str, Any] = {"shape": shape, "records": records}
    found["fits"] = fits(lambda: found.update(_measure(shape, load, records, device)))
    release()
    return found


def _measure(shape: str, load: Load, records: int, device: str) -> dict[str, Any]:
    model = build(shape, "auto", device)
    questions = Questions(prompt_start=PROMPT_START)
    own = max(1, records // 2)
    ids = {
        role: random_ids(model, records, seed, load.tokens)
        for seed, role in enumerate(("forget", "retain", "holdout"))
    }
    ids["forget"][:own] = own_text(model, ids["forget"][:own])
    sets = {role: _tokenized(role, some.cpu()) for role, some in ids.items()}
    data = UnlearningData(
        *(NoText(), sets["forget"], sets["retain"], sets["retain"], None, LEVEL, questions, 1e9),
        unseen=sets["holdout"],
    )
    examine = partial(Refinement(Rules(), data, two_sided=True).examine, model, 1)

    def measure() -> float:
        asked = [infer(model, NoText(), some.windows, questions) for some in sets.values()]
        figures = [values(answers) for answers in asked]  # of every set, as a report has them
        return fmean(figures[0][0])

    infer(model, NoText(), sets["retain"].windows[:2], questions)  # a warm-up
    forget_peak(torch.device(device))
    accuracy, found = _busy("measuring", measure)
    found |= _busy("look", examine)[1]
    steps = Round(Combination(shape), load, device)
    steps.icu()
    found |= _busy("steps", lambda: [steps.icu() for _ in range(STEPS)])[1]
    return found | {"ma": accuracy, "peak_bytes": peak_memory_bytes(torch.device(device))}


def _tokenized(role: str, ids: torch.Tensor) -> TokenizedSet:
    records = tuple(Record(str(i), input_ids=tuple(row)) for i, row in enumerate(ids.tolist()))
    return TokenizedSet(role, records, tuple(windows_of(ids)), "random")


def _busy(name: str, run: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What it gives; its seconds, and the mean share of them in which the device had work."""
    program, watcher = shutil.which("nvidia-smi"), None
    if program is not None and torch.cuda.is_initialized():
        asked = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        asked.append(f"--loop-ms={SAMPLES_MS}")
        watcher = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    try:
        value, cost = timed(run)
    finally:
        said = ""
        if watcher is not None:
            watcher.terminate()
            said = watcher.communicate()[0]
    shares = [int(line) / 100 for line in said.split() if line.isdigit()]
    return value, {f"{name}_seconds": cost.wall, f"{name}_busy": fmean(shares) if shares else None}
