"""`unlearner compare`: a whole comparison on a tiny model that knows its records, and going on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from command_world import FORGET, HOLDOUT, RETAIN, SETS
from compare_world import FILES, GIVEN, ONE, SHORT, compare, counted, read, report
from page_reader import Page
from promise import leaks
from unlearner.cli.app import FAILED, INTERRUPTED, MET, WRONG_INPUT, run
from unlearner.pipeline import compare as comparing
from unlearner.pipeline import pipeline
from unlearner.pipeline.compare import SHARES
from unlearner.pipeline.compare_plan import Plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(compare_folder):
    """A whole comparison in `done`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(compare_folder)
        assert compare("done", *SHORT, "--retrained", "blank") == MET
    return compare_folder


@pytest.fixture(autouse=True)
def there(world, monkeypatch):
    """Every test is in that folder, which it fills with folders of its own name."""
    monkeypatch.chdir(world)


def timeless(value):
    """Without what is the clock's, and the process's memory."""
    if isinstance(value, dict):
        return {
            name: timeless(some)
            for name, some in value.items()
            if name not in ("created", "peak_memory_bytes") and not name.startswith("seconds")
        }
    return [timeless(some) for some in value] if isinstance(value, list) else value


# A whole comparison


def test_each_method_has_the_settings_of_its_best_trial_with_every_seed():
    told = read("done")
    assert told["seeds"] == [0, 1]
    for name in ("npo", "gradient_ascent"):
        entry = told["methods"][name]
        trials = entry["search"]["trials"]
        best = trials[entry["search"]["chosen"]]
        assert [trial["number"] for trial in trials] == [0, 1]
        assert best["score"] == min(trial["score"] for trial in trials)
        assert trials[0]["settings"]["learning_rate"] == 0.005
        for seed in (0, 1):
            settings = report("done", name, seed)["method"]
            assert {key: settings[key] for key in best["settings"]} == best["settings"]
            assert report("done", name, seed)["search"] == entry["search"]
            assert report("done", name, seed)["environment"]["seed"] == seed


def test_the_figures_are_those_of_the_runs():
    """The mean of the two seeds, their range, and how many met everything."""
    told = read("done")
    for name, entry in told["methods"].items():
        runs = [report("done", name, seed) for seed in (0, 1)]
        values = [one["results"]["unlearned"]["forget"]["ma"]["value"] for one in runs]
        found = entry["summary"]["forget"]["ma"]
        assert found["value"] == pytest.approx(sum(values) / 2)
        assert (found["low"], found["high"]) == (min(values), max(values))
        assert entry["met"] == sum(one["verdict"]["status"] == "met" for one in runs)
        assert [one["results"] for one in entry["seeds"]] == [
            one["results"]["unlearned"] for one in runs
        ]
        assert {json.dumps(one["criteria"]) for one in runs} == {json.dumps(told["criteria"])}
        assert {json.dumps(one["results"]["target"]) for one in runs} == {
            json.dumps(told["results"]["target"])
        }
    assert told["results"]["retrained"]["forget"]["ma"]["value"] < 0.1
    assert any(entry["on_front"] for entry in told["methods"].values())


def test_the_strength_of_each_is_looked_at_along_its_path():
    for entry in read("done")["methods"].values():
        points = entry["strength"]["points"]
        assert [point["share"] for point in points] == list(SHARES)
        assert points[0]["ma"] >= points[-1]["ma"]
        kept = [point for point in points if point["kept_ratio"] <= 1.1]
        assert entry["strength"]["at_the_floor"] == (kept[-1] if kept else None)


def test_a_method_that_cannot_work_on_the_records_is_told_as_not_run():
    """idk refuses questions, and plain text asks none."""
    told = read("done")
    assert list(told["methods"]) == ["npo", "gradient_ascent"]
    assert "method idk needs a prompt and a response" in told["not_run"]["idk"]
    assert "idk was not run" in Page(Path("done/compare.html").read_text("utf-8")).shown


def test_no_file_holds_text_of_the_records_and_no_model_is_left():
    assert leaks(Path("done"), [*FORGET, *RETAIN, *HOLDOUT], words=4) == []
    left = {path.name for path in Path("done").rglob("*") if path.is_file()}
    assert not [name for name in left if name.endswith(".safetensors")]
    assert {*FILES, "compare.yaml", "report.html", "search.jsonl", "log.jsonl"} <= left


def test_files_are_of_what_the_comparison_found():
    markdown = Path("done/compare.md").read_text("utf-8")
    assert "| target model |" in markdown
    assert "| npo" in markdown
    assert Path("done/compare.csv").read_text("utf-8").startswith("model,seed,set,metric,value")
    page = Page(Path("done/compare.html").read_text("utf-8"))
    assert "The search, trial by trial" in page.shown
    assert "script" not in {tag for tag, _ in page.tags}


# Going on


def test_a_finished_comparison_runs_nothing_and_gives_the_same_bytes(monkeypatch, capsys):
    before = {name: Path("done", name).read_bytes() for name in FILES}
    done = counted(monkeypatch)
    monkeypatch.setattr(comparing, "Work", None)  # not even the model is read
    assert compare("done", *SHORT, "--retrained", "blank", "--resume") == MET
    assert done == {"trials": [], "seeds": []}
    assert {name: Path("done", name).read_bytes() for name in FILES} == before
    assert "npo" in capsys.readouterr().out


def test_a_comparison_that_was_cut_off_goes_on_and_is_the_same_but_for_times(monkeypatch, capsys):
    """In a search, between two seeds, in the second method: what was finished is not repeated.

    Each goes on with what the one before it left: four parts, which together are the whole.
    """
    cuts = (
        ({"trial": 1}, [("npo", 0)], []),
        ({"seed": 1}, [("npo", 1)], [("npo", 0)]),
        ({"trial": 1}, [("gradient_ascent", 0)], [("npo", 1)]),
    )
    for number, (killed, trials, seeds) in enumerate(cuts):
        with monkeypatch.context() as patch:
            done = counted(patch, **killed)
            more = ["--resume"] if number else []
            assert compare("cut", *SHORT, "--retrained", "blank", *more) == INTERRUPTED
        assert done == {"trials": trials, "seeds": seeds}
        assert capsys.readouterr().err == (
            "unlearner: interrupted; what is finished is kept in cut: give the same command "
            "with --resume\n"
        )
        assert not Path("cut", "compare.json").exists()
    done = counted(monkeypatch)
    assert compare("cut", *SHORT, "--retrained", "blank", "--resume") == MET
    last = [("gradient_ascent", 0), ("gradient_ascent", 1)]
    assert done == {"trials": last[1:], "seeds": last}
    assert timeless(read("cut")) == timeless(read("done"))


def test_what_is_stopped_before_anything_is_finished_leaves_nothing(monkeypatch, capsys):
    counted(monkeypatch, trial=0)
    assert compare("none/at-all", *SHORT) == INTERRUPTED
    assert capsys.readouterr().err == "unlearner: interrupted; nothing was written\n"
    assert not Path("none").exists()


def test_a_method_can_be_added_and_only_it_is_run(monkeypatch):
    assert compare("added", *SHORT, methods="gradient_ascent") == MET
    done = counted(monkeypatch)
    assert compare("added", *SHORT, "--resume", methods="gradient_ascent,npo") == MET
    assert done == {"trials": [("npo", 0), ("npo", 1)], "seeds": [("npo", 0), ("npo", 1)]}
    assert list(read("added")["methods"]) == ["gradient_ascent", "npo"]


@pytest.mark.slow
def test_two_processes_find_the_same_as_one():
    """The methods' order is that of the command line, whoever is ready first."""
    assert compare("two-jobs", *SHORT, "--retrained", "blank", "--jobs", "2") == MET
    assert timeless(read("two-jobs")) == timeless(read("done"))
    for name in ("npo", "gradient_ascent"):
        for seed in (0, 1):
            one, two = (report(folder, name, seed) for folder in ("done", "two-jobs"))
            assert timeless(one) == timeless(two)


@pytest.mark.slow
def test_what_a_process_finds_wrong_is_told_in_one_line_and_leaves_nothing(capsys):
    more = ("--retain", "forget.jsonl", "--jobs", "2")
    assert compare("wrong-jobs", *SHORT, *more, methods="npo,gradient_ascent") == WRONG_INPUT
    err = capsys.readouterr().err
    assert err.startswith("unlearner: --retain: all of its 6 records are duplicates")
    assert err.count("\n") == 1
    assert not Path("wrong-jobs").exists()


def test_a_comparison_goes_on_with_the_same_records_and_model_only(capsys):
    """Nothing of what is there is touched."""
    folder, records = Path("other-inputs"), Path("mine.jsonl")
    shutil.copytree("good", "mine")
    records.write_text(SETS["retain.jsonl"], encoding="utf-8")
    base = ("compare", "mine", *GIVEN, *ONE, "--retain", str(records), "--output", str(folder))
    assert run([*base, "--methods", "gradient_ascent"]) == MET
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    records.write_text(SETS["retain.jsonl"].split("\n", 1)[1], encoding="utf-8")
    shutil.copy("blank/model.safetensors", "mine/model.safetensors")
    capsys.readouterr()
    assert run([*base, "--methods", "gradient_ascent,npo", "--resume"]) == WRONG_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the model and the records of retain changed" in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "more", ["npo.beta=0.2", "method.max_epochs=3", "--seeds 2", "--retrained blank", "--no-search"]
)
def test_a_comparison_goes_on_with_the_same_settings_only(capsys, more):
    """Nothing of what is there is touched."""
    folder = Path("other-settings")
    if not folder.exists():
        assert compare(folder, "method.max_epochs=2", "search.trials=1", methods="npo") == MET
        capsys.readouterr()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    base = ["method.max_epochs=2", "search.trials=1"]
    assert compare(folder, *base, *more.split(), "--resume", methods="npo") == WRONG_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "began with other settings" in err
    assert "compare.yaml" in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_comparison_goes_on_with_a_method_and_settings_of_its_own(monkeypatch):
    """What is there is not run again; the settings are those of the next time too."""
    base = (*SHORT, "npo.beta=0.2")
    assert compare("settings-added", *base, methods="npo") == MET
    done = counted(monkeypatch)
    more = (*base, "gradient_ascent.learning_rate=0.001", "--resume")
    assert compare("settings-added", *more, methods="npo,gradient_ascent") == MET
    assert {name for name, _ in done["seeds"]} == {"gradient_ascent"}
    kept = yaml.safe_load(Path("settings-added/compare.yaml").read_text("utf-8"))
    assert kept["own"] == {"npo": {"beta": 0.2}, "gradient_ascent": {"learning_rate": 0.001}}
    assert compare("settings-added", *more, methods="npo,gradient_ascent") == MET
    changed = (*base, "gradient_ascent.learning_rate=0.002", "--resume")
    assert compare("settings-added", *changed, methods="npo,gradient_ascent") == WRONG_INPUT


def test_only_settings_of_methods_that_did_not_run_can_be_added():
    """Settings of a method of which something was run stay what they were."""
    first = Plan({"method": {"max_epochs": 2}}, {"npo": {"beta": 0.2}}, ("npo",), (0,))
    begun_as, of_icu = first.to_yaml(), {"icu": {"batch_size": 3}}
    added = replace(first, own={**first.own, **of_icu}, methods=("npo", "icu"))
    assert added.goes_on(begun_as, ["npo"])
    assert not added.goes_on(begun_as, ["npo", "icu"])  # ran by its defaults
    assert not replace(added, own={"npo": {"beta": 0.3}, **of_icu}).goes_on(begun_as, ["npo"])
    assert not replace(added, own=of_icu).goes_on(begun_as, ["npo"])
    assert not added.goes_on("methods: []", [])
    assert not added.goes_on("no mapping", [])
    assert not added.goes_on("own:", [])


def test_a_fault_in_a_run_keeps_what_is_finished(monkeypatch, capsys):
    """An error that is not the user's: status 1, and the trials are there."""

    def fault(*_, **__):
        raise ValueError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "carry_out", fault)
        assert compare("fault", *SHORT, methods="npo") == FAILED
    assert capsys.readouterr().err == "unlearner: ValueError: a fault\n"
    assert len(Path("fault/runs/npo/search.jsonl").read_text("utf-8").splitlines()) == 2
    assert not list(Path("fault/runs/npo").glob(".seed*"))
    done = counted(monkeypatch)
    assert compare("fault", *SHORT, "--resume", methods="npo") == MET
    assert done == {"trials": [], "seeds": [("npo", 0), ("npo", 1)]}
