"""Searches with real methods: the model they leave, quick looks, and `forget --search`."""

import json
import math
from dataclasses import replace
from pathlib import Path
from string import Template

import jsonschema
import pytest
import torch
from safetensors.torch import load_file
from test_lm_methods import CLASSES, LOW
from test_search import config, data_of

from command_world import RUN, SETS
from conftest import tiny_model, tiny_tokenizer
from unlearner.cli.app import INTERRUPTED, MET, NOT_MET, WRONG_INPUT, run
from unlearner.config import RunConfig
from unlearner.families import CAUSAL_LM
from unlearner.models import adapters
from unlearner.models.loading import Loaded
from unlearner.pipeline import pipeline, search
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

pytestmark = pytest.mark.slow

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
# It forgets the records of the tiny model in about 20 rounds; a trial takes half a second.
NPO = RUN + " --quiet --method npo method.learning_rate=0.005 evaluation.resamples=20 "
SEARCH = NPO + "--search search.trials=3 "


# Real methods: the model is then the target again


def state(model):
    return {name: some.detach().clone() for name, some in model.state_dict().items()}


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_after_a_search_the_model_is_the_target_bit_by_bit(name, rank):
    """Two trials of an epoch each, whatever a method freezes, scales or puts into the model."""
    model = tiny_model("llama")
    by_steps = {"min_steps": 2, "steps": 2, "finishing_steps": 0}
    few = {key: value for key, value in by_steps.items() if key in CLASSES[name].model_fields}
    method = CLASSES[name](max_epochs=1, batch_size=2, **few).for_family("causal-lm")
    before = state(model)
    training = TrainingSettings(device="cpu", lora_rank=rank)
    loaded = Loaded(model, tiny_tokenizer(), "tiny")
    found = search.search(
        config(method, training, trials=2), loaded, data_of(LOW, 1e9), None, lambda _: None
    )
    assert [trial.status for trial in found.trials] == ["not reached"] * 2
    one, other = (trial.figures for trial in found.trials)
    assert one["ma"] != other["ma"] or one["kept_ratio"] != 1.0
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert not adapters.has_adapters(model)
    assert "peft_config" not in vars(model)


def test_a_trial_is_the_run_that_its_settings_would_give():
    """Run by hand with the second trial's settings: the same rounds, MA and ratio."""
    method = CLASSES["npo"](max_epochs=3, batch_size=2)
    loaded = Loaded(tiny_model("llama"), tiny_tokenizer(), "tiny")
    found = search.search(config(method, trials=2), loaded, data_of(LOW, 1e9), None, print)
    trial = found.trials[1]
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    again = search.with_settings(method, trial.settings)
    again.unlearn(tiny_model("llama"), data_of(LOW, 1e9), trainer)
    place = trainer.details.get("restored_round", 3)
    assert trial.rounds == len(trainer.rounds) - 1
    assert trial.figures["ma"] == trainer.rounds[place]["ma"]
    watched = [line["retain_perplexity"] for line in trainer.rounds]
    assert trial.figures["kept_ratio"] == pytest.approx(watched[place] / watched[0])


# Quick looks


class Watching(Trainer):
    """Remembers every look."""

    def evaluate_round(self, examine):
        found = super().evaluate_round(examine)
        self.details.setdefault("looks", []).append(found)
        return found


@pytest.fixture
def known(model_folders, tmp_path):
    """Prepares a model that knows its records for a run of a method; see `command_world`."""
    for name, content in SETS.items():
        (tmp_path / name).write_text(content)

    def prepare(method, **fields):
        sections = {
            "model": {"name": str(model_folders / "good")},
            "data": {Path(name).stem: str(tmp_path / name) for name in SETS},
            "method": {"name": method, **fields},
            "training": {"device": "cpu"},
            "evaluation": {"resamples": 5},
        }
        some = RunConfig.from_sections(sections)
        some = replace(some, method=some.method.for_family("causal-lm"))
        prepared = pipeline.start(some, CAUSAL_LM)
        target = pipeline.measure_baseline(some, prepared, lambda _: None, force=True)
        return some, prepared, target

    return prepare


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("npo", {"learning_rate": 0.005}),
        ("gradient_difference", {"learning_rate": 0.005}),
        ("gradient_ascent", {}),  # stops at the level: MA and EL_10 of the set alone
        ("task_arithmetic", {"max_epochs": 4}),  # is never suppressed, and goes back
    ],
)
def test_quick_looks_find_the_same_and_stop_at_the_same_round(known, method, fields):
    """The same weights, MA, ES and ratios; EL_10 is left out only where no run would end.

    That is where MA is above its level, and for a method that learns on kept text where that is
    over the floor: no such round ends a run, suppressed or not.
    """
    found = {}
    for quick in (False, True):
        some, prepared, target = known(method, **fields)
        trainer = Watching(some.training, Log())
        data = replace(target.data, quick_looks=quick)
        model = some.method.unlearn(prepared.loaded.model, data, trainer)
        found[quick] = (state(model), trainer.details.pop("looks"), trainer.details)
    (whole, all_looks, told), (quick, quick_looks, quick_told) = found[False], found[True]
    assert told == quick_told
    assert all(torch.equal(whole[name], quick[name]) for name in whole)
    level, floor = target.data.level.ma, target.data.utility_floor
    for one, other in zip(all_looks, quick_looks, strict=True):
        assert (one["round"], one["kept_ratio"]) == (other["round"], other["kept_ratio"])
        assert {**one["values"], "el_10": None} == {**other["values"], "el_10": None}
        if "el_10" in other["values"]:
            assert (one["suppressed"], one["at_level"]) == (other["suppressed"], other["at_level"])
            continue
        damaged = some.method.kept_per_step > 0 and one["kept_ratio"] > floor
        assert one["values"]["ma"] > level or damaged
        assert damaged or not one["suppressed"]
        assert not other["suppressed"]
    assert all_looks[-1]["suppressed"] == quick_looks[-1]["suppressed"]
    assert any("el_10" not in look["values"] for look in quick_looks)


# The command


@pytest.fixture(scope="module")
def searched(model_folders, tmp_path_factory):
    """The folder of a search that went to its end, and its status."""
    folder = tmp_path_factory.mktemp("searched")
    for name, content in SETS.items():
        (folder / name).write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("UNLEARNER_KEY_FILE", str(folder / "key"))
        status = run(Template(SEARCH).substitute(models=model_folders).split())
    return folder / "out/run", status


def report_of(folder="out/run"):
    report = json.loads(Path(folder, "report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    return report


def without_times(trials):
    return [{name: some for name, some in trial.items() if name != "seconds"} for trial in trials]


def counted(monkeypatch, stop_at=math.inf):
    """The numbers of the trials that are run; one of them may be interrupted."""
    numbers, try_it = [], search._try

    def trial(config, settings, number, *rest):
        if number == stop_at:
            raise KeyboardInterrupt
        numbers.append(number)
        return try_it(config, settings, number, *rest)

    monkeypatch.setattr(search, "_try", trial)
    return numbers


@pytest.mark.parametrize("more", ["", "training.lora_rank=4 method.learning_rate=0.02 "])
def test_the_run_after_a_search_is_that_of_the_settings_it_found(call, more):
    """The report has every trial; `forget` with those settings gives the same bytes of weights."""
    status, _, err, _ = call(SEARCH + more)
    report = report_of()
    assert status == (MET if report["verdict"]["status"] == "met" else NOT_MET)
    assert err == ""
    found = report["search"]
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2]
    best = found["trials"][found["chosen"]]
    assert best["score"] == min(trial["score"] for trial in found["trials"])
    assert {name: report["method"][name] for name in best["settings"]} == best["settings"]
    if best["status"] == "reached":  # a hopeless one was cut short, and the run is not
        assert best["rounds"] == report["rounds"][-1]["round"]
    assert report["cost"]["seconds_unlearning"] > sum(t["seconds"] for t in found["trials"])
    chosen = " ".join(f"method.{name}={value!r}" for name, value in best["settings"].items())
    again, *_ = call(f"{NPO}{more}{chosen}".replace("out/run", "out/plain"))
    assert again == status
    assert "search" not in report_of("out/plain")
    assert report_of("out/plain")["results"] == report["results"]
    one, two = (load_file(f"out/{name}/model/model.safetensors") for name in ("run", "plain"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_search_that_was_cut_off_goes_on_behind_its_finished_trials(call, monkeypatch, searched):
    folder, whole = searched
    expected = report_of(folder)
    with monkeypatch.context() as patch:
        numbers = counted(patch, stop_at=2)
        status, _, err, left = call(SEARCH.replace("out/run", "out/cut"))
    assert (status, numbers) == (INTERRUPTED, [0, 1])
    assert err == (
        "unlearner: interrupted; the trials are kept: go on with --output out/cut --resume\n"
    )
    assert "out/cut/checkpoints/search.jsonl" in left
    numbers = counted(monkeypatch)
    status, *_ = call("forget --output out/cut --resume --quiet")
    assert (status, numbers) == (whole, [2])
    report = report_of("out/cut")
    assert report["results"] == expected["results"]
    assert report["search"]["chosen"] == expected["search"]["chosen"]
    assert without_times(report["search"]["trials"]) == without_times(expected["search"]["trials"])
    assert report["cost"]["seconds_evaluation"] >= 0
    assert not Path("out/cut/checkpoints").exists()


def test_a_search_goes_on_with_the_same_settings_only(call, monkeypatch):
    counted(monkeypatch, stop_at=1)
    call(SEARCH)
    status, _, err, _ = call("forget --output out/run --resume --quiet method.beta=0.2")
    assert status == WRONG_INPUT
    assert "method.beta is 0.2 and not 0.1, which the run" in err


def test_a_search_in_which_nothing_reaches_the_criteria_says_so(call):
    """One epoch of a small rate forgets nothing: exit 3, a note, and the nearest is taken."""
    status, *_ = call(SEARCH + "method.max_epochs=1 search.rate_factor=2")
    assert status == NOT_MET
    report = report_of()
    assert report["search"]["reached"] is False
    note = (
        "No settings of the 3 tried reached the criteria on the forget set with kept text under "
        f"the floor; these came nearest (trial {report['search']['chosen']})."
    )
    assert note in report["verdict"]["notes"]
    assert note in " ".join(Path("out/run/report.md").read_text("utf-8").split())


def test_a_run_file_of_a_search_repeats_it(call, searched):
    folder, _ = searched
    status, *_ = call(f"forget --config {folder}/run.yaml --output out/again --quiet")
    one, two = report_of(folder), report_of("out/again")
    assert status == (MET if one["verdict"]["status"] == "met" else NOT_MET)
    assert without_times(one["search"]["trials"]) == without_times(two["search"]["trials"])
    assert one["model"]["digest_unlearned"] == two["model"]["digest_unlearned"]


def test_time_before_a_run_was_cut_off_is_time_of_unlearning(call, monkeypatch):
    """1000 s before: they are in both sums, and measuring takes no less than nothing."""
    monkeypatch.setattr(Trainer, "seconds_before", 1000.0)
    call(NPO + "method.max_epochs=1")
    cost = report_of()["cost"]
    assert 0 < cost["seconds_evaluation"] < 900
    assert cost["seconds_unlearning"] > 1000
    assert cost["seconds"] == pytest.approx(
        cost["seconds_unlearning"] + cost["seconds_evaluation"], abs=0.2
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("search.trials=-1", "search.trials: input should be greater than or equal to 0"),
        ("search.rate_factor=0.5", "search.rate_factor"),
        ("search.seconds=0", "search.seconds"),
        ("search.patience=0", "search.patience"),
        ("search.trial=3", "did you mean 'trials'"),
        ("--method retrain method.pretrained=$models/blank", "method retrain makes the model anew"),
    ],
)
def test_a_wrong_search_is_refused(call, more, words):
    line = RUN + "--quiet --search " + more
    status, out, err, left = call(line)
    assert (status, err.count("\n"), left) == (WRONG_INPUT, 1, [])
    assert words in err
    assert out == ""
