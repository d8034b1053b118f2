"""Several methods on the same request: each searched for its best settings, run for each seed.

Everything that is finished lies in a file of its own, so that a comparison that was cut off goes
on where it stopped. The target model is measured once in each process.
"""

import json
import math
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from transformers import PreTrainedModel

from unlearner import provenance
from unlearner.attacks.mark import mark_auc
from unlearner.config import RunConfig
from unlearner.data.record import digest_records
from unlearner.errors import TrainingError, UserError
from unlearner.evaluation.harness import describe_tasks, digest_tasks
from unlearner.families import FAMILIES
from unlearner.families.base import AnyAnswers, AnyBaseline
from unlearner.files import write_whole
from unlearner.methods.base import Method, load_method
from unlearner.models.loading import limit_threads
from unlearner.output import staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.compare_plan import Plan
from unlearner.pipeline.compare_results import (
    MARK_FILE,
    RETRAINED_FILE,
    RETRAINED_MARK_FILE,
    RETRAINED_RELEARNING_FILE,
    RETRAINED_TASKS_FILE,
    SKIPPED_FILE,
    STRENGTH_FILE,
    TARGET_MARK_FILE,
    diverged_file,
    is_finished,
    method_folder,
    read_result,
)
from unlearner.pipeline.pipeline import measure_baseline, write_outcome
from unlearner.pipeline.relearning import measure_relearning
from unlearner.pipeline.search import Searched, put_back, search
from unlearner.pipeline.strength import strength_of
from unlearner.training.data import UnlearningData
from unlearner.training.log import Log, quieten
from unlearner.training.memory import announce
from unlearner.training.trainer import Trainer

Say = Callable[[str], None]

# Shares of the path from the target to the unlearned model at which it is looked at.
SHARES = (0.25, 0.5, 0.75, 0.875, 1.0)

PLAN_FILE, INPUTS_FILE = "compare.yaml", "inputs.json"

# What is done beside the methods.
RETRAINED = "(retrained)"


def _day_begun(folder: Path) -> str:
    """The day on which a comparison began; empty for a new one, and where it does not matter."""
    path = folder / INPUTS_FILE
    return json.loads(path.read_text(encoding="utf-8")).get("date", "") if path.exists() else ""


def run_all(plan: Plan, folder: Path, *, jobs: int, say: Say) -> None:
    """Every method that is not finished, in `jobs` processes.

    Raises:
        UserError: The records or the model cannot be used.
    """
    left = [method for method in plan.methods if not is_finished(plan, folder, method)]
    if plan.retrained and not (folder / RETRAINED_FILE).exists():
        left.insert(0, RETRAINED)
    if jobs <= 1 or len(left) <= 1:
        if left:
            Work(plan, folder, say).run(left)
        return
    context = get_context("spawn")  # a forked process cannot use an accelerator
    waiting, messages = context.Queue(), context.Queue()
    for method in left:
        waiting.put(method)
    workers = [
        context.Process(target=_serve, args=(plan, folder, waiting, messages), daemon=True)
        for _ in range(min(jobs, len(left)))
    ]
    for worker in workers:
        worker.start()
    try:
        _listen(workers, messages, say)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _listen(workers: list[SpawnProcess], messages: "Queue[tuple[str, str]]", say: Say) -> None:
    """Say what the workers say until each has ended; what stops one stops all."""
    working = len(workers)
    while working:
        try:
            kind, text = messages.get(timeout=5.0)
        except Empty:
            dead = [worker for worker in workers if worker.exitcode not in (None, 0)]
            if dead:
                raise RuntimeError(
                    f"a worker ended with status {dead[0].exitcode}; there may not be memory for "
                    "so many --jobs; what is finished is kept, go on with --resume"
                ) from None
            continue
        if kind == "wrong":
            raise UserError(text)
        if kind == "failed":
            raise RuntimeError(text)
        working -= kind == "ended"
        if kind == "said":
            say(text)


def _serve(
    plan: Plan, folder: Path, waiting: "Queue[str]", messages: "Queue[tuple[str, str]]"
) -> None:
    """A worker process: methods one after the other, until none is left."""
    quieten()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process ends them
    try:
        work = Work(plan, folder, lambda text: messages.put(("said", text)))
        while True:
            work.run([waiting.get(timeout=1.0)])
    except Empty:
        messages.put(("ended", ""))
    except UserError as error:
        messages.put(("wrong", str(error)))
    except Exception as error:  # noqa: BLE001 - raised again in the main process
        if os.environ.get("UNLEARNER_TRACEBACK"):
            traceback.print_exc()
        messages.put(("failed", f"{type(error).__name__}: {error}"))


class Work:
    """The methods' runs in one process, which has measured the target model.

    Raises:
        UserError: The records or the model cannot be used, or a run of the first method will not
            fit into memory.
    """

    def __init__(self, plan: Plan, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        plan = plan.on(_day_begun(folder))
        config = plan.config(plan.methods[0])
        family = FAMILIES[plan.family]
        indifferent = replace(config, method=_indifferent(plan.family))
        self.prepared = pipeline.start(indifferent, family)
        self.plan = plan.on(self.prepared.layout.date)
        config = pipeline.dated(config, self.prepared)
        if not (folder / INPUTS_FILE).exists():
            for line in self.prepared.reading:
                say(line)
        if "retain" not in self.prepared.sets:
            raise UserError(
                "--retain: none given; damage is compared on the same text for all methods, so "
                "give the records to keep"
            )
        self.model = self.prepared.loaded.model
        limit_threads(self.model)
        self.prepared.loaded.to(Trainer(config.training, Log(None)).device)
        fits = partial(announce, say=_silent, checkpoints=False)
        self.base = measure_baseline(config, self.prepared, fits, force=True, say=self.say)
        self._check_inputs()
        self.before = {
            name: some.detach().clone() for name, some in self.model.state_dict().items()
        }

    def _check_inputs(self) -> None:
        """Refuse to go on with another model or other records than the comparison began with.

        Raises:
            UserError: They are not the same.
        """
        key, path = provenance.read_key(), self.folder / INPUTS_FILE
        digests = {
            role: digest_records(some.records, key) for role, some in self.prepared.sets.items()
        }
        inputs = {"model": self.base.digest, "records": digests}
        if tasks := digest_tasks(self.plan.config(self.plan.methods[0]).evaluation):
            inputs["tasks"] = tasks
        if self.prepared.layout.date:
            inputs["date"] = self.prepared.layout.date
        if not path.exists():
            _write_json(path, inputs)
            return
        begun = read_result(path)
        if begun == inputs:
            return
        roles = [
            role
            for role in sorted({*digests, *begun["records"]})
            if digests.get(role) != begun["records"].get(role)
        ]
        differ = [f"the records of {role}" for role in roles]
        if begun["model"] != inputs["model"]:
            differ.insert(0, "the model")
        if begun.get("tasks") != inputs.get("tasks"):
            differ.append("the tasks of evaluation.harness_include_path")
        raise UserError(
            f"--resume: since the comparison in {self.folder} began, {' and '.join(differ)} changed"
            f" (or the key of the digests, {provenance.key_path()}); give another folder"
        )

    def run(self, methods: Iterable[str]) -> None:
        """Search and run each method; one that cannot work here is noted as such."""
        for method in methods:
            if method == RETRAINED:
                self._measure_retrained()
                continue
            config = self.plan.config(method)
            try:
                config.method.check_sets(self.prepared.sets)
                self._run(pipeline.planned(config, self.base))
            except UserError as error:  # it cannot work on these records, or on this model
                self._skip(method, error)

    def _skip(self, method: str, error: Exception) -> None:
        self.say(f"{method}: not run: {error}")
        _write_json(method_folder(self.folder, method) / SKIPPED_FILE, str(error))

    def _measure_retrained(self) -> None:
        """The figures of a model trained without the forget set, and what it would relearn."""
        self.say("measuring the retrained model")
        config = self.plan.config(self.plan.methods[0])
        family = self.prepared.family
        one = family.load_like(self.plan.retrained, "retrained", self.prepared, config.model.base)
        base = self.base
        answers = {"retrained": family.infer(one, base.sets, config.evaluation, base.references)}
        scores = family.score("retrained", answers, base.sets, config)
        own = answers["retrained"]
        again = measure_relearning(config, self.prepared, one, base.sets, own, math.inf, _silent)
        if config.evaluation.harness:
            found = {"target": base.tasks["target"]}
            found["retrained"] = family.run_tasks(one, config.evaluation)
            tasks = describe_tasks(found, config.evaluation)
            _write_json(self.folder / RETRAINED_TASKS_FILE, tasks)
        _write_json(self.folder / RETRAINED_RELEARNING_FILE, again)
        seed = config.training.seed
        self._write_mark(self.folder / RETRAINED_MARK_FILE, "retrained", own, base.sets, seed)
        _write_json(  # last: a comparison that goes on looks whether it is there
            self.folder / RETRAINED_FILE,
            {
                role: {name: value.to_json() for name, value in sorted(values.items())}
                for role, values in scores.items()
            },
        )

    def _run(self, config: RunConfig) -> None:
        name = config.method.name
        say = lambda text: self.say(f"{name}: {text.strip()}")  # noqa: E731
        target = self.prepared.family.for_method(config, self.prepared, self.base)
        if isinstance(target.data, UnlearningData):
            target = replace(target, data=replace(target.data, quick_looks=True))
        own = method_folder(self.folder, name)
        own.mkdir(parents=True, exist_ok=True)
        searched = None
        if config.search.trials and not config.method.begins_anew:
            past = own / "search.jsonl"
            searched = search(config, self.prepared.loaded, target.data, past, say)
            config = replace(config, method=searched.method)
        for seed in self.plan.seeds:
            training = config.training.model_copy(update={"seed": seed})
            place = own / f"seed-{seed}"
            if place.exists() or diverged_file(own, seed).exists():
                continue
            try:
                self._run_seed(replace(config, training=training), target, place, searched, say)
            except TrainingError as error:  # the other seeds go on
                say(f"seed {seed}: no model: {error}")
                _write_json(diverged_file(own, seed), str(error))

    def _run_seed(
        self,
        config: RunConfig,
        target: AnyBaseline,
        place: Path,
        searched: Searched | None,
        say: Say,
    ) -> None:
        provenance.set_seeds(config.training.seed)
        provenance.forget_peak(self.model.device)
        with staged(place) as work:
            trainer = Trainer(config.training, Log(work / "log.jsonl"), config.model.bits)
            unlearn = partial(config.method.unlearn, self.model, target.data, trainer)
            try:
                outcome = pipeline.carry_out(
                    config,
                    self.prepared,
                    target,
                    trainer,
                    work,
                    unlearn=unlearn,
                    say=_silent,
                    notes=(
                        *config.method.remarks(self.model),
                        *(searched.notes() if searched else ()),
                    ),
                )
            finally:
                put_back(self.model, trainer, self.before)
                self.prepared.loaded.to(trainer.device)
            if searched is not None:
                outcome.report["search"] = searched.to_json()
            if "figures" not in outcome.report["relearning"]:  # here for all, whatever it takes
                outcome.report["relearning"] = measure_relearning(
                    config,
                    self.prepared,
                    outcome.unlearned,
                    target.sets,
                    outcome.after,
                    math.inf,
                    _silent,
                )
            write_outcome(outcome, config, work)
            seed = config.training.seed
            self._write_mark(work / MARK_FILE, "unlearned", outcome.after, target.sets, seed)
            if not any(place.parent.glob(f"seed-*/{STRENGTH_FILE}")):  # once for each method
                self._write_strength(config.method, outcome.unlearned.model, target, work)
            if not self.plan.keep_models:
                shutil.rmtree(work / "model")
        path, base = self.folder / TARGET_MARK_FILE, self.base
        if not path.exists():  # once for all methods, and not before a run is finished
            seed = self.plan.seeds[0]
            self._write_mark(path, "target", base.answers["target"], base.sets, seed)
        verdict = outcome.report["verdict"]["status"]
        seconds = outcome.report["cost"]["seconds_unlearning"]
        say(f"seed {config.training.seed}: {verdict}, unlearned in {seconds:.0f} s")

    def _write_mark(
        self, path: Path, model: str, answers: AnyAnswers, sets: Mapping[str, Any], seed: int
    ) -> None:
        """How well the records are told from unseen ones, of language models that have both."""
        if not self.prepared.family.writes_text or "holdout" not in sets:
            return
        roles = ("forget", "holdout")
        groups = [sets[role].groups for role in roles]
        auc = mark_auc([answers[role] for role in roles], groups, seed)
        _write_json(path, {model: auc} if math.isfinite(auc) else {})

    def _write_strength(
        self, method: Method, unlearned: PreTrainedModel, target: AnyBaseline, work: Path
    ) -> None:
        after = unlearned.state_dict()
        if {name: some.shape for name, some in after.items()} != {
            name: some.shape for name, some in self.before.items()
        }:  # such as an ensemble: there is nothing between
            _write_json(work / STRENGTH_FILE, {"points": [], "at_the_floor": None})
            return
        shares = SHARES if isinstance(target.data, UnlearningData) else (0.0, *SHARES)
        found = strength_of(method, self.model, self.before, after, target.data, shares)
        _write_json(work / STRENGTH_FILE, found)


def _silent(_: object) -> None:
    """What a single run would say is one line here."""


def _indifferent(family: str) -> Method:
    """A method that every set of records is good enough for: the sets are read once for all."""
    return load_method("gradient_ascent")().for_family(family)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=1) + "\n")
