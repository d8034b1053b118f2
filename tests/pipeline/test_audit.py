"""`unlearner audit` on finished runs and on models of others: what it writes, keeps and says."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest

from attack_world import load, pairs
from command_world import json_lines
from page_reader import Page, plain
from unlearner.cli.app import INTERRUPTED, MET, NOT_MET, WRONG_INPUT, run
from unlearner.pipeline import audit as auditing
from unlearner.report.audit import audit_claims, with_audit

pytestmark = pytest.mark.slow

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/audit.schema.json").read_text("utf-8"))
QUICK = ("extraction", "least_likely", "leftovers", "mark", "membership", "quantisation")


@pytest.fixture(scope="module")
def world(one_key, language_models, tmp_path_factory):  # noqa: ARG001 - the key comes first
    """Records, models, and `run`, in which the target unlearned a little, by adapters."""
    root = tmp_path_factory.mktemp("world")
    for role in ("forget", "retain", "holdout"):
        rows = ({"id": r.id, "prompt": r.prompt, "response": r.response} for r in pairs(role))
        (root / f"{role}.jsonl").write_text(json_lines(*rows))
    for name in ("target", "retrained", "other", "leaky"):
        shutil.copytree(language_models / name, root / name)
    status = run(
        [
            *("forget", str(root / "target"), *files(root), "--output", str(root / "run")),
            *("--method", "npo", "--quiet", "method.max_epochs=2", "method.stop=never"),
            *("method.learning_rate=1e-3", "evaluation.resamples=20", "training.lora_rank=2"),
        ]
    )
    assert status in (MET, NOT_MET)
    return root


def files(root):
    roles = ("forget", "retain", "holdout")
    return [part for role in roles for part in (f"--{role}", str(root / f"{role}.jsonl"))]


def models(root, model, output, *more):
    return [
        *("audit", "--model", str(root / model), "--target", str(root / "target"), *files(root)),
        *("--output", str(output), "--quiet", *more),
    ]


def read(folder, name="audit.json"):
    return json.loads((folder / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def audited(world, tmp_path_factory):
    """A copy of the run, audited beside a retrained model; its status and the report before."""
    folder = Path(shutil.copytree(world / "run", tmp_path_factory.mktemp("audited") / "run"))
    before = (folder / "report.json").read_bytes()
    status = run(["audit", str(folder), "--retrained", str(world / "retrained"), "--quiet"])
    return folder, status, before


def test_a_run_that_forgot_nothing_is_opened_and_its_report_stays_as_it_was(audited):
    folder, status, before = audited
    found = read(folder)
    jsonschema.validate(found, SCHEMA)
    assert [entry["name"] for entry in found["attacks"]] == sorted(QUICK)
    assert status == NOT_MET
    assert found["status"] == "not met"
    assert found["control"]["kind"] == "retrained"
    assert (folder / "report.json").read_bytes() == before
    assert not (folder / "audit.partial.json").exists()


def test_the_page_has_a_section_for_each_attack_and_the_claims(audited):
    folder, _, _ = audited
    page = Page((folder / "report.html").read_text("utf-8"))
    shown, found = plain(page.shown), read(folder)
    for entry in found["attacks"]:
        assert entry["label"] in shown
        assert plain(entry["shows"]) in shown
    assert "Resistance to attacks" in shown
    assert "Audit: " in shown
    assert "Robustness as a claim" not in shown
    assert not any(tag == "script" for tag, _ in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_the_page_written_again_has_the_audit_still(audited):
    folder, _, _ = audited
    before = (folder / "report.html").read_bytes()
    assert run(["report", str(folder)]) == MET
    assert (folder / "report.html").read_bytes() == before


def test_nothing_that_is_written_holds_text_of_the_records(audited):
    folder, _, _ = audited
    for name in ("audit.json", "report.html", "report.md"):
        text = (folder / name).read_text("utf-8")
        for record in pairs("forget"):
            assert record.response not in text
            assert record.prompt not in text


def test_the_target_fails_and_a_model_that_never_saw_the_records_passes(world, tmp_path):
    beside = ("--retrained", str(world / "retrained"))
    assert run(models(world, "target", tmp_path / "a", *beside)) == NOT_MET
    assert run(models(world, "other", tmp_path / "b", *beside)) == MET
    for name in ("a", "b"):
        jsonschema.validate(read(tmp_path / name), SCHEMA)
        page = Page((tmp_path / name / "audit.html").read_text("utf-8"))
        assert "membership inference" in page.shown


@pytest.mark.parametrize("option", ["--retrained", "--proxy"])
def test_a_control_that_has_learned_the_unseen_records_is_refused(option, world, tmp_path, capsys):
    line = models(world, "other", tmp_path / "a", option, str(world / "leaky"))
    assert run(line) == WRONG_INPUT
    [said] = capsys.readouterr().err.splitlines()
    assert f"{option} {world / 'leaky'}: has learned the unseen records" in said
    assert not (tmp_path / "a").exists()


def test_a_proxy_is_made_of_the_pretrained_model(world, tmp_path):
    more = ("--pretrained", str(world / "other"), "--attacks", "membership,extraction")
    assert run(models(world, "target", tmp_path / "a", *more)) == NOT_MET
    found = read(tmp_path / "a")
    assert found["control"]["kind"] == "proxy"
    names = [figure["name"] for figure in found["attacks"][0]["figures"]]
    assert "reference_auc" in names


def test_an_interrupted_audit_goes_on_and_ends_as_one_that_was_not(
    world, tmp_path, monkeypatch, capsys
):
    chosen = ("--attacks", "extraction,least_likely,membership")
    line = models(world, "other", tmp_path / "a", *chosen)
    assert run(models(world, "other", tmp_path / "b", *chosen)) in (MET, NOT_MET)
    make, made = auditing._make, []

    def interrupted(name, *rest):
        if made:
            raise KeyboardInterrupt
        made.append(name)
        return make(name, *rest)

    monkeypatch.setattr(auditing, "_make", interrupted)
    assert run(line) == INTERRUPTED
    assert "--resume" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["audit.partial.json"]
    monkeypatch.setattr(auditing, "_make", make)
    assert run(line) == WRONG_INPUT
    assert run([*line, "training.seed=5", "--resume"]) == WRONG_INPUT
    assert run([*line, "--resume"]) in (MET, NOT_MET)
    one, other = (timeless(read(tmp_path / name)) for name in ("a", "b"))
    assert one == other


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "created")}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def test_interrupted_before_the_first_attack_leaves_nothing(world, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing, "_make", interrupted)
    assert run(models(world, "other", tmp_path / "a")) == INTERRUPTED
    assert not (tmp_path / "a").exists()


def test_forget_with_an_audit_ends_with_the_status_of_the_run(world, tmp_path):
    line = [
        *("forget", str(world / "target"), *files(world), "--output", str(tmp_path / "run")),
        *("--method", "npo", "--quiet", "method.max_epochs=1", "--audit", "quick"),
        "evaluation.resamples=20",
    ]
    status = run(line)
    report = read(tmp_path / "run", "report.json")
    assert status == (MET if report["verdict"]["status"] == "met" else NOT_MET)
    assert [entry["name"] for entry in read(tmp_path / "run")["attacks"]] == sorted(QUICK)


def test_an_audit_behind_a_run_of_several_processes_is_refused_before_it(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = ["forget", "model", "--forget", "f", "--output", "out", "--audit", "full"]
    assert run(line) == WRONG_INPUT
    assert "--audit: is for one process" in capsys.readouterr().err


def test_a_changed_model_is_refused(audited, tmp_path, capsys, world):
    folder = Path(shutil.copytree(audited[0], tmp_path / "run"))
    shutil.copytree(world / "other", folder / "model", dirs_exist_ok=True)
    assert run(["audit", str(folder), "--quiet"]) == WRONG_INPUT
    assert "is not the model that was measured" in capsys.readouterr().err


def test_an_audit_of_another_model_is_not_shown_beside_a_report(audited, tmp_path, capsys):
    folder = Path(shutil.copytree(audited[0], tmp_path / "run"))
    found = read(folder)
    found["model"]["digest_unlearned"] = "sha256:" + "0" * 64
    (folder / "audit.json").write_text(json.dumps(found))
    assert run(["report", str(folder)]) == WRONG_INPUT
    assert "another model" in capsys.readouterr().err


def test_full_attacks_run_on_a_language_model(world, tmp_path):
    names = "prompting,paraphrase,pair,logit_lens,noise,pruning,relearning"
    rows = json_lines(*({"id": r.id, "prompt": f"say: {r.prompt}"} for r in pairs("forget")))
    (tmp_path / "w.jsonl").write_text(rows)
    (tmp_path / "u.txt").write_text("the rain falls on the hill\nthe sea is wide and grey\n" * 4)
    more = ("--retrained", str(world / "retrained"), "--attacks", names)
    more += ("--unrelated", str(tmp_path / "u.txt"))
    line = models(world, "target", tmp_path / "a", *more, "--wordings", str(tmp_path / "w.jsonl"))
    assert run(line) == NOT_MET
    found = read(tmp_path / "a")
    jsonschema.validate(found, SCHEMA)
    claims = {one["claim"] for one in found["claims"]}
    assert claims == {"robustness", "unseen forms"}
    relearning = next(one for one in found["attacks"] if one["name"] == "relearning")
    assert set(relearning["curves"]) == {"target", "unlearned", "control"}
    figures = {one["name"]: one["status"] for one in relearning["figures"]}
    assert set(figures) == {"on_retained", "on_some", "on_unrelated"}
    assert figures["on_unrelated"] == "opened"


def test_classifiers_are_audited(label_models, tmp_path, one_key):  # noqa: ARG001 - the key
    from attack_world import labelled_sets

    for role, some in labelled_sets().items():
        rows = ({"id": r.id, "text": r.text, "label": r.label} for r in some.records)
        (tmp_path / f"{role}.jsonl").write_text(json_lines(*rows))
    shutil.copytree(label_models, tmp_path / "models")
    line = [
        *("audit", "--model", str(tmp_path / "models/target"), "--drop-duplicates"),
        *("--target", str(tmp_path / "models/target"), *files(tmp_path), "--budget", "full"),
        *("--retrained", str(tmp_path / "models/retrained")),
        *("--output", str(tmp_path / "a"), "--quiet"),
    ]
    assert run(line) == NOT_MET
    found = read(tmp_path / "a")
    jsonschema.validate(found, SCHEMA)
    statuses = {entry["name"]: entry["status"] for entry in found["attacks"]}
    assert statuses["membership"] == "opened"
    assert statuses["reference_models"] == "not run"
    assert {"probe", "relearning", "quantisation", "noise", "pruning"} <= set(statuses)


# Claims


def entry(status, claim="robustness", label="x", reason="y"):
    return {"name": label, "label": label, "claim": claim, "status": status, "reason": reason}


@pytest.mark.parametrize(
    ("statuses", "claim", "whole"),
    [
        (("holds", "holds"), "met", "met"),
        (("holds", "opened"), "not met", "not met"),
        (("holds", "not informative"), "met", "met"),
        (("not informative",), "not informative", "not measured"),
        (("not run", "holds"), "met", "met"),
    ],
)
def test_a_claim_is_met_where_an_attack_holds_and_none_is_opened(statuses, claim, whole):
    found = audit_claims([entry(status) for status in statuses])
    assert [(one["claim"], one["status"]) for one in found["claims"]] == [("robustness", claim)]
    assert found["status"] == whole


def test_a_claim_that_nothing_was_run_for_is_not_made():
    found = audit_claims([entry("not run")])
    assert found == {"claims": [], "status": "not measured"}


@pytest.mark.parametrize(
    ("own", "audit", "both"),
    [
        ("met", "met", "met"),
        ("met", "not met", "not met"),
        ("not met", "met", "not met"),
        ("not measured", "met", "met"),
        ("met", "not informative", "not informative"),
    ],
)
def test_of_two_statuses_of_a_claim_the_page_shows_the_worse(own, audit, both):
    claims = [{"claim": "membership", "status": own, "reason": "r"}]
    report = {
        "verdict": {"status": "met", "claims": claims, "not_measured": ["Robustness as a claim: x"]}
    }
    shown = with_audit(
        report,
        {
            "claims": [{"claim": "membership", "status": audit, "reason": "s"}],
            "attacks": [entry("not run")],
        },
    )
    (claim,) = shown["verdict"]["claims"]
    assert claim["status"] == both
    assert report["verdict"]["claims"] == claims
    assert shown["verdict"]["not_measured"][0].startswith("Robustness")
    assert re.match(r"Attack x: not run", shown["verdict"]["not_measured"][-1])


def test_what_the_models_are_is_loaded_from_their_folders(world):
    assert load(world / "target").vocabulary == load(world / "other").vocabulary
