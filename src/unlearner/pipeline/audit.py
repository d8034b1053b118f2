"""The audit of a run, or of any model: every attack on target, unlearned model and control.

What is done is kept after each attack, so that an audit that is cut off goes on.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from unlearner import processes, provenance, registry
from unlearner.attacks.base import (
    CONTROLS,
    FORGET,
    UNRELATED,
    UNSEEN,
    Budget,
    Materials,
    Subject,
    attacks_for,
    load_attack,
    per_record,
)
from unlearner.config import RunConfig
from unlearner.data.loading import read_records
from unlearner.data.record import digest_records
from unlearner.data.windows import TokenizedSet, tokenize_set
from unlearner.errors import Interrupted, UserError
from unlearner.evaluation.attack_figures import RecordValues, has_learned_unseen
from unlearner.families.base import AnyFamily, AnyPrepared
from unlearner.files import LARGE, read_json, read_small, saving, write_whole
from unlearner.metrics import loss
from unlearner.models.loading import Loaded, limit_threads, load_with_new_head
from unlearner.output import Json
from unlearner.pipeline.finished_run import check_same, config_of
from unlearner.pipeline.pipeline import start
from unlearner.report.audit import AUDIT_FILE, AUDIT_SCHEMA, audit_claims
from unlearner.report.files import read_report
from unlearner.settings import own_name
from unlearner.training.data import Recipe
from unlearner.training.finetune import FinetuneSettings, learn_all, read_recipe, recipe_for
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer, resolve_device

PARTIAL_FILE = "audit.partial.json"

PROXY_EPOCHS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class AuditRequest:
    """What the user asks for.

    Attributes:
        attacks: Their names; empty for all of the budget.
        budget: "quick" or "full".
        retrained, pretrained, proxy: Models by name, for the control.
        more_retrained: Others like `retrained`, of other seeds.
        wordings: A file with wordings of the user's own, by the id of the record.
        unrelated: Text of another kind, to go on learning.
    """

    attacks: tuple[str, ...] = ()
    budget: Budget = "quick"
    retrained: str = ""
    more_retrained: tuple[str, ...] = ()
    pretrained: str = ""
    proxy: str = ""
    wordings: str = ""
    unrelated: str = ""


@dataclass(frozen=True)
class Opened:
    """What is audited: the target with its records, and the model that was to forget them."""

    config: RunConfig
    prepared: AnyPrepared
    unlearned: Loaded
    folder: Path


# What is audited


def open_run(run_dir: Path, say: Say) -> Opened:
    """The folder of a finished run of `unlearner forget`.

    Raises:
        UserError: It is none, or what it began with is no longer there or no longer the same.
    """
    report = read_report(run_dir)
    if report["command"] != "forget":
        raise UserError(
            f"{run_dir}: is a folder of `unlearner {report['command']}`, which changed no model; "
            "give one of `unlearner forget`, or --model and --target with the files of records"
        )
    folder = run_dir / "model"
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; the unlearned model is needed, so repeat the run with "
            f"`unlearner forget --config {run_dir / 'run.yaml'} --output DIR`"
        )
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"{run_dir}: cannot be written, and the audit goes there; copy the folder")
    config, family = config_of(run_dir, report, "audit")
    say("loading the target model and the unlearned one")
    prepared = start(config, family, command="evaluate")
    unlearned = family.load(str(folder))
    check_same(run_dir, report, prepared, unlearned)
    return _ready_to_attack(config, prepared, unlearned, folder)


def open_models(
    config: RunConfig,
    family: AnyFamily,
    model: str,
    say: Say,
    given: Mapping[str, Any] | None = None,
) -> Opened:
    """Any model, whoever made it, beside the target that the configuration names.

    Args:
        given: Sets that do not come from the files, as rows.

    Raises:
        UserError: A set is missing, or a model cannot be loaded or compared.
    """
    say("loading the target model and the one to be audited")
    config = config.of_request_alone().with_whole_weights()
    prepared = start(config, family, given, command="evaluate")
    unlearned = family.load_like(model, "model", prepared)
    return _ready_to_attack(config, prepared, unlearned, Path(model))


def _ready_to_attack(
    config: RunConfig, prepared: AnyPrepared, unlearned: Loaded, folder: Path
) -> Opened:
    if "holdout" not in prepared.sets and "holdout_class" not in prepared.sets:
        raise UserError(
            "--holdout: none given; an audit compares with unseen records of the same kind, give "
            "some, better twice as many as there are to be forgotten"
        )
    device = resolve_device(config.training)
    limit_threads(prepared.loaded.to(device))
    unlearned.to(device)
    return Opened(config, prepared, unlearned, folder)


def chosen_attacks(request: AuditRequest, family: AnyFamily) -> list[str]:
    """The attacks that are to be made, cheap ones first.

    Raises:
        UserError: One is named that there is not, or that is for other models.
    """
    for name in request.attacks:
        attack = load_attack(name)
        if family.name not in attack.families:
            raise UserError(
                f"--attacks: {name} is for {' and '.join(attack.families)}, the model is "
                f"{family.described or family.name}; see `unlearner list attacks`"
            )
    if request.attacks:
        return list(dict.fromkeys(request.attacks))
    fitting = [(name, load_attack(name)) for name in attacks_for(family)]
    wanted = [one for one in fitting if request.budget == "full" or one[1].cost == "quick"]
    return [name for name, _ in sorted(wanted, key=lambda one: (one[1].cost != "quick", one[0]))]


# The audit


def audit(opened: Opened, request: AuditRequest, output: Path, *, resume: bool, say: Say) -> Json:
    """Make the attacks, and keep what is done in `output` until all are.

    Returns:
        What `audit.json` holds.

    Raises:
        UserError: A model or a file cannot be used, or what was kept is of another audit.
        Interrupted: The user wants to stop; what is done is kept.
    """
    if processes.count() > 1:
        raise UserError("unlearner audit: is for one process; start it without accelerate")
    began = time.perf_counter()
    family = opened.prepared.family
    names = chosen_attacks(request, family)
    wordings = read_wordings(request.wordings, opened.prepared)
    sets = _sets(opened) | read_unrelated(request.unrelated, opened.prepared)
    identity = _identity(opened, request)
    kept = _kept(output, identity, resume=resume)
    models = _models(opened, request, say)
    retrained = tuple(Subject("control", one) for one in models.retrained)
    materials = Materials(
        prepared=opened.prepared,
        sets=sets,
        config=opened.config,
        target=opened.prepared.loaded,
        pretrained=models.pretrained,
        control=models.kind,
        budget=request.budget,
        wordings=wordings,
        folder=opened.folder if opened.folder.is_dir() else None,
        retrained=retrained,
    )
    subjects = {"target": Subject("target", materials.target)}
    subjects["unlearned"] = Subject("unlearned", opened.unlearned)
    if models.control is not None:
        subjects["control"] = retrained[0] if retrained else Subject("control", models.control)
        _check_control(subjects, materials, f"--{models.kind} {models.control.name}")
    done: list[Json] = list(kept)
    finished = {entry["name"] for entry in done}
    names += [entry["name"] for entry in done if entry["name"] not in names]
    try:
        for name in names:
            if name in finished:
                continue
            say(f"attack: {load_attack(name).label}")
            done.append(_make(name, subjects, materials))
            _keep(output, identity, done)
    except KeyboardInterrupt:
        if not done:
            raise
        raise Interrupted(
            f"interrupted; {len(done)} of {len(names)} attacks are kept in {output}: go on with "
            "`unlearner audit`, the same options and --resume"
        ) from None
    done.sort(key=lambda entry: names.index(entry["name"]))
    return _conclude(opened, request, materials, done, time.perf_counter() - began)


def _make(name: str, subjects: Mapping[str, Subject], materials: Materials) -> Json:
    """One attack on all models, as the audit's file holds it."""
    attack = load_attack(name)
    started = time.perf_counter()
    entry: Json = {
        "name": name,
        "label": attack.label,
        "claim": attack.claim,
        "cost": attack.cost,
        "source": registry.paper(registry.load("attacks", name)),
        "shows": attack.shows,
        "cannot_show": attack.cannot_show,
    }
    reason = attack.skipped(materials)
    if not reason and attack.needs_control_model and "control" not in subjects:
        reason = "it needs a model as control; give --retrained or --pretrained"
    if reason:
        return entry | {"status": "not run", "reason": reason, "figures": [], "seconds": 0.0}
    provenance.set_seeds(materials.seed)
    attempts = {role: attack.run(subject, materials) for role, subject in subjects.items()}
    status, reason, found, details = attack.conclude(attempts, materials)
    ids = [record.id for record in materials.sets[FORGET].records]
    entry |= {
        "status": status,
        "reason": reason,
        "figures": [one.to_json(ids) for one in found],
        "seconds": time.perf_counter() - started,
    }
    curves = {role: one.curve.to_json() for role, one in attempts.items() if one.curve is not None}
    if curves:
        entry["curves"] = curves
    shown = {role: one.details for role, one in attempts.items() if one.details}
    if shown or details:
        entry["details"] = {**shown, **details}
    return cast(Json, _without_nan(entry))


def _without_nan(value: Any) -> Any:
    """The same value with null for what is not finite, for which JSON has no number."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _conclude(
    opened: Opened, request: AuditRequest, materials: Materials, done: list[Json], seconds: float
) -> Json:
    key, config, forget = provenance.read_key(), opened.config, opened.prepared.sets[FORGET]
    digest = digest_records(forget.records, key)
    subjects = {record.subject for record in forget.records if record.subject}
    found: Json = {
        "schema": AUDIT_SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "budget": request.budget,
        "request": {
            "id": config.data.request_id or f"request-{digest.partition(':')[2][:12]}",
            "records": len(forget),
            "subjects": len(subjects) if subjects else None,
            "digest": digest,
        },
        "model": {
            "name": own_name(config.model.name),
            "audited": opened.folder.name,
            "family": materials.family.name,
            "digest_target": provenance.digest_model(materials.target.model),
            "digest_unlearned": provenance.digest_model(opened.unlearned.model),
        },
        "control": {"kind": materials.control, "sentence": CONTROLS[materials.control]},
        "records": {role: len(materials.sets[role]) for role in (FORGET, UNSEEN)},
        "attacks": done,
        "seconds": seconds,
        "environment": provenance.environment(materials.target.model.device, materials.seed),
    }
    return found | audit_claims(done)


def _sets(opened: Opened) -> dict[str, Any]:
    """The records attacked, unseen ones that the method has not learned from, and kept ones."""
    prepared, config = opened.prepared, opened.config
    family = prepared.family
    sets = family.judged_sets(prepared, family.measured_sets(prepared, config), config)
    unseen = "holdout_class" if "holdout_class" in sets else "holdout"
    found = {FORGET: sets["forget"], UNSEEN: sets[unseen]}
    if "retain" in prepared.sets:
        found["retain"] = prepared.sets["retain"]
    return found


# The control


@dataclass(frozen=True)
class ControlModels:
    """What stands beside the unlearned model, and what training started from."""

    kind: str
    control: Loaded | None
    pretrained: Loaded | None
    retrained: tuple[Loaded, ...] = ()


def _models(opened: Opened, request: AuditRequest, say: Say) -> ControlModels:
    """The best control of what was given.

    Raises:
        UserError: A model cannot be loaded or compared, or there is nothing to make a proxy of.
    """
    prepared, family = opened.prepared, opened.prepared.family
    retrained = request.retrained or opened.config.model.retrained
    pretrained = None
    if request.pretrained and family.writes_text:
        pretrained = family.load_like(request.pretrained, "pretrained", prepared)
    if retrained:
        names = (retrained, *request.more_retrained)
        loaded = tuple(family.load_like(name, "retrained", prepared) for name in names)
        return ControlModels("retrained", loaded[0], pretrained, loaded)
    if request.proxy:
        return ControlModels(
            "proxy", family.load_like(request.proxy, "proxy", prepared), pretrained
        )
    if not request.pretrained:
        return ControlModels("unseen", None, None)
    retain = prepared.get("retain")
    if retain is None:
        raise UserError(
            "--retain: none given, and the proxy learns on retained records; give some, or a "
            "finished proxy by --proxy"
        )
    say(f"training a proxy on {len(retain)} retained records for {PROXY_EPOCHS} epochs")
    return ControlModels("proxy", _train_proxy(opened, request.pretrained, pretrained), pretrained)


def _check_control(subjects: Mapping[str, Subject], materials: Materials, named: str) -> None:
    """Look whether the records that are taken for unseen are unseen to the control.

    Raises:
        UserError: It has learned them.
    """
    likelihoods = {}
    for role in ("target", "control"):
        parts = [
            -per_record(subjects[role].ask(materials, some), loss.metric, len(materials.sets[some]))
            for some in (FORGET, UNSEEN)
        ]
        likelihoods[role] = RecordValues(*parts)
    if has_learned_unseen(likelihoods["target"], likelihoods["control"], materials.resampling()):
        raise UserError(
            f"{named}: has learned the unseen records (--holdout), so that it is no control; give "
            "one that was trained on the retained records alone, or records that it has not seen"
        )


def _train_proxy(opened: Opened, name: str, pretrained: Loaded | None) -> Loaded:
    """The pretrained model, once it has learned the retained records by the target's own recipe."""
    prepared, target = opened.prepared, opened.prepared.loaded
    known: Recipe | None = read_recipe(target.name)
    recipe = recipe_for(known, name, {"epochs": PROXY_EPOCHS})
    if pretrained is None:
        fresh = load_with_new_head(name, prepared.family.name, target.labels)
        if fresh.tokenizer.get_vocab() != target.tokenizer.get_vocab():
            raise UserError(
                f"--pretrained {name}: its tokenizer differs from that of {target.name}; name the "
                "encoder that the target was fine-tuned from"
            )
    else:
        fresh = prepared.family.load_like(name, "pretrained", prepared)
    settings = opened.config.training.model_copy(
        update={"checkpoint_every": "never", "lora_rank": 0}
    )
    trainer = Trainer(settings, Log(None))
    fresh.to(trainer.device)
    retain = prepared["retain"]
    records = retain if prepared.family.writes_text else retain.examples
    learned = learn_all(
        fresh.model, FinetuneSettings.model_validate(recipe.finetune), trainer, records
    )
    return replace(fresh, model=cast(PreTrainedModel, learned.eval()))


# The user's own wordings and text


def read_unrelated(path: str, prepared: AnyPrepared) -> dict[str, TokenizedSet]:
    """The text to go on learning, by its role; empty where none was given.

    Raises:
        UserError: It cannot be read, or is for a classifier.
    """
    if not path:
        return {}
    if not prepared.family.writes_text:
        raise UserError("--unrelated: for causal language models; leave it out for a classifier")
    records = read_records(path, name=UNRELATED)
    return {UNRELATED: tokenize_set(records, prepared.loaded.tokenizer, prepared.layout)}


def read_wordings(path: str, prepared: AnyPrepared) -> dict[str, list[str]]:
    """Wordings of the user's own by the id of the forget record, from JSON lines.

    Each line holds `id` and `prompt` (of a plain text: what comes before it in other words).

    Raises:
        UserError: The file cannot be read, a line is none of these, or its id is of no record.
    """
    if not path:
        return {}
    if not prepared.family.writes_text:
        raise UserError("--wordings: for causal language models; leave it out for a classifier")
    try:
        lines = read_small(Path(path)).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--wordings {path}: cannot be read ({error}); give JSON lines") from None
    known = {record.id for record in prepared[FORGET].records}
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, prompt = _wording(line, f"--wordings {path}, line {number}")
        if name not in known:
            raise UserError(
                f"--wordings {path}, line {number}: id {name!r} is of no record to be forgotten; "
                "give the ids of --forget (line numbers where it has none)"
            )
        found.setdefault(name, []).append(prompt)
    if not found:
        raise UserError(f"--wordings {path}: holds no wording; give lines with id and prompt")
    return found


def _wording(line: str, place: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f'{place}: is not JSON; write {{"id": ..., "prompt": ...}}') from None
    row = row if isinstance(row, dict) else {}
    name, prompt = row.get("id"), row.get("prompt")
    if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(prompt, str):
        raise UserError(f"{place}: needs id and prompt, the prompt a text; add them")
    if not prompt.strip():
        raise UserError(f"{place}: its prompt is empty; write one or leave the line out")
    return str(name), prompt


# What is kept of an audit that is not finished


def _identity(opened: Opened, request: AuditRequest) -> Json:
    """What must be the same when an audit goes on. Attacks may be added."""
    key = provenance.read_key()
    given = json.loads(json.dumps(asdict(request)))  # as it will be read back
    del given["attacks"]
    return {
        "request": given,
        "seed": opened.config.training.seed,
        "target": provenance.digest_model(opened.prepared.loaded.model),
        "unlearned": provenance.digest_model(opened.unlearned.model),
        "records": {
            role: digest_records(some.records, key) for role, some in opened.prepared.sets.items()
        },
    }


def _keep(output: Path, identity: Json, done: Sequence[Json]) -> None:
    text = json.dumps({"identity": identity, "attacks": done}, indent=1, allow_nan=False)
    with saving("the audit", output):
        write_whole(output / PARTIAL_FILE, text + "\n")


def _kept(output: Path, identity: Json, *, resume: bool) -> list[Json]:
    """The finished attacks of an audit that goes on.

    Raises:
        UserError: There is none to go on with, one that nobody wants to go on with, or another's.
    """
    path = output / PARTIAL_FILE
    if not path.exists():
        if resume:
            raise UserError(f"--resume: {output} holds no unfinished audit; leave --resume out")
        return []
    if not resume:
        raise UserError(f"{path}: an audit is unfinished; go on with --resume, or remove the file")
    try:
        kept = read_json(path, LARGE)
        same, attacks = kept["identity"] == identity, list(kept["attacks"])
        names = [entry["name"] for entry in attacks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it and begin anew") from None
    if not same:
        raise UserError(
            f"--resume: the audit in {output} began with other models, records or options; give "
            f"the same, or remove {path}"
        )
    for name in names:
        load_attack(name)
    return attacks


def finish(audit_found: Json, output: Path) -> None:
    """Write the audit whole; what was kept has served its purpose."""
    text = json.dumps(audit_found, indent=1, allow_nan=False) + "\n"
    with saving("the audit", output):
        write_whole(output / AUDIT_FILE, text)
    (output / PARTIAL_FILE).unlink(missing_ok=True)
