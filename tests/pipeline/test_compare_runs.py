"""`unlearner compare`: settings of the methods, and methods that diverge or cannot work."""

import json
import shutil
from pathlib import Path

import pytest

from compare_world import GIVEN, ONE, compare, counted, read, report
from page_reader import Page
from unlearner.cli.app import MET, WRONG_INPUT, run
from unlearner.methods.gradient_ascent import GradientAscent
from unlearner.pipeline import pipeline
from unlearner.training import memory as memory_module
from unlearner.training.checkpoints import TrainingError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def there(compare_folder, monkeypatch):
    """Every test is in that folder, which it fills with folders of its own name."""
    monkeypatch.chdir(compare_folder)


def test_method_key_is_for_all_that_have_it_and_name_key_for_one():
    """gradient_ascent has no beta and no retain weight; its own batch size wins."""
    more = (
        *ONE,
        "method.beta=0.2",
        "method.batch_size=3",
        "gradient_ascent.batch_size=2",
        "npo.retain_weight=2",
        "simnpo.beta=5",
    )
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
    more = (*ONE, "method.max_epochs=4", "npo.learning_rate=1e6")
    assert compare("diverging", *more, methods="npo,gradient_ascent") == MET
    told = read("diverging")
    assert list(told["methods"]) == ["gradient_ascent"]
    assert "no seed gave a model: step" in told["not_run"]["npo"]
    assert "npo was not run: no seed gave a model: step" in capsys.readouterr().out
    assert (
        report("diverging", "gradient_ascent")["results"]["target"]["forget"]["ma"]["value"] > 0.9
    )


def test_what_will_not_fit_into_memory_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(memory_module, "available_bytes", lambda: 1 << 10)
    assert compare("too-large", *ONE, methods="npo,rmu") == WRONG_INPUT
    err = capsys.readouterr().err
    assert err.startswith("unlearner: training: the run is expected to need")
    assert err.count("\n") == 1
    assert not Path("too-large").exists()


def test_a_method_that_cannot_work_on_the_model_leaves_the_others():
    """The tiny model has two blocks."""
    assert compare("too-deep", *ONE, "rmu.layer=40", methods="rmu,npo") == MET
    told = read("too-deep")
    assert list(told["methods"]) == ["npo"]
    assert "layer" in told["not_run"]["rmu"]


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
    assert entry["diverged"] == [{"seed": 0, "reason": "step 3: the loss is not a finite number"}]
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
