"""Tasks of the lm-evaluation-harness, run by the harness's own model class on a loaded model.

Figures and standard errors are the harness's own: `lm_eval --model hf` of the saved model gives the
same digits for the same task, limit and batch size, computed in float32 on the same hardware.

Reference: Gao et al. (2021), https://github.com/EleutherAI/lm-evaluation-harness.
"""

import copy
import hashlib
import io
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearner import processes
from unlearner.errors import UserError, one_message, quoted
from unlearner.models.loading import Loaded
from unlearner.output import Json
from unlearner.settings import EvaluationSettings

HARNESS = "lm_eval"

TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class TaskFigure:
    """One metric of one task, as the harness gives it.

    Attributes:
        value: The metric.
        stderr: Its standard error; NaN where the harness gives none.
        records: Documents that it was measured on.
        samples: The metric of each document, where the value is their mean; else empty.
    """

    value: float
    stderr: float
    records: int
    samples: tuple[float, ...] = ()

    def to_json(self) -> Json:
        """As reports hold it: with the 95 % interval, null for what is not finite."""
        half = TWO_SIDED_95 * self.stderr
        numbers = {
            "value": self.value,
            "low": self.value - half,
            "high": self.value + half,
            "stderr": self.stderr,
        }
        return {**_numbers_known(numbers), "records": self.records}


# Of one model: every metric of every task.
TaskFigures = Mapping[str, Mapping[str, TaskFigure]]


def check_tasks(evaluation: EvaluationSettings) -> None:
    """Refuse tasks that cannot be run before anything slow is done; their data are loaded once.

    Raises:
        UserError: The harness is not installed, a task is not known, or its data cannot be had.
    """
    if not evaluation.harness:
        return
    if find_spec(HARNESS) is None:
        raise UserError(
            "evaluation.harness: needs the package lm_eval; pip install 'unlearner[harness]', or "
            "leave it out"
        )
    if processes.count() > 1:
        raise UserError("evaluation.harness: is for one process; start it without accelerate")
    folder = evaluation.harness_include_path
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"evaluation.harness_include_path: {folder}: no such folder; give the folder of the "
            "tasks' .yaml files"
        )
    with _leaving_no_trace():
        manager = _task_manager(evaluation.harness, folder)
        for name in evaluation.harness:
            _check_task(manager, name)


def _check_task(manager: Any, name: str) -> None:
    if name not in manager.task_index:
        close = get_close_matches(name, manager.task_index, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"evaluation.harness: no task {quoted(name)}; {hint}`lm_eval ls tasks` lists them, "
            "evaluation.harness_include_path=FOLDER adds those of a folder"
        )
    try:
        manager.load([name])
    except Exception as error:  # noqa: BLE001 - a task is code of others, which raises anything
        reason = one_message(f"{type(error).__name__}: {error}")[:300]
        raise UserError(
            f"evaluation.harness: task {name} cannot be loaded ({reason}); its data come from the "
            "hub and have to be fetched once, or stand in local files that its .yaml file names"
        ) from None


@lru_cache(maxsize=1)
def _task_manager(names: tuple[str, ...], folder: str) -> Any:
    """The index of tasks: of the folder alone where it has them all.

    The harness's own are thousands of files, which take it half a minute to read.
    """
    from lm_eval.tasks import TaskManager

    if folder:
        own = TaskManager(include_path=folder, include_defaults=False)
        if all(name in own.task_index for name in names):
            return own
    return TaskManager(include_path=folder or None)


def run_tasks(loaded: Loaded, evaluation: EvaluationSettings) -> TaskFigures:
    """Every metric of every task, of a group also those of its parts; empty where none is named.

    The model is the one in memory. Random states are afterwards as they were.
    """
    if not evaluation.harness:
        return {}
    # By name: its decorators hide the signatures from type checkers.
    harness, models = map(import_module, (HARNESS, f"{HARNESS}.models.huggingface"))
    with _leaving_no_trace():
        _seed()
        manager = _task_manager(evaluation.harness, evaluation.harness_include_path)
        tasks = manager.load(list(evaluation.harness))
        for task in tasks["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=OTHER_SEED)
        found = harness.evaluate(
            # The harness gives the tokenizer a token for padding.
            lm=models.HFLM(
                pretrained=loaded.model,
                tokenizer=copy.deepcopy(loaded.tokenizer),
                batch_size=evaluation.harness_batch_size,
            ),
            task_dict=tasks,
            limit=evaluation.harness_limit,
            apply_chat_template=evaluation.harness_chat,
            fewshot_as_multiturn=True,
        )
    return {
        name: dict(_figures(values, found.get("samples", {}).get(name, ())))
        for name, values in found["results"].items()
    }


# What the harness's own command draws by, unless it is told otherwise.
RANDOM_SEED, OTHER_SEED = 0, 1234


def _seed() -> None:
    random.seed(RANDOM_SEED)
    np.random.seed(OTHER_SEED)
    torch.manual_seed(OTHER_SEED)


@contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """The harness seeds all generators, and writes what it does to the terminal."""
    states, level = (random.getstate(), np.random.get_state()), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            torch.random.fork_rng(),
            redirect_stderr(io.StringIO()),
            redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logging.disable(level)


def _figures(
    values: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, TaskFigure]]:
    """The metrics of one task; the harness writes them as `metric,filter`."""
    for key, value in values.items():
        metric, comma, how = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = values.get(f"{metric}_stderr,{how}")
        name = metric if how == "none" else f"{metric} ({how})"
        yield (
            name,
            TaskFigure(
                float(value),
                float(stderr) if isinstance(stderr, int | float) else math.nan,
                int(values.get("sample_len") or 0),
                _of_documents(float(value), metric, how, samples),
            ),
        )


def _of_documents(
    value: float, metric: str, how: str, samples: Sequence[Mapping[str, Any]]
) -> tuple[float, ...]:
    """The metric of each document in their order, where the value is their mean; else none."""
    own = [one for one in samples if one.get("filter", "none") == how and metric in one]
    own.sort(key=lambda one: one["doc_id"])
    if not own or not all(isinstance(one[metric], int | float) for one in own):
        return ()
    found = tuple(float(one[metric]) for one in own)
    return found if math.isclose(math.fsum(found) / len(found), value) else ()


# Reports


def describe_tasks(
    figures: Mapping[str, TaskFigures], evaluation: EvaluationSettings
) -> dict[str, Any]:
    """What a report holds of the tasks: how they were run, each model's figures, the changes.

    Args:
        figures: By model.
    """
    own: dict[str, Any] = {
        "harness": version(HARNESS),
        "tasks": list(evaluation.harness),
        "batch_size": evaluation.harness_batch_size,
        "chat_template": evaluation.harness_chat,
        "results": {
            model: {
                task: {name: one.to_json() for name, one in values.items()}
                for task, values in tasks.items()
            }
            for model, tasks in figures.items()
        },
    }
    if evaluation.harness_limit is not None:
        own["limit"] = evaluation.harness_limit
    if "target" in figures:
        own["change"] = {
            model: task_changes(figures["target"], tasks)
            for model, tasks in figures.items()
            if model != "target"
        }
    return own


def task_changes(before: TaskFigures, after: TaskFigures) -> Json:
    """What each metric that both have is more than before, with its 95 % interval."""
    return {
        task: {
            name: paired_change(before[task][name], one)
            for name, one in values.items()
            if name in before[task]
        }
        for task, values in after.items()
        if task in before
    }


def paired_change(before: TaskFigure, after: TaskFigure) -> Json:
    r"""The difference of two models on the same documents, with its 95 % interval.

    .. math:: \Delta \pm 1.96 \sqrt{s^2_{d} / n}

    s_d is the standard deviation of the n documents' own differences (ddof 1). A metric that is no
    mean over documents has the interval of two independent figures, which is too wide.
    """
    paired = bool(before.samples) and len(before.samples) == len(after.samples) > 1
    if paired:
        each = np.array(after.samples) - np.array(before.samples)
        stderr = float(each.std(ddof=1)) / math.sqrt(len(each))
    else:
        stderr = math.hypot(before.stderr, after.stderr)
    value, half = after.value - before.value, TWO_SIDED_95 * stderr
    ends = {"value": value, "low": value - half, "high": value + half}
    return {**_numbers_known(ends), "paired": paired}


def _numbers_known(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: one if math.isfinite(one) else None for name, one in numbers.items()}


def digest_tasks(evaluation: EvaluationSettings) -> str:
    """SHA-256 of the files of the user's own tasks; empty where there are none."""
    if not (evaluation.harness and evaluation.harness_include_path):
        return ""
    folder, code = Path(evaluation.harness_include_path), hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for part in (path.relative_to(folder).as_posix().encode(), path.read_bytes()):
            code.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{code.hexdigest()}"
