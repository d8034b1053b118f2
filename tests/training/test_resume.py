"""A run that was cut off goes on and ends with the bytes that it would have had."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from test_icu import LOW, tokenized, unlearning_data
from torch import nn

from classifier_world import (
    SEQUENCE,
    TOKEN,
    labelled,
    recipe_from,
    save_encoder,
    tiny_classifier,
    tiny_data,
    toy_tokenizer,
)
from conftest import tiny_model
from unlearner import registry
from unlearner.errors import Interrupted, UserError
from unlearner.methods.base import load_method
from unlearner.methods.icu import ICU
from unlearner.methods.quantile_matching import QuantileMatching
from unlearner.metrics.base import CLASSIFIERS
from unlearner.settings import TrainingSettings
from unlearner.training.checkpoints import Checkpoints, Journal, TrainingError
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    FinetuneSettings,
    Until,
    finetune_model,
)
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)


class CutError(Exception):
    """The machine goes down."""


def cut_at(step):
    def listen(line):
        if line.get("step") == step:
            raise CutError

    return listen


def trainer(folder, *, cut=None, run=None, every=1, **settings):
    """A trainer with checkpoints in `folder`, which dies behind the step `cut`.

    The log's listener is called before the checkpoint of its step is written.
    """
    folder.mkdir(exist_ok=True)
    log = Log(folder / "log.jsonl", cut_at(cut) if cut else None)
    chosen = TrainingSettings(device="cpu", checkpoint_every=every, **settings)
    some = Trainer(chosen, log)
    some.journal = Journal(Checkpoints(folder / "checkpoints", run or {}), every, log.path)
    return some


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def lines(folder):
    """The log without its times."""
    found = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def check_every_cut(tmp_path, unlearn, cuts, **settings):
    """Cut off behind each of some steps, resumed: weights, log, counts as of the whole run."""
    torch.manual_seed(7)
    whole = trainer(tmp_path / "whole", **settings)
    expected = weights(unlearn(whole))
    for cut in cuts or range(1, whole.steps + 1):
        folder = tmp_path / str(cut)
        torch.manual_seed(7)
        with pytest.raises(CutError):
            unlearn(trainer(folder, cut=cut, **settings))
        torch.manual_seed(7)
        resumed = trainer(folder, **settings)
        assert resumed.resume() == cut - 1
        assert torch.equal(weights(unlearn(resumed)), expected)
        assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)
        assert lines(folder) == lines(tmp_path / "whole")
    return whole


# A loop of one's own


def wander(some):
    """Dropout, draws of both kinds, a schedule, a look that decides, and weights kept."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    net = some.start(net, 0.1, dropout=True, schedule=lambda step: 1 / (1 + step))
    found = []
    for number in range(5):
        data = torch.randn(8, 3, generator=some.generator)

        def loss(data=data):
            noise = torch.randn(8, 1, generator=some.draws)
            return {"a": (net(data) - noise).square().mean()}

        some.step(loss)
        found.append(some.evaluate_round(lambda: float(net[0].weight.detach().sum())))
        if found[-1] == min(found):
            some.keep(net)
        some.log_round({"round": number, "sum": found[-1]})
    some.restore(net)
    return net


def test_a_loop_goes_on_from_every_step(tmp_path):
    check_every_cut(tmp_path, wander, None)


def test_a_checkpoint_every_third_step_repeats_nothing_else(tmp_path):
    """Cut off in step 5, the checkpoint is that of step 3: two are computed again."""
    folder = tmp_path / "run"
    with pytest.raises(CutError):
        wander(trainer(folder, cut=5, every=3))
    resumed = trainer(folder, every=3)
    assert resumed.resume() == 3
    computed = []
    resumed.log.listener = lambda line: computed.append(line.get("step"))
    wander(resumed)
    assert [step for step in computed if step] == [4, 5]


def test_never_and_auto_write_nothing_in_a_short_run(tmp_path):
    for every in ("never", "auto"):
        wander(trainer(tmp_path / every, every=every))
        assert not (tmp_path / every / "checkpoints").exists()


def test_auto_saves_once_a_minute_and_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    """Steps of 25 seconds: behind 75, 150, ... Where saving takes 10 s, 200 s lie between two."""
    clock = {"now": 0.0}
    monkeypatch.setattr("unlearner.training.checkpoints.time.perf_counter", lambda: clock["now"])
    for cost, expected in ((0.0, [3, 6, 9, 12]), (10.0, [3, 12])):
        clock["now"] = 0.0
        some = trainer(tmp_path / str(cost), every="auto")
        saved = []

        def save(*_, saved=saved, some=some, cost=cost):
            saved.append(some.steps)
            clock["now"] += cost

        monkeypatch.setattr(some.journal.checkpoints, "save", save)
        net = some.start(nn.Linear(1, 1), 0.1)
        for _ in range(12):
            clock["now"] += 25.0
            some.step(lambda net=net: {"a": net.weight.sum()})
        assert saved == expected


def test_only_the_last_checkpoint_stays(tmp_path):
    wander(trainer(tmp_path / "run"))
    left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert left == {"run.json", "step-000000009"}  # steps and looks: the ninth is step 5


def test_what_was_half_written_is_not_taken_for_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(CutError):
        wander(trainer(folder, cut=4))
    (folder / "checkpoints" / "step-000000099.partial").mkdir()
    resumed = trainer(folder)
    assert resumed.resume() == 3
    wander(resumed)


def test_other_settings_or_data_are_refused_by_name(tmp_path):
    with pytest.raises(CutError):
        wander(trainer(tmp_path / "run", cut=3, run={"settings": {"seed": {"a": 1}}, "b": 2}))
    other = trainer(tmp_path / "run", run={"settings": {"seed": {"a": 3}}, "b": 2})
    with pytest.raises(UserError, match=r"^--resume: seed\.a is 3 and not 1, which the run in"):
        other.resume()


def test_a_loop_that_does_something_else_is_noticed(tmp_path):
    """One more draw before the first step, and the data are no longer those of the checkpoint."""
    with pytest.raises(CutError):
        wander(trainer(tmp_path / "run", cut=3))
    resumed = trainer(tmp_path / "run")
    resumed.resume()
    torch.randn(1, generator=resumed.generator)
    with pytest.raises(TrainingError, match="does not repeat"):
        wander(resumed)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    with pytest.raises(CutError):
        wander(trainer(tmp_path / "run", cut=3))
    (state,) = (tmp_path / "run" / "checkpoints").glob("step-*/weights.safetensors")
    state.write_bytes(state.read_bytes()[:20])
    with pytest.raises(UserError, match="the checkpoint cannot be read"):
        trainer(tmp_path / "run").resume()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_finishes_the_step_and_saves(tmp_path, number):
    some = trainer(tmp_path / "run", every="never")
    some.log.listener = lambda line: os.kill(os.getpid(), number) if line.get("step") == 2 else None
    with pytest.raises(Interrupted, match="after 2 steps"), some.journal.stoppable():
        wander(some)
    assert trainer(tmp_path / "run").resume() == 2


def test_told_twice_it_stops_at_once(tmp_path):
    some = trainer(tmp_path / "run")
    net = some.start(nn.Linear(1, 1), 0.1)

    def loss():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return {"a": net.weight.sum()}

    with pytest.raises(KeyboardInterrupt), some.journal.stoppable():
        some.step(loss)


# Every method


FAST = {"learning_rate": 1e-3}
STEPPING = {"max_epochs": 2, "stop": "never"} | FAST
SETTINGS = {
    "deepcut": {"max_epochs": 1, "stop": "never", "batch_size": 3, "repair_steps": 2} | FAST,
    "retrain": {},
    "sisa": {"num_shards": 2, "num_slices": 2},
}


def class_methods():
    return [
        name
        for name in registry.names("methods")
        if set(load_method(name).families) & set(CLASSIFIERS)
    ]


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
@pytest.mark.parametrize("name", class_methods())
def test_every_method_for_classifiers_goes_on(tmp_path, name, family):
    """Cut off early, in the middle and in the last step, with dropout and adapters on and off."""
    method = load_method(name)(**SETTINGS.get(name, STEPPING))
    recipe = recipe_from(save_encoder(tmp_path / "encoder"), epochs=1)

    def unlearn(some):
        data = tiny_data(family, sizes=(6, 12, 6), recipe=recipe)
        return some.finish(method.unlearn(tiny_classifier(family), data, some))

    whole = trainer(tmp_path / "count")
    unlearn(whole)
    cuts = sorted({2, whole.steps // 2, whole.steps})
    check_every_cut(tmp_path, unlearn, cuts)


@pytest.mark.parametrize("rank", [0, 2])
def test_icu_goes_on_also_where_the_best_round_is_an_earlier_one(tmp_path, tokenizer, rank):
    def unlearn(some):
        forget, pool = tokenized("forget", (14, 9, 20), 3), tokenized("pool", (10, 16, 12, 8), 4)
        method = ICU(max_epochs=3, learning_rate=5e-3, batch_size=2, fresh_per_step=2)
        data = unlearning_data(tokenizer, forget, pool, LOW)
        return some.finish(method.unlearn(tiny_model("gpt_neo"), data, some))

    whole = check_every_cut(tmp_path, unlearn, None, lora_rank=rank)
    assert whole.steps == 6


@pytest.mark.parametrize("rank", [0, 2])
def test_quantile_matching_goes_on_with_the_quantiles_that_it_had(tmp_path, tokenizer, rank):
    """Cut off between two refreshes, on the way back and with its schedule."""

    def unlearn(some):
        forget, pool = tokenized("forget", (14, 9, 20), 3), tokenized("pool", (10, 16, 12, 8), 4)
        unseen = tokenized("holdout", (11, 9, 13), 5)
        method = QuantileMatching(
            learning_rate=5e-3,
            min_steps=6,
            max_epochs=3,
            batch_size=2,
            refresh_every=4,
            steps_per_round=3,
        )
        method = method.model_copy(update={"steps_per_round": 3})
        data = unlearning_data(tokenizer, forget, pool, LOW)
        data = replace(data, partners=unseen, unseen=pool)
        return some.finish(method.unlearn(tiny_model("gpt_neo"), data, some))

    whole = check_every_cut(tmp_path, unlearn, None, lora_rank=rank)
    assert whole.steps == 6


def test_finetuning_goes_on_with_its_schedule_and_its_goal(tmp_path, tokenizer):
    records = tokenized("records", (9, 7, 8, 6), 3)
    settings = FinetuneSettings(epochs=3, batch_size=2, learning_rate=1e-3)

    def learn(some):
        goal = Until.parse("ma>=1")
        return finetune_model(tiny_model("gpt2"), tokenizer, records, settings, some, goal).model

    check_every_cut(tmp_path, learn, None)


def test_finetuning_a_classifier_goes_on(tmp_path):
    records, settings = labelled(12), ClassifierFinetuneSettings(epochs=2, batch_size=4)

    def learn(some):
        model = tiny_classifier()
        return finetune_model(model, toy_tokenizer(), records, settings, some).model

    check_every_cut(tmp_path, learn, None)
