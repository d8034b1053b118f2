"""What experiment trackers get of a run, and what they never get; a failing one ends no run."""

import json
import math
import sys

import pytest
import yaml
from accelerate import tracking as accelerate_tracking
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import classifier_commands
import command_world
from command_world import FORGET, HOLDOUT, RETAIN
from promise import leaks
from unlearner.errors import UserError
from unlearner.settings import TrainingSettings, build, own_name
from unlearner.training import log
from unlearner.training.log import check_trackers, hyper_parameters, scalars, tracked

STEP = {"step": 1, "loss": {"forget": -1.5, "kl": 0.25}}


class Fake(GeneralTracker):
    """A tracker of accelerate's kind that remembers what it is told."""

    name = "fake"
    requires_logging_directory = False
    main_process_only = True
    breaks_in = ""

    def __init__(self, run_name, **options):
        super().__init__()
        self.told, self.options, self.run_name = [], options, run_name
        type(self).last = self

    @property
    def tracker(self):
        return self

    def _do(self, what, *values):
        self.told.append((what, *values))
        if what == self.breaks_in:
            raise OSError("the line\nis down")

    def start(self):
        self._do("start", list(sys.argv))

    def store_init_configuration(self, values):
        self._do("config", values)

    def log(self, values, step=None, **_):
        self._do("log", step, values)

    def finish(self):
        self._do("finish")


@pytest.fixture
def fake(monkeypatch):
    """The class of a tracker called fake, of this test alone."""
    kind = type("Fake", (Fake,), {})
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "fake", kind)
    return kind


def settings(*trackers):
    return TrainingSettings(device="cpu", trackers=trackers)


def told(kind, what):
    return [values for name, *values in kind.last.told if name == what]


def listen_to(lines, work, **options):
    heard = []
    with tracked(heard.append, settings("fake"), {}, work, **options) as listen:
        for line in lines:
            listen(line)
    return heard


# Settings


@pytest.mark.parametrize("given", ["tensorboard", ["tensorboard"], ("tensorboard",)])
def test_a_single_tracker_needs_no_brackets(given):
    built = build(TrainingSettings, {"trackers": given}, where="training")
    assert built.trackers == ("tensorboard",)


def test_an_unknown_tracker_is_refused_and_the_nearest_named():
    with pytest.raises(UserError, match=r"unknown tracker 'tensorbord'; did you mean 'te"):
        check_trackers(("tensorbord",))


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "'unlearner[tensorboard]'"), ("comet_ml", "comet-ml")]
)
def test_a_tracker_that_is_not_installed_is_refused_with_how_to_install_it(
    name, package, monkeypatch
):
    monkeypatch.setattr(accelerate_tracking, "_available_trackers", [])
    with pytest.raises(UserError) as refusal:
        check_trackers((name,))
    assert f"{name} is not installed; `pip install {package}`" in str(refusal.value)


@pytest.mark.parametrize("command", [command_world.RUN, command_world.FINETUNE])
def test_a_command_refuses_a_tracker_before_it_loads_a_model(command, call, monkeypatch):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("unlearner.families.causal_lm.load_causal_lm", load)
    monkeypatch.setattr("unlearner.cli.finetune.load_causal_lm", load)
    status, _, err, left = call(command + "training.trackers=[tensorboard,wandbee]")
    assert (status, left) == (2, [])
    assert err.startswith("unlearner: training.trackers: unknown tracker 'wandbee'; did you mean ")
    assert err.count("\n") == 1


# Lines as figures


def test_a_step_gives_each_term_of_its_loss():
    assert scalars(STEP) == {"loss/forget": -1.5, "loss/kl": 0.25}


def test_a_round_gives_its_numbers_and_leaves_out_what_is_none():
    line = {
        "round": 3,
        "active": 2,
        "el_10": None,
        "ma": 0.5,
        "loss": {"kl": 0.25},
        "done": True,
        "phase": "deletion",
        "seconds": math.nan,
        "retain_perplexity": math.inf,
    }
    assert scalars(line) == {
        "round/number": 3,
        "round/active": 2,
        "round/ma": 0.5,
        "round/loss/kl": 0.25,
    }


def test_rounds_are_placed_at_the_step_that_they_follow(fake, tmp_path):
    """Round 0 comes before any step; a shard of SISA is neither step nor round."""
    lines = [
        {"round": 0, "ma": 1.0},
        STEP,
        {"step": 2, "loss": {"kl": 0.5}},
        {"shard": 0, "loss": {}},
        {"round": 1, "ma": 0.5},
        {"round": 2, "steps": 7, "ma": 0.25},
    ]
    assert listen_to(lines, tmp_path) == lines
    assert told(fake, "log") == [
        [0, {"round/number": 0, "round/ma": 1.0}],
        [1, {"loss/forget": -1.5, "loss/kl": 0.25}],
        [2, {"loss/kl": 0.5}],
        [2, {"round/number": 1, "round/ma": 0.5}],
        [7, {"round/number": 2, "round/steps": 7, "round/ma": 0.25}],
    ]


def test_a_round_at_an_unknown_step_is_left_out(fake, tmp_path):
    """A run that goes on may begin with one, which is not round 0: its step is not known yet."""
    listen_to([{"round": 4, "ma": 0.5}, {"step": 9, "loss": {"kl": 0.5}}], tmp_path)
    assert told(fake, "log") == [[9, {"loss/kl": 0.5}]]


# What a tracker is told of the run


def test_hyper_parameters_are_plain_values_by_section_and_key():
    found = hyper_parameters(
        {"method": {"name": "icu", "rate": 1e-3, "bound": None, "fresh": True, "some": ("a", "b")}}
    )
    assert found == {
        "method.name": "icu",
        "method.rate": 1e-3,
        "method.fresh": True,
        "method.some": "('a', 'b')",
    }


def test_a_local_path_is_told_by_its_last_part_and_a_hub_id_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "encoder").mkdir(parents=True)
    assert own_name(str(tmp_path / "secret" / "encoder")) == "encoder"
    assert own_name("secret/encoder/") == "encoder"
    assert own_name("secret/..") == tmp_path.name
    for other in ("owner/encoder", "secret", "auto", "", None, 3, ("a",)):
        assert own_name(other) == other


def test_a_service_does_not_see_the_command_line(fake, tmp_path, monkeypatch):
    given = ["unlearner", "forget", "--forget", "people.jsonl"]
    monkeypatch.setattr(sys, "argv", given)
    listen_to([STEP], tmp_path)
    assert told(fake, "start") == [[["unlearner"]]]
    assert sys.argv is given


def test_services_are_told_where_to_write_and_not_to_look_at_a_git_folder(tmp_path):
    """Changed files of a git folder may be the records."""
    for name in ("wandb", "dvclive", "swanlab"):
        options = log._service_options(name, tmp_path)
        assert str(tmp_path) in options.values(), name
    assert log._service_options("wandb", tmp_path)["settings"]["disable_git"] is True
    assert log._service_options("dvclive", tmp_path)["save_dvc_exp"] is False


# Ways to end


def test_a_tracker_that_fails_is_dropped_with_one_line_and_the_run_goes_on(fake, tmp_path, caplog):
    fake.breaks_in = "log"
    lines = [STEP, {**STEP, "step": 2}]
    assert listen_to(lines, tmp_path) == lines
    assert [name for name, *_ in fake.last.told] == ["start", "config", "log", "finish"]
    (record,) = caplog.records
    assert record.getMessage() == (
        "training.trackers: fake failed (OSError: the line is down); the run goes on without it"
    )


def test_one_that_fails_leaves_the_others(fake, tmp_path, monkeypatch):
    fake.breaks_in = "log"
    other = type("Other", (Fake,), {"name": "other"})
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "other", other)
    with tracked(lambda _: None, settings("fake", "other"), {}, tmp_path) as listen:
        listen(STEP)
        listen({**STEP, "step": 2})
    assert len(told(fake, "log")) == 1
    assert [step for step, _ in told(other, "log")] == [1, 2]


def test_one_that_fails_at_the_end_is_a_warning(fake, tmp_path, caplog):
    fake.breaks_in = "finish"
    assert listen_to([STEP], tmp_path) == [STEP]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("place", ["start", "config"])
def test_one_that_does_not_start_is_refused_and_those_before_it_end(
    fake, place, tmp_path, monkeypatch
):
    other = type("Other", (Fake,), {"name": "other", "breaks_in": place})
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "other", other)
    with (
        pytest.raises(UserError, match=r"other did not start \(OSError: the line is down\); fix"),
        tracked(print, settings("fake", "other"), {}, tmp_path),
    ):
        raise AssertionError("the block must not run")
    assert told(fake, "finish") == [[]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_trackers_end_with_a_run_that_dies(fake, error, tmp_path):
    with pytest.raises(error), tracked(print, settings("fake"), {}, tmp_path):
        raise error
    assert told(fake, "finish") == [[]]


def test_of_several_processes_one_tracks(fake, tmp_path):
    assert listen_to([STEP], tmp_path, main=False) == [STEP]
    assert not hasattr(fake, "last")
    assert list(tmp_path.iterdir()) == []


def test_without_trackers_the_listener_is_the_listener_itself(tmp_path):
    with tracked(print, settings(), {}, tmp_path) as listen:
        assert listen is print


# Whole runs, read back as TensorBoard reads them


def scalars_on_disk(folder):
    """Figures by name, as (step, value), of the run's event files."""
    (file,) = folder.glob("tracking/unlearner/events.*")
    events = EventAccumulator(str(file)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def expected(log):
    """The same from the lines of log.jsonl."""
    figures, step = {}, 0
    for line in log:
        step = line.get("step", line.get("steps", step))
        for name, value in scalars(line).items():
            figures.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    return figures


def hyper_parameters_on_disk(folder):
    (file,) = folder.glob("tracking/unlearner/*/hparams.yml")
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("family", ["texts", "labels"])
def test_tensorboard_has_what_the_log_of_forget_has(family, call, call_classifier, tmp_path):
    run, line, short = (
        (call, command_world.RUN, command_world.SHORT)
        if family == "texts"
        else (call_classifier, classifier_commands.RUN, classifier_commands.SHORT)
    )
    status, _, err, left = run(f"{line}--force {short} training.trackers=tensorboard")
    assert status in (0, 3), err
    output = tmp_path / "out" / "run"
    log = [json.loads(one) for one in (output / "log.jsonl").read_text().splitlines()]
    found = scalars_on_disk(output)
    assert found == expected(log)
    terms = {f"loss/{term}" for one in log if "step" in one for term in one["loss"]}
    assert len(terms) > 1
    assert terms < set(found)
    assert ("round/ma" if family == "texts" else "round/forget_score") in found
    told_of = hyper_parameters_on_disk(output)
    assert told_of["method.name"] == ("icu" if family == "texts" else "deepcut")
    assert told_of["training.seed"] == 0
    traces = [*FORGET, *RETAIN, *HOLDOUT, "forget.jsonl", str(tmp_path)]
    assert leaks(output / "tracking", traces, words=3) == []
    for file in (output / "tracking").rglob("*"):
        if file.is_file():
            assert not any(trace.encode() in file.read_bytes() for trace in traces[-2:]), file
    assert [name for name in left if name.startswith("out/") and ".partial" in name] == []
    config = yaml.safe_load((output / "run.yaml").read_text())
    assert config["training"]["trackers"] == ["tensorboard"]


@pytest.mark.parametrize("family", ["texts", "labels"])
def test_tensorboard_has_the_steps_of_finetune(family, call, call_classifier, tmp_path):
    """6 texts, or 32 labelled records, in batches of 4 and 2 epochs: 2 * 2 or 2 * 8 steps."""
    run, line, steps = (
        (call, command_world.FINETUNE, 4)
        if family == "texts"
        else (call_classifier, classifier_commands.FINETUNE, 16)
    )
    status, _, err, _ = run(f"{line}--quiet trackers=[tensorboard] epochs=2 batch_size=4")
    assert status == 0, err
    found = scalars_on_disk(tmp_path / "out" / "run")
    assert [step for step, _ in found["loss/loss"]] == list(range(1, steps + 1))
    assert found["round/number"] == [(steps // 2, 1.0), (steps, 2.0)]
    assert hyper_parameters_on_disk(tmp_path / "out" / "run")["finetune.batch_size"] == 4
