"""Requests carried out on models, killed, measured again, and the story that the docs tell."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from ledger_world import filled, ledger_in, pretend_run
from safetensors.torch import load_file, save_file

from command_world import FORGET, HOLDOUT, RETAIN, json_lines, texts
from unlearner.cli.app import MET, NOT_MET, run
from unlearner.data.loading import read_records
from unlearner.data.record import Record
from unlearner.evaluation.verdict import Criterion
from unlearner.models.lineage import describe, digest_weights, digests_of, write_provenance
from unlearner.requests import runs
from unlearner.requests.book import one_month_after
from unlearner.requests.holds import Asked, StillHeld, criterion_of, measure_holds
from unlearner.requests.runs import file_list
from unlearner.requests.store import Event

# A run of few steps that no limit can fail: what is tested is the ledger, not the method. The
# verdict is "not measured", as nothing could have failed.
EASY = (
    " --quiet --retain retain.jsonl --holdout holdout.jsonl --force method.max_epochs=1 "
    "method.fresh_per_step=4 evaluation.resamples=20 evaluation.max_records=4 training.device=cpu "
    "criteria.ma=1 criteria.el_10=1 criteria.auc_margin=0.5 criteria.perplexity_ratio=1000 "
    "criteria.unseen_perplexity_ratio=1000 criteria.degenerate_increase=1"
)
RUN = "requests run $models/good --output runs" + EASY
AGAIN = "requests run --output runs" + EASY
SECTIONS = {
    "data": {"holdout": HOLDOUT, "retain": RETAIN},
    "evaluation": {"resamples": 20},
    "training": {"device": "cpu"},
}


def enter(call, *names):
    for number, name in enumerate(names):
        files = {f"{name}.jsonl": texts(FORGET[2 * number : 2 * number + 2])}
        assert call(f"requests add --records {name}.jsonl --id {name}", files)[0] == MET


@pytest.fixture
def two_done(call):
    """Two requests, carried out one after another."""
    enter(call, "a", "b")
    status, out, err, _ = call(RUN)
    assert status == NOT_MET, err  # the verdict is not known
    assert "request a: not measured" in out
    return call


def test_what_is_lost_is_run_again_with_the_next_and_at_the_end_by_itself(
    call, tmp_path, monkeypatch
):
    """Behind b a is lost, and joins c; behind both, b is, and is run alone."""
    lost = {"b": ("a",), "a-and-1-more": ("b",)}

    def measure(*given):
        _, model, asked, *_ = given
        gone = lost.get(Path(model).parent.name, ())
        return [
            StillHeld(one.requests, "lost" if one.requests[0] in gone else "holds", {}, "")
            for one in asked
        ]

    monkeypatch.setattr(runs, "measure_holds", measure)
    enter(call, "a", "b", "c")
    status, out, err, _ = call(RUN + " --again")
    assert status == NOT_MET, err  # the verdicts are not known
    book = ledger_in(tmp_path).book
    assert [run_.requests for run_ in book.runs] == [("a",), ("b",), ("a", "c"), ("b",)]
    assert book.runs[-1].output.name == "b-2"
    assert set(book.states().values()) == {"not measured"}
    history = [state for _, state, _ in book.requests["a"].history]
    assert history == ["open", "running", "not measured"] * 2
    assert "--again" not in out
    assert call("requests run --again --output runs" + EASY)[1].strip() == "no request is open"


def test_what_is_lost_is_run_again_though_it_is_not_memorised(tmp_path, monkeypatch):
    """A record that is less known than unseen ones bears a mark, and nothing is known of it."""
    ledger, output = filled(tmp_path, 1), tmp_path / "runs" / "r0"
    (output / "model").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, output / "model" / "model.safetensors")
    weights = digest_weights(output / "model")
    pretend_run(ledger, "r0", output, after=weights)
    held = StillHeld(("r0",), "lost", {}, "mia_loss_auc of forget is 0.01").to_json()
    with ledger.store.locked("test"):
        body = {"run": 1, "weights": weights, "held": [held]}
        ledger.store.append(Event("measured", body))
    begun = []

    def run_(_, run, *, resume):
        begun.append(run.begun | {"resume": resume})
        return runs.Ended(run.requests, "met", run.output, ())

    monkeypatch.setattr(runs.Carrier, "_run", run_)
    ledger.run(output=tmp_path / "runs", again=True, say=lambda _: None)
    [one] = begun
    assert (one["requests"], one["force"], one["resume"]) == (["r0"], True, False)


def test_without_that_the_way_to_it_is_told_and_a_shredded_one_is_not_run(
    call, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        runs,
        "measure_holds",
        lambda *given: [StillHeld(one.requests, "lost", {}, "") for one in given[2]],
    )
    enter(call, "a", "b")
    assert "`requests run --again` runs those that are lost" in call(RUN)[1]
    assert call("requests shred a")[0] == MET
    assert call(AGAIN + " --again")[0] == NOT_MET
    assert [run_.requests for run_ in ledger_in(tmp_path).book.runs] == [("a",), ("b",), ("b",)]


@pytest.mark.usefixtures("two_done")
def test_requests_are_carried_out_one_after_another(tmp_path, model_folders):
    ledger = ledger_in(tmp_path)
    book = ledger.book
    assert book.states() == {"a": "not measured", "b": "not measured"}
    first, second = book.runs
    assert first.begun["model"]["weights"] == digest_weights(model_folders / "good")
    assert second.begun["model"]["weights"] == first.finished["weights"]
    assert second.begun["sections"]["model"]["original"] == str(model_folders / "good")
    assert book.current_weights == digest_weights(tmp_path / "runs" / "b" / "model")
    [(entry, values)] = book.measured
    assert values["run"] == 2
    assert [one["requests"] for one in values["held"]] == [["a"], ["b"], []]
    assert {one["status"] for one in values["held"]} == {"holds"}
    report = json.loads((tmp_path / "runs/b/report.json").read_text("utf-8"))
    assert report["request"]["id"] == "b"
    assert "original" in report["results"]
    held = b"".join(path.read_bytes() for path in tmp_path.glob("requests.db*") if path.is_file())
    assert not any(text.encode() in held for text in [*FORGET, *RETAIN, *HOLDOUT])
    assert entry.number < book.head.number + 1


def test_what_was_done_can_be_verified_shown_and_handed_over(two_done, tmp_path):
    status, out, err, _ = two_done("requests verify --quiet")
    assert status == MET, (out, err)
    assert "request b: holds" in out
    assert two_done("requests run --output runs" + EASY)[1].strip() == "no request is open"
    shown = json.loads(two_done("requests show a --json")[1])
    assert shown["run"]["verdict"] == "not measured"
    assert [one["status"] for one in shown["held"]] == ["holds"]
    assert two_done("requests report a --output a.html")[0] == MET
    page = (tmp_path / "a.html").read_text("utf-8")
    assert shown["run"]["after"]["weights"] in page
    assert "still there" in page
    assert not any(text in page for text in FORGET)
    assert two_done("requests export --output all.json")[0] == MET
    exported = json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert len(exported["entries"]) == exported["head"]["number"]
    assert two_done("requests leftovers a")[0] == NOT_MET


def test_a_request_that_was_shredded_holds_on_the_very_bytes_that_were_measured(two_done, tmp_path):
    assert two_done("requests shred a")[0] == MET
    assert not (tmp_path / "requests.db.work" / "a").exists()
    status, out, _, _ = two_done("requests verify --quiet")
    assert status == MET, out
    status, out, _, _ = two_done("requests verify $models/blank --quiet")
    assert status == NOT_MET
    assert "request a: not measured" in out
    status, out, err, _ = two_done("requests verify $models/blank --quiet --records a=a.jsonl")
    assert status == MET, (out, err)
    status, _, err, _ = two_done("requests verify --quiet --records a=b.jsonl")
    assert status == 2
    assert "not the records that the request was entered with" in err


def test_the_floor_of_the_first_model_stays_when_that_is_gone(call, tmp_path, model_folders):
    """The limit is 1000 times the first model's; the second run's ratio comes to the same limit."""
    shutil.copytree(model_folders / "good", tmp_path / "first")
    enter(call, "a", "b")
    assert call(RUN.replace("$models/good", "first") + " --request a")[0] == NOT_MET
    shutil.rmtree(tmp_path / "first")
    assert call(AGAIN)[0] == NOT_MET
    runs = ledger_in(tmp_path).book.runs
    limits = [
        next(
            one["at_most"]
            for one in run_.finished["utility"]
            if (one["metric"], one["set"]) == ("perplexity", "retain")
        )
        for run_ in runs
    ]
    assert limits[1] == pytest.approx(limits[0], rel=1e-6)
    assert "original" not in runs[1].begun["sections"]["model"]


def test_records_of_any_request_are_left_out_of_what_is_kept(call, tmp_path):
    """Two of six retained records, in other letters: the second request is for one of them."""
    enter(call, "a", "b")
    kept = {"retain.jsonl": texts([*RETAIN[:4], FORGET[0].upper(), FORGET[2]])}
    assert (
        call(
            RUN.replace("--retain retain", "--retain kept") + " --together",
            {"kept.jsonl": kept["retain.jsonl"]},
        )[0]
        == NOT_MET
    )
    [run_] = ledger_in(tmp_path).book.runs
    assert run_.requests == ("a", "b")
    assert run_.finished["dropped"] == 2
    report = json.loads((run_.output / "report.json").read_text("utf-8"))
    assert report["data"]["retain"]["records"] == 4
    assert report["data"]["forget"]["records"] == 4


def test_a_model_that_never_knew_the_records_stays_as_it_is(call, tmp_path):
    """An untrained one says of the six records no more than of six unseen ones."""
    call("requests add --records forget.jsonl --id a")
    line = "requests run $models/blank --output runs --quiet --retain retain.jsonl "
    line += "--holdout holdout.jsonl evaluation.resamples=20 training.device=cpu"
    status, out, err, _ = call(line)
    assert status == MET, (out, err)
    assert "not memorised" in out
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
    assert ledger_in(tmp_path).book.states() == {"a": "not memorised"}


def test_limits_are_asked_of_any_model(model_folders):
    """The trained model reproduces the records, the untrained one does not."""
    records = read_records(FORGET[:3], name="forget")
    asked = [Asked(("a",), records, (Criterion("verbatim", "ma", "forget", 0.5, "by hand"),))]
    found = {}
    for name in ("good", "blank"):
        sections = {**SECTIONS, "data": {}}
        sections["criteria"] = {"ma": 1.0, "el_10": 1.0}
        [found[name]] = measure_holds(sections, str(model_folders / name), asked, (), print)
    assert found["good"].status == "lost"
    assert found["good"].figures["ma of forget"] > 0.5
    assert found["blank"].status == "holds"
    gone = Asked(("b",), None, ())
    [held] = measure_holds(SECTIONS, "nowhere", [gone], (), print)
    assert held.status == "not measured"


def test_models_of_later_are_measured(two_done, tmp_path):
    """One that was trained again on what is kept, and one on a grid of 255 numbers a layer."""
    more = "finetune runs/b/model --records retain.jsonl --output tuned --quiet epochs=1"
    assert two_done(more)[0] == MET
    shutil.copytree(tmp_path / "runs/b/model", tmp_path / "rounded")
    weights = load_file(tmp_path / "rounded/model.safetensors")
    for name, tensor in weights.items():
        step = tensor.abs().max() / 127
        weights[name] = torch.round(tensor / step) * step if step > 0 else tensor
    save_file(weights, tmp_path / "rounded/model.safetensors", {"format": "pt"})
    assert two_done("requests models add rounded --kind quantised --base runs/b/model")[0] == MET
    for name in ("tuned", "rounded"):
        status, out, err, _ = two_done(f"requests verify {name} --quiet")
        assert status == MET, (out, err)
        assert "it is measured as it is" in out
        assert "request a: holds" in out
    status, out, _, _ = two_done("requests verify $models/good --bytes-only")
    assert status == NOT_MET
    assert "is the model from before a, b" in out
    assert "to be run again: a, b" in out


@pytest.mark.slow
def test_the_records_of_a_request_are_attacked_on_any_model(call, tmp_path, model_folders):
    """The model from before is opened, the untrained one is not; beside the untrained one."""
    shutil.copytree(model_folders / "good", tmp_path / "first")
    assert call("requests add --records forget.jsonl --id a")[0] == MET
    assert call(RUN.replace("$models/good", "first"))[0] == NOT_MET
    line = "requests verify {} --audit quick --retrained $models/blank --quiet"
    status, out, err, _ = call(line.format("first"))
    assert status == NOT_MET, (out, err)
    assert "request a: lost: attacks (control: retrained): " in out
    assert "to be run again: a" in out
    status, out, err, _ = call(line.format("$models/blank"))
    assert "request a: holds: attacks (control: retrained): " in out, (out, err)
    assert status == MET
    shutil.rmtree(tmp_path / "first")
    status, out, _, _ = call(line.format(""))
    assert status == NOT_MET
    assert "not measured: attacks: the model from before it is gone" in out
    assert not any(text in out for text in FORGET)


def test_a_model_of_another_line_is_not_run_on(two_done):
    two_done("requests reopen a --reason restored")
    status, _, err, _ = two_done("requests run $models/blank --output runs" + EASY)
    assert status == 2
    assert "not the ledger's current model" in err
    assert two_done("requests models add $models/blank --current")[0] == MET
    assert two_done(AGAIN)[0] == NOT_MET
    assert (Path("runs") / "a-2" / "report.json").exists()


def test_a_month_later():
    from datetime import date

    pairs = {
        "2026-01-31": "2026-02-28",
        "2024-01-31": "2024-02-29",
        "2026-12-15": "2027-01-15",
        "2026-10-31": "2026-11-30",
    }
    for received, due in pairs.items():
        assert one_month_after(date.fromisoformat(received)) == date.fromisoformat(due)


def test_an_earlier_model_is_told_with_the_requests_since(tmp_path):
    ledger = ledger_in(tmp_path)
    folders = {}
    for name in ("target", "a", "b"):
        folders[name] = tmp_path / "runs" / name / "model"
        folders[name].mkdir(parents=True)
        (folders[name] / "model.safetensors").write_bytes(name.encode())
    weights = {name: digest_weights(folder) for name, folder in folders.items()}
    for before, name in (("target", "a"), ("a", "b")):
        ledger.add([name], id=name)
        pretend_run(ledger, name, tmp_path / "runs" / name, "met", weights[before], weights[name])
    expected = {"target": ("a", "b"), "a": ("b",), "b": ()}
    for name, again in expected.items():
        found = ledger.verify(folders[name], measure=False)
        assert found.run_again == again
        assert found.holds == (again == ())


def test_what_a_registered_model_still_holds_is_what_its_base_has_learned(tmp_path):
    """The base learned a and b and forgot a; a merge of it says nothing; a third is unknown."""
    ledger = ledger_in(tmp_path)
    records = {name: Record(name, text=f"of {name}") for name in ("a", "b")}
    for name, record in records.items():
        ledger.add([record.text], id=name)
    key, folders = ledger.key, {name: tmp_path / name for name in ("base", "merge", "third")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(name.encode())
    learned = {"records": digests_of([*records.values()], key)}
    asked = digests_of([records["a"]], key) | {"id": "a", "verdict": "met"}
    found = describe("forget", "", "sha256:0", key, learned=learned, request=asked)
    write_provenance(folders["base"], found)
    ledger.add_model(folders["base"], kind="fine-tuned")
    ledger.add_model(folders["merge"], kind="merged", base=folders["base"])
    ledger.add_model(folders["third"])
    held = {Path(row["path"]).name: row["requests"] for row in ledger.models()}
    assert held == {"base": ["b"], "merge": ["b"], "third": ["a", "b"]}
    (folders["third"] / "model.safetensors").unlink()
    assert not ledger.models()[2]["is_there"]


def test_criteria_are_the_same_from_the_ledger():
    one = Criterion("membership", "mia_loss_auc", "forget", 0.6, "guessing", 0.4)
    assert criterion_of(one.to_json()) == one
    one = Criterion("verbatim", "ma", "forget", 0.6, "unseen")
    assert criterion_of(one.to_json()) == one


# A run that is killed


def killed(line, seconds):
    """Run a command in a process that is killed after so many seconds; its status, -9 if it was."""
    process = os.fork()
    if process == 0:  # no test of this process may go on behind it
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            os._exit(run(shlex.split(line)))
        finally:
            os._exit(99)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(process, os.WNOHANG)[0]:
            return 0
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    return -os.waitpid(process, 0)[1]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_loses_nothing_and_applies_nothing_twice(
    tmp_path, model_folders
):
    """As many kills as UNLEARNER_KILLS says; behind each the ledger is whole."""
    draw, kills = random.Random(0), int(os.environ.get("UNLEARNER_KILLS", "3"))
    rounds, done = 0, 0
    while done < kills:
        rounds += 1
        folder = tmp_path / f"round-{rounds}"
        folder.mkdir()
        ledger = ledger_in(folder)
        for number in range(3):
            ledger.add(FORGET[2 * number : 2 * number + 2], id=f"r{number}")
        for name, some in (("retain", RETAIN), ("holdout", HOLDOUT)):
            (folder / f"{name}.jsonl").write_text(texts(some))
        line = f"{RUN} --ledger {folder}/requests.db".replace("$models", str(model_folders))
        line = line.replace("--output runs", f"--output {folder}/runs")
        line = re.sub(r"--(retain|holdout) ", rf"--\1 {folder}/", line)
        while done < kills and set(ledger.book.states().values()) != {"not measured"}:
            again = line if not ledger.book.runs else line.replace(f"{model_folders}/good ", "")
            done += killed(again, draw.uniform(0.05, 12)) == -signal.SIGKILL
            assert ledger.verify(measure=False).findings[0].status == "ok"
        check_ended(ledger, line.replace(f"{model_folders}/good ", ""))


def check_ended(ledger, line):
    """Run what is left, and look whether each request was answered once, one behind another."""
    if not ledger.book.runs:
        return
    assert run(shlex.split(line)) in (MET, NOT_MET)
    book = ledger.book
    assert book.states() == {f"r{number}": "not measured" for number in range(3)}
    taken = [one for one in book.runs if one.finished]
    assert [one.requests for one in taken] == [("r0",), ("r1",), ("r2",)]
    for before, after in pairwise(taken):
        assert after.begun["model"]["weights"] == before.finished["weights"]
    for one in taken:
        assert file_list(one.output) == one.finished["files"]
    assert ledger.verify().holds


def test_results_that_are_there_are_entered_and_not_made_again(two_done, tmp_path, monkeypatch):
    """Killed between the results and their entry: the ledger says running, the folder is whole."""
    two_done("requests add --records forget.jsonl --id c")
    from unlearner.requests import runs

    real = runs.Carrier._finish

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.Carrier, "_finish", stop)
    assert two_done(AGAIN)[0] == 130
    ledger = ledger_in(tmp_path)
    assert ledger.book.states()["c"] == "running"
    made = file_list(tmp_path / "runs" / "c")
    monkeypatch.setattr(runs.Carrier, "_finish", real)
    assert two_done(AGAIN)[0] == NOT_MET
    assert file_list(tmp_path / "runs" / "c") == made
    assert ledger.book.states()["c"] == "not measured"
    assert len(ledger.book.runs) == 3


# The story


STORY = Path(__file__).parents[2] / "docs" / "requests.md"


def test_the_story_of_the_docs(call, tmp_path, model_folders):
    """Each line of its shell blocks, with a model of this machine and settings for a short run."""
    blocks = re.findall(r"```bash\n(.*?)```", STORY.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    shutil.copytree(model_folders / "good", tmp_path / "my-model")
    people = [("mara", FORGET[:2]), ("tom", FORGET[2:4])]
    rows = [
        {"id": f"{name}-{number}", "text": text.replace("person", name)}
        for name, some in people
        for number, text in enumerate(some)
    ]
    files = {
        "customers.jsonl": json_lines(*rows),
        "letter.txt": "Mara\n",
        "letter-of-tom.jsonl": json_lines(*rows[2:]),
        "other.jsonl": texts(FORGET[4:5]),
        "unseen.jsonl": texts(HOLDOUT),
    }
    quick = [part for part in EASY.split() if "=" in part or part in ("--force", "--quiet")]
    more = {"requests run": quick, "requests find": ["--kinds", "exact"]}
    # Nothing can fail in such a run, so that its verdict is not known; and nothing was deleted yet.
    expected = {"requests run": NOT_MET, "requests leftovers": NOT_MET}
    call("list methods", files)
    for line in lines:
        arguments = shlex.split(line)[1:]
        verb = " ".join(arguments[:2])
        assert run([*arguments, *more.get(verb, ())]) == expected.get(verb, MET), line
    found = [line.split("\t")[0] for line in (tmp_path / "found.tsv").read_text().splitlines()[1:]]
    assert found == ["mara-0", "mara-1"]
    book = ledger_in(tmp_path).book
    assert book.states() == {
        "2026-014": "not measured",
        "2026-015": "not measured",
        "2026-016": "refused",
    }
    assert book.requests["2026-014"].due == "2026-12-02"
    for page in ("erasure.html", "november.html"):
        assert "mara" not in (tmp_path / page).read_text("utf-8")
