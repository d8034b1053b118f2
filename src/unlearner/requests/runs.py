"""Requests carried out: from the current model to the next one, and what the ledger holds of it.

A run is entered before it begins, with everything that it is given, and again when its results
stand in their folder. Between the two a killed process leaves one of three things behind, and the
next `run` looks which: results, which appear whole and are then entered; a checkpoint, behind which
the run goes on; or nothing, and it begins again. Results that are there are never made again, so
nothing is applied twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearner.config import RunConfig
from unlearner.data.record import RecordSet, digest_content
from unlearner.errors import DiskError, Interrupted, TrainingError, UserError, one_message
from unlearner.families.base import AnyFamily
from unlearner.models.lineage import digest_file, digest_weights
from unlearner.models.loading import limit_threads
from unlearner.output import CHECKPOINTS, staged
from unlearner.pipeline import pipeline
from unlearner.pipeline.pipeline import NothingToUnlearn, read_config, settings_of, write_outcome
from unlearner.report.files import read_report
from unlearner.requests.book import TREATED, Book, Request, Run, by_deadline
from unlearner.requests.holds import NOT_MEASURED, Asked, StillHeld, criterion_of, measure_holds
from unlearner.requests.records import WorkingFiles, as_row, check_digests, read_any
from unlearner.requests.store import Event, Store
from unlearner.training.log import Log
from unlearner.training.resume import Resumable

Say = Callable[[str], None]

MODEL = "model"  # in the folder of a run

OTHER_ROLES = ("retain", "pool", "holdout", "test")


@dataclass(frozen=True)
class RequestPlan:
    """What `run` was told.

    Attributes:
        model: The model to begin with; empty for the ledger's current one.
        output: The folder in which each run has one of its own.
        together: One run for all requests.
        sections: Of a run file: sets, method and other settings.
        force: Run though the model has not memorised the records.
        again: Answered requests that the current model holds no more are run again, each time
            together with the next one and at the end once by themselves.
        only: The ids of the requests; empty for all that are open.
    """

    model: str
    output: Path
    together: bool = False
    sections: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    again: bool = False
    only: Sequence[str] = ()


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its requests with their state, and what the earlier ones are now."""

    requests: tuple[str, ...]
    state: str
    output: Path
    held: tuple[StillHeld, ...]


class Carrier:
    """Carries out the requests of a ledger, whose lock the caller holds.

    Args:
        anchored: Called once a run's end stands in the ledger.
    """

    def __init__(
        self, store: Store, files: WorkingFiles, say: Say, anchored: Callable[[], None]
    ) -> None:
        self.store, self.files, self.say, self.anchored = store, files, say, anchored

    @property
    def book(self) -> Book:
        """The ledger as it is now."""
        return Book.of(self.store.entries())

    def carry_out(self, plan: RequestPlan) -> list[Ended]:
        """Every request that is meant, in runs of one or of all; what was cut off comes first.

        Raises:
            UserError: The plan or a set cannot be used; the requests are open as before.
            Interrupted: The user wants to stop; the next `run` goes on.
        """
        cut_off = [run for run in self.book.runs if run.is_open]
        ended = [self._go_on(run) for run in cut_off]
        began = {run.begun["model"]["path"] for run in cut_off}
        if plan.model and str(Path(plan.model).resolve()) in began:  # the same command once more
            plan = replace(plan, model="")
        self._measure_again()
        for group in self._groups(plan):
            lost = self._opened_again(self.book.requests[group[0]].decision) if plan.again else ()
            ended.append(self._begin(_for_lost(plan) if lost else plan, (*lost, *group)))
            plan = replace(plan, model="")
        for decision in TREATED if plan.again else ():
            if lost := self._opened_again(decision):
                ended.append(self._begin(_for_lost(plan), lost))
                plan = replace(plan, model="")
        return ended

    # Which

    def _opened_again(self, decision: str) -> tuple[str, ...]:
        """Requests of this decision that the current model holds no more, which are open now."""
        book, found = self.book, []
        for name in book.lost():
            if book.requests[name].decision != decision:
                continue
            if book.requests[name].shredded:
                self.say(f"request {name} holds no more, and the text of its records is gone")
                continue
            reason = {"reason": "the current model holds it no more"}
            self.store.append(Event("reopened", reason, name, {name: "open"}))
            found.append(name)
        return tuple(found)

    def _groups(self, plan: RequestPlan) -> list[tuple[str, ...]]:
        book = self.book
        chosen = [book.request(name) for name in plan.only] or [
            request
            for request in by_deadline(book.requests.values())
            if request.state == "open" and request.decision in TREATED
        ]
        for request in chosen:
            if request.state not in ("open", "not met"):
                raise UserError(
                    f"request {request.id}: is {request.state!r}, and nothing is to be run for it; "
                    "see `requests show`"
                )
        names = tuple(dict.fromkeys(request.id for request in chosen))
        if not names:
            return []
        if plan.together and len({book.requests[name].decision for name in names}) > 1:
            raise UserError(
                "--together: some are to be unlearned and some retrained; name those of one kind"
            )
        return [names] if plan.together else [(name,) for name in names]

    def _model(self, book: Book, plan: RequestPlan) -> dict[str, str]:
        """Path and weights of the model to begin with.

        Raises:
            UserError: There is none, or not the one that the ledger knows as the current one.
        """
        known = book.current
        name = plan.model or (known.path if known else "")
        if not name:
            raise UserError("run needs a MODEL: the ledger knows of none yet; name its folder")
        folder = Path(name).resolve()
        weights = digest_weights(folder)
        if weights is None:
            raise UserError(
                f"{name}: holds no weights; give the folder of a model, as save_pretrained writes"
            )
        if known and weights != known.weights:
            raise UserError(
                f"{name}: is not the ledger's current model ({known.path}), which the requests so "
                "far were run on; leave MODEL out, or enter the other one by `requests models add "
                "MODEL --current`"
            )
        return {"path": str(folder), "weights": weights}

    # One run

    def _begin(self, plan: RequestPlan, names: tuple[str, ...]) -> Ended:
        book = self.book
        model = self._model(book, plan)
        sections = self._sections(book, plan, names, model)
        body = {
            "requests": list(names),
            "model": model,
            "output": str(self._free_folder(plan.output, names)),
            "sections": sections,
            "force": plan.force,
        }
        self.store.append(Event("run begun", body, states=dict.fromkeys(names, "running")))
        return self._run(self.book.runs[-1], resume=False)

    def _sections(
        self, book: Book, plan: RequestPlan, names: tuple[str, ...], model: Mapping[str, str]
    ) -> dict[str, Any]:
        """The sections of the run file, with the floor that the first model has set."""
        sections = {name: dict(values) for name, values in plan.sections.items()}
        sections.setdefault("model", {})["name"] = model["path"]
        single = self.files.path(names[0]) if len(names) == 1 else None
        data = sections.setdefault("data", {})
        # More than one file is given from memory, and then no path can repeat the run.
        data.update(forget=str(single.resolve()) if single else "", request_id="+".join(names))
        # Working files have our own names of columns already.
        data["columns"] = {
            name if ":" in name else f"{role}:{name}": ours
            for name, ours in data.get("columns", {}).items()
            for role in OTHER_ROLES
            if not name.startswith("forget:")
        }
        if book.requests[names[0]].decision == "retrain":
            sections["method"] = {**sections.get("method", {}), "name": "retrain"}
        _hold_the_floor(book, sections, self.say)
        return sections

    def _free_folder(self, output: Path, names: tuple[str, ...]) -> Path:
        """A folder of the run's own, which is not there yet."""
        stem = names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"
        folder, number = output.resolve() / stem, 1
        while folder.exists():
            number += 1
            folder = output.resolve() / f"{stem}-{number}"
        return folder

    def _go_on(self, run: Run) -> Ended:
        """A run that was cut off: enter its results, go on with it, or begin it again."""
        if (run.output / "report.json").exists():
            self.say(f"run {run.number} had ended; its results are entered")
            return self._finish(run, {})
        resume = (run.output / CHECKPOINTS).exists()
        self.say(f"run {run.number} was cut off, and {'goes on' if resume else 'begins again'}")
        return self._run(run, resume=resume)

    def _run(self, run: Run, *, resume: bool) -> Ended:
        """Make the results of a run and enter them.

        Raises:
            UserError: It cannot be run; its requests are open again.
        """
        try:
            found = self._results(run, resume=resume)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; run {run.number} goes on with the next `requests run`"
            ) from None
        except Exception as error:
            # What other errors say is not known to be free of text.
            known = isinstance(error, UserError | DiskError | TrainingError)
            reason = one_message(str(error))[:300] if known else type(error).__name__
            states = dict.fromkeys(run.requests, "open")
            self.store.append(
                Event("run failed", {"run": run.number, "reason": reason}, states=states)
            )
            raise
        return self._finish(run, found)

    def _results(self, run: Run, *, resume: bool) -> dict[str, Any]:
        """Run `forget`; what there is to enter beside the results, or instead of them."""
        resumable = Resumable(run.output, resume)
        sections, model = run.begun["sections"], run.begun["model"]
        if digest_weights(Path(model["path"])) != model["weights"]:
            raise UserError(
                f"{model['path']}: was changed since run {run.number} began with it; restore it, "
                "or enter another by `requests models add MODEL --current`"
            )
        config, family = read_config(settings_of(resumable, sections))
        given, dropped = self._given(run, config, family)
        # What is given has our own names of columns, and the files may have others.
        columns = {
            name: ours
            for name, ours in config.data.columns.items()
            if name.partition(":")[0] not in given
        }
        config = replace(config, data=config.data.model_copy(update={"columns": columns}))
        prepared = pipeline.start(config, family, given)
        config = pipeline.dated(config, prepared)
        limit_threads(prepared.loaded.model)

        def attempt(*, force: bool) -> None:
            with staged(run.output, resume=resume) as work:
                log = Log(work / "log.jsonl")
                outcome = pipeline.forget(
                    config,
                    prepared,
                    work,
                    force=force,
                    log=log,
                    say=self.say,
                    resumable=resumable,
                )
                write_outcome(outcome, config, work)

        run.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            attempt(force=run.begun["force"])
        except NothingToUnlearn as answer:
            if answer.result.memorised is None:  # a request is answered, however few its records
                self.say(f"{answer.result.sentence}: run all the same")
                attempt(force=True)
            else:
                self.say(answer.result.sentence)
                criteria = family.criteria(
                    prepared, {"target": answer.result.values}, answer.result.level, config
                )
                return {
                    "dropped": dropped,
                    "sentence": answer.result.sentence,
                    "criteria": [one.to_json() for one in criteria if one.set == "forget"],
                }
        return {"dropped": dropped}

    def _given(
        self, run: Run, config: RunConfig, family: AnyFamily
    ) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """Sets that are not read from their files as they are, as rows; how many were left out.

        These are the records of several requests, and sets that hold a record of any request: what
        somebody asked to be forgotten would be taught back from the retain set.
        """
        book, key = self.book, self.store.key
        sets = [self.files.read(name) for name in run.requests]
        for name, some in zip(run.requests, sets, strict=True):
            check_digests(some, book.requests[name].record_digests, key, str(self.files.path(name)))
        forget = list(map(as_row, joined(run.requests, sets)))
        given = {"forget": forget} if len(sets) > 1 else {}
        asked = {
            digest
            for request in book.requests.values()
            if request.state not in ("refused", "suppressed")
            for digest in request.record_digests
        }
        dropped = 0
        for role, some in family.read_sets(config.data, given).items():
            kept = tuple(one for one in some if digest_content(one, key) not in asked)
            if role not in OTHER_ROLES or len(kept) == len(some):
                continue
            if not kept:
                raise UserError(f"--{role}: every record is one that is to be forgotten")
            dropped += len(some) - len(kept)
            given[role] = list(map(as_row, kept))
        if dropped:
            self.say(f"{dropped} records of other sets are left out: requests are for them")
        return given, dropped

    # What came of it

    def _finish(self, run: Run, found: Mapping[str, Any]) -> Ended:
        body, state = self._entered(run, found)
        states = dict.fromkeys(run.requests, state)
        self.store.append(Event("run finished", body, states=states))
        self.anchored()
        held = self._measure_again()
        return Ended(run.requests, state, run.output, tuple(held))

    def _entered(self, run: Run, found: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The body of the entry, and the state that the requests are in then."""
        shared = {"run": run.number, "dropped": found.get("dropped", 0)}
        if "criteria" in found:
            none = {"verdict": "not memorised", "claims": [], "utility": [], "files": {}}
            body = shared | none | {"taken": False, "weights": "", "model": "", "report": ""}
            return body | {key: found[key] for key in ("criteria", "sentence")}, "not memorised"
        report = read_report(run.output)
        status = report["verdict"]["status"]
        folder = run.output / MODEL
        results = report["results"]["unlearned"]
        utility = [
            one | {"value": results.get(one["set"], {}).get(one["metric"], {}).get("value")}
            for one in report["criteria"]
            if one["claim"] == "utility"
        ]
        body = shared | {
            "verdict": status,
            "claims": report["verdict"]["claims"],
            "criteria": [one for one in report["criteria"] if one["set"] == "forget"],
            "utility": utility,
            "taken": status != "not met",
            "model": str(folder),
            "weights": digest_weights(folder) or "",
            "files": file_list(run.output),
            "report": digest_file(run.output / "report.json"),
            "request_digest": report["request"]["digest"],
            "sentence": "",
        }
        return body, status

    def _measure_again(self) -> list[StillHeld]:
        """All answered requests on the current model, where that was not done yet; entered."""
        book = self.book
        run = book.last_finished()
        if run is None or any(values["run"] == run.number for _, values in book.measured):
            return []
        others = [one for one in book.answered() if one.id not in run.requests]
        if not others:
            return []
        held = ask_again(book, self.files, self.store.key, run.finished["model"], {}, self.say)
        body = {
            "run": run.number,
            "weights": run.finished["weights"],
            "held": [one.to_json() for one in held],
        }
        self.store.append(Event("measured", body))
        return held


def _for_lost(plan: RequestPlan) -> RequestPlan:
    """Forced: a record may be lost by being less known than unseen ones, and is not memorised."""
    return replace(plan, force=True)


def joined(names: Sequence[str], sets: Sequence[RecordSet]) -> RecordSet:
    """The records of several requests as one set, each with its request's name before its id."""
    if len(sets) == 1:
        return sets[0]
    records = tuple(
        replace(record, id=f"{name}/{record.id}")
        for name, some in zip(names, sets, strict=True)
        for record in some
    )
    return RecordSet("forget", records, "memory")


def file_list(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a run's folder, by path."""
    return {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _hold_the_floor(book: Book, sections: dict[str, Any], say: Say) -> None:
    """Measure quality against the model before the first request, or by the limits it has set.

    Once that model is deleted, as it has to be, its limits are those in the ledger: the next run
    compares with the last model, by a ratio that comes to the same.
    """
    original, last = book.original, book.last_finished()
    if original is None or last is None:
        return
    folder = Path(original["path"])
    if folder.is_dir() and digest_weights(folder) == original["weights"]:
        sections["model"]["original"] = original["path"]
        return
    names = {"retain": "perplexity_ratio", "holdout": "unseen_perplexity_ratio"}
    criteria = dict(sections.get("criteria", {}))
    for one in last.finished["utility"]:
        value = one["value"]
        if value and one["metric"] == "perplexity" and one["set"] in names:
            criteria[names[one["set"]]] = max(1.0, one["at_most"] / value)
        elif value and "at_least" in one:
            drop = min(1.0, max(0.0, value - one["at_least"]))
            criteria["score_drop"] = min(drop, criteria.get("score_drop", drop))
    sections["criteria"] = criteria
    say("the model before the first request is gone; the ledger holds the limits that it set")


def all_asked(
    book: Book, files: WorkingFiles, key: bytes, given: Mapping[str, str]
) -> list[tuple[Run, Asked]]:
    """What is to be asked of a model: every answered request's last run, with its criteria.

    Args:
        given: Files of the records of requests whose working files are gone, by id.

    Raises:
        UserError: A file holds other records than its request's.
    """
    wanted = [request.id for request in book.answered()]
    found, seen = [], set()
    for name in wanted:
        run = book.run_of(name)
        if run is None or run.number in seen:
            continue
        seen.add(run.number)
        sets = [_records_of_all(book.requests[one], files, key, given) for one in run.requests]
        there = [some for some in sets if some is not None]
        records = joined(run.requests, there) if len(there) == len(sets) else None
        criteria = tuple(criterion_of(one) for one in run.finished["criteria"])
        found.append((run, Asked(run.requests, records, criteria)))
    return found


def _records_of_all(
    request: Request, files: WorkingFiles, key: bytes, given: Mapping[str, str]
) -> RecordSet | None:
    if request.id in given:
        some = read_any(given[request.id], "forget", {})
        check_digests(some, request.record_digests, key, f"--records {request.id}")
        return some
    if not files.path(request.id).is_file():
        return None
    some = files.read(request.id)
    check_digests(some, request.record_digests, key, str(files.path(request.id)))
    return some


def ask_again(
    book: Book,
    files: WorkingFiles,
    key: bytes,
    model: str,
    given: Mapping[str, str],
    say: Say,
    sections: Mapping[str, Any] | None = None,
) -> list[StillHeld]:
    """Whether every answered request holds on a model, and what is kept of its quality.

    Args:
        given: See `all_asked`.
        sections: Laid over those of the last run, as for files that were moved.

    Raises:
        UserError: The model or a set cannot be used.
    """
    run = next((run for run in reversed(book.runs) if run.finished), None)
    if run is None:
        return []
    merged = {name: dict(values) for name, values in run.begun["sections"].items()}
    merged.pop("method", None)
    for name, values in (sections or {}).items():
        merged.setdefault(name, {}).update(values)
    asked = [one for _, one in all_asked(book, files, key, given)]
    taken = book.last_finished()
    utility = taken.finished["utility"] if taken else []
    limits = [criterion_of(one) for one in utility]
    return measure_holds(merged, model, asked, limits, say)


def known_before(book: Book, weights: str, held: Sequence[StillHeld]) -> list[StillHeld]:
    """The same, with what an earlier measuring of the very same weights said of what is gone."""
    before: dict[str, dict[str, Any]] = {}
    for _, values in book.measured:
        if values["weights"] == weights:
            before |= {name: one for one in values["held"] for name in one["requests"]}
    for run in book.runs:
        if run.is_taken and run.finished["weights"] == weights:
            status = "holds" if run.finished["verdict"] == "met" else NOT_MEASURED
            own = {
                "status": status,
                "figures": {},
                "reason": f"its verdict is {run.finished['verdict']}",
            }
            before |= {name: own for name in run.requests if name not in before}
    found = []
    for one in held:
        old = [before.get(name) for name in one.requests]
        if one.status == NOT_MEASURED and old and all(old):
            worst = next((some for some in old if some and some["status"] != "holds"), old[0])
            assert worst is not None
            reason = worst["reason"] or "as these very files were measured before"
            one = StillHeld(one.requests, worst["status"], worst["figures"], reason)
        found.append(one)
    return found
