"""`unlearner compare`: whole comparisons on a tiny model that knows its records."""

import json
import math
import shutil
from pathlib import Path

import jsonschema
import pytest

from command_world import FORGET, HOLDOUT, RETAIN, SETS
from page_reader import Page
from promise import leaks
from unlearner import comparing, pipeline, search
from unlearner.cli import FAILED, INTERRUPTED, MET, WRONG_INPUT, run
from unlearner.comparing import SHARES
from unlearner.journal import TrainingError
from unlearner.methods.gradient_ascent import GradientAscent

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/report.schema.json").read_text("utf-8"))
FILES = ("compare.json", "compare.html", "compare.md", "compare.csv")
GIVEN = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--holdout", "holdout.jsonl",
         "--quiet", "evaluation.resamples=20")  # fmt: skip
# Both forget within some 20 rounds at this rate; two trials and two seeds of each take 8 seconds.
SHORT = ("--seeds", "2", "search.trials=2", "method.learning_rate=0.005", "method.max_epochs=25")
METHODS = "npo,idk,gradient_ascent"


@pytest.fixture(scope="module")
def world(one_key, tmp_path_factory, model_folders):  # noqa: ARG001 - the key comes first
    """A folder of record files, and a whole comparison in `done`."""
    root = tmp_path_factory.mktemp("world")
    for name, content in SETS.items():
        (root / name).write_text(content, encoding="utf-8")
    shutil.copytree(model_folders / "good", root / "good")
    shutil.copytree(model_folders / "blank", root / "blank")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert compare("done", *SHORT, "--retrained", "blank") == MET
    return root


@pytest.fixture(autouse=True)
def there(world, monkeypatch):
    """Every test is in that folder, which it fills with folders of its own name."""
    monkeypatch.chdir(world)


def compare(output, *more, methods=METHODS):
    return run(["compare", "good", *GIVEN, "--methods", methods, "--output", str(output), *more])


def read(folder):
    return json.loads(Path(folder, "compare.json").read_text("utf-8"))


def report(folder, method, seed=0):
    path = Path(folder, "runs", method, f"seed-{seed}", "report.json")
    found = json.loads(path.read_text("utf-8"))
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    return found


def timeless(value):
    """Without what is the clock's, and the process's memory."""
    if isinstance(value, dict):
        return {name: timeless(some) for name, some in value.items()
                if name not in ("created", "peak_memory_bytes")
                and not name.startswith("seconds")}  # fmt: skip
    return [timeless(some) for some in value] if isinstance(value, list) else value


def counted(monkeypatch, trial=math.inf, seed=math.inf):
    """What is run, as it ends: trials and seeds of methods; one can be killed by its place."""
    done = {"trials": [], "seeds": []}
    try_it, carry_out = search._try, pipeline.carry_out

    def one_trial(config, settings, number, *rest):
        if len(done["trials"]) == trial:
            raise KeyboardInterrupt
        found = try_it(config, settings, number, *rest)
        done["trials"].append((config.method.name, number))
        return found

    def one_run(config, *some, **rest):
        if len(done["seeds"]) == seed:
            raise KeyboardInterrupt
        found = carry_out(config, *some, **rest)
        done["seeds"].append((config.method.name, config.training.seed))
        return found

    monkeypatch.setattr(search, "_try", one_trial)
    monkeypatch.setattr(pipeline, "carry_out", one_run)
    return done


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


@pytest.mark.parametrize(
    ("killed", "trials", "seeds"),
    [
        ({"trial": 1}, [("npo", 0)], []),
        ({"seed": 1}, [("npo", 0), ("npo", 1)], [("npo", 0)]),
        ({"trial": 3}, [("npo", 0), ("npo", 1), ("gradient_ascent", 0)], [("npo", 0), ("npo", 1)]),
    ],
)
def test_a_comparison_that_was_cut_off_goes_on_and_is_the_same_but_for_times(
    monkeypatch, capsys, killed, trials, seeds
):
    """In a search, between two seeds, in the second method: what was finished is not repeated."""
    output = "-".join(f"{name}{place}" for name, place in killed.items())
    both = [(name, number) for name in ("npo", "gradient_ascent") for number in (0, 1)]
    whole = {"trials": both, "seeds": both}
    with monkeypatch.context() as patch:
        done = counted(patch, **killed)
        assert compare(output, *SHORT, "--retrained", "blank") == INTERRUPTED
    assert done == {"trials": trials, "seeds": seeds}
    assert capsys.readouterr().err == (
        f"unlearner: interrupted; what is finished is kept: go on with --output {output} --resume\n"
    )
    assert not Path(output, "compare.json").exists()
    done = counted(monkeypatch)
    assert compare(output, *SHORT, "--retrained", "blank", "--resume") == MET
    assert {name: [*first, *done[name]] for name, first in
            (("trials", trials), ("seeds", seeds))} == whole  # fmt: skip
    assert timeless(read(output)) == timeless(read("done"))


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


# Settings


ONE = ("--no-search", "method.max_epochs=1")


def test_method_key_is_for_all_that_have_it_and_name_key_for_one():
    """gradient_ascent has no beta and no retain weight; its own batch size wins."""
    more = (*ONE, "method.beta=0.2", "method.batch_size=3", "gradient_ascent.batch_size=2",
            "npo.retain_weight=2", "simnpo.beta=5")  # fmt: skip
    assert compare("settings", *more, methods="npo,simnpo,gradient_ascent") == MET
    told = {name: entry["settings"] for name, entry in read("settings")["methods"].items()}
    assert {name: some["batch_size"] for name, some in told.items()} == (
        {"npo": 3, "simnpo": 3, "gradient_ascent": 2}
    )
    assert (told["npo"]["beta"], told["simnpo"]["beta"]) == (0.2, 5)
    assert (told["npo"]["retain_weight"], told["simnpo"]["retain_weight"]) == (2, 1)
    assert "beta" not in told["gradient_ascent"]


def test_without_a_search_a_run_is_that_of_forget():
    """Also where the run file asks for a search."""
    Path("searching.yaml").write_text("search: {trials: 3}", encoding="utf-8")
    assert compare("plain", *ONE, "--config", "searching.yaml", methods="npo") == MET
    told = report("plain", "npo")
    assert "search" not in told
    assert read("plain")["methods"]["npo"]["search"] is None
    assert "trial by trial" not in Path("plain/compare.html").read_text("utf-8")
    run(["forget", "good", *GIVEN, "--method", "npo", "method.max_epochs=1", "--output", "alone"])
    alone = json.loads(Path("alone/report.json").read_text("utf-8"))
    for name in ("results", "verdict", "criteria_digest", "method", "request"):
        assert told[name] == alone[name]
    assert told["model"]["digest_unlearned"] == alone["model"]["digest_unlearned"]


def test_a_method_is_run_on_the_target_whatever_ran_before():
    """With adapters, behind one that froze layers and one that compares with analogous text."""
    more = (*ONE, "training.lora_rank=2", "search.trials=1")
    assert compare("after-others", *more, methods="rmu,icu,npo") == MET
    assert compare("alone-npo", *more, methods="npo") == MET
    one, two = (report(folder, "npo") for folder in ("after-others", "alone-npo"))
    assert one["model"]["digest_target"] == two["model"]["digest_target"]
    assert one["model"]["digest_unlearned"] == two["model"]["digest_unlearned"]
    assert "analogous" in report("after-others", "icu")["results"]["target"]
    assert "analogous" not in one["results"]["target"]


def test_seeds_begin_with_that_of_the_settings():
    assert compare("seeds", *ONE, "--seeds", "2", "training.seed=5", methods="npo") == MET
    assert read("seeds")["seeds"] == [5, 6]
    assert report("seeds", "npo", 6)["environment"]["seed"] == 6


def test_models_are_kept_on_request():
    assert compare("kept", *ONE, "--keep-models", methods="npo") == MET
    assert Path("kept/runs/npo/seed-0/model/model.safetensors").is_file()


def test_a_method_that_diverges_is_told_as_not_run_and_the_others_go_on(capsys):
    more = (*ONE, "method.max_epochs=4", "npo.learning_rate=1e30")
    assert compare("diverging", *more, methods="npo,gradient_ascent") == MET
    told = read("diverging")
    assert list(told["methods"]) == ["gradient_ascent"]
    assert "no seed gave a model: step" in told["not_run"]["npo"]
    assert "npo was not run: no seed gave a model: step" in capsys.readouterr().out
    assert (
        report("diverging", "gradient_ascent")["results"]["target"]["forget"]["ma"]["value"] > 0.9
    )


def test_a_seed_that_diverges_leaves_the_others(monkeypatch, capsys):
    """The first, which the strength is looked at with; a run that goes on does not repeat it."""
    carry_out = pipeline.carry_out

    def some_diverge(config, *some, **rest):
        if config.method.name == "npo" and config.training.seed == 0:
            raise TrainingError("step 3: the loss is not a finite number")
        return carry_out(config, *some, **rest)

    more = (*ONE, "--seeds", "2")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "carry_out", some_diverge)
        assert compare("one-seed", *more, methods="npo,gradient_ascent") == MET
    told = read("one-seed")
    entry = told["methods"]["npo"]
    assert told["seeds"] == [0, 1]
    assert [run["seed"] for run in entry["seeds"]] == [1]
    assert entry["diverged"] == [
        {"seed": 0, "reason": "step 3: the loss is not a finite number"}
    ]  # fmt: skip
    assert entry["summary"]["forget"]["ma"]["seeds"] == 1
    assert entry["strength"]["points"]
    assert not entry["on_front"]
    assert told["methods"]["gradient_ascent"]["on_front"]
    words = "npo gave no model with seed 0, and the figures are those of the others: step 3"
    assert words in capsys.readouterr().out
    assert words in Page(Path("one-seed/compare.html").read_text("utf-8")).shown
    assert words in Path("one-seed/compare.md").read_text("utf-8")
    done = counted(monkeypatch)
    assert compare("one-seed", *more, "--resume", methods="npo,gradient_ascent") == MET
    assert done == {"trials": [], "seeds": []}


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


def test_a_method_that_makes_the_model_useless_is_shown_as_such(monkeypatch):
    """Weights times 1e4: a loss beyond what has a perplexity."""

    def spoil(_method, model, _data, trainer):
        trainer.start(model, 1e-3)
        for parameter in model.parameters():
            parameter.data.mul_(1e4)
        return model

    monkeypatch.setattr(GradientAscent, "unlearn", spoil)
    assert compare("useless", *ONE, methods="gradient_ascent,npo") == MET
    told = read("useless")
    assert "perplexity" not in told["methods"]["gradient_ascent"]["summary"]["retain"]
    assert told["methods"]["gradient_ascent"]["strength"]["points"][-1]["kept_ratio"] is None
    assert not told["methods"]["gradient_ascent"]["on_front"]
    assert "perplexity beyond any number" in Path("useless/compare.html").read_text("utf-8")


def test_a_hostile_model_name_is_escaped():
    name = 'x"><script>alert(1)<'
    Path(name).mkdir()
    for path in Path("good").iterdir():
        shutil.copy(path, Path(name) / path.name)
    status = run(["compare", name, *GIVEN, *ONE, "--methods", "npo", "--output", "hostile"])
    assert status == MET
    page = Path("hostile/compare.html").read_text("utf-8")
    assert "<script" not in page
    assert "alert(1)" in Page(page).shown
    assert "<script" not in Path("hostile/compare.md").read_text("utf-8")


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
