"""What a run takes: the first guess and the time by hand, the largest step, and what it leaves."""

import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier_world import SEQUENCE, TOKEN, labelled, tiny_classifier, toy_tokenizer
from conftest import ARCHITECTURES, VOCAB, tiny_model, tiny_tokenizer
from in_processes import in_processes
from unlearner.config import RunConfig
from unlearner.data.record import Record, RecordSet
from unlearner.families import CAUSAL_LM
from unlearner.families.causal_lm_sets import prepare_text
from unlearner.models.ensemble import make_ensemble
from unlearner.models.layerwise_casting import cast_layers, has_cast_layers
from unlearner.models.loading import Loaded, num_parameters
from unlearner.provenance import digest_model
from unlearner.settings import DataSettings, TrainingSettings
from unlearner.training import memory
from unlearner.training.memory import (
    CHECKPOINT,
    SAVED,
    STEP,
    Cost,
    measure_step,
    measuring,
    plan_run,
)

SIZES = {"forget": (3, 12), "retain": (5, 10), "holdout": (2, 20)}
MIB = 1 << 20


def texts(model=None, **sizes):
    """A model and sets of so many records of so many tokens each, all different."""
    draw, sets = np.random.default_rng(0), {}
    for role, (count, length) in (sizes or SIZES).items():
        ids = [tuple(draw.integers(2, VOCAB, length).tolist()) for _ in range(count)]
        some = tuple(Record(f"{role}{i}", input_ids=each) for i, each in enumerate(ids))
        sets[role] = RecordSet(role, some, "memory")
    loaded = Loaded(model or tiny_model("gpt2"), tiny_tokenizer(), "t")
    return prepare_text(CAUSAL_LM, loaded, sets, DataSettings())


def plan(some, *, family="causal-lm", evaluation=Cost(0, 0.0), training=None, **method):  # noqa: B008
    """The plan of a run with these settings; `some` has a model and its sets."""
    sections = {"method": method, "training": {"device": "cpu"} | (training or {})}
    config = RunConfig.from_sections(sections, family=family)
    chosen = config.method.for_family(family)
    measured = {role: one for role, one in some.sets.items() if role != "pool"}
    return plan_run(some.loaded, some.sets, measured, chosen, config.training, evaluation)


class Labelled:
    """A classifier and its sets, as `families.classifier.Prepared`."""

    def __init__(self, family=SEQUENCE, model=None, forget=9):
        self.loaded = Loaded(model or tiny_classifier(family), toy_tokenizer(), "t")
        self.sets = {
            "forget": labelled(forget, family, "forget"),
            "retain": labelled(24, family, "retain"),
            "holdout": labelled(30, family, "holdout"),
        }


@pytest.fixture
def measured(monkeypatch):
    """In place of the measurement: 700 bytes and 6 seconds; the losses that it was asked for."""
    losses = []

    def measure(_, loss, settings):
        losses.append((loss, settings))
        return Cost(700, 6.0)

    monkeypatch.setattr(memory, "measure_step", measure)
    return losses


def batches(monkeypatch):
    """The windows of every batch that goes forward."""
    found = []
    real = memory.share_of
    monkeypatch.setattr(
        memory, "share_of", lambda windows, device: found.append(windows) or real(windows, device)
    )
    return found


# The first guess


@pytest.mark.usefixtures("measured")
def test_the_first_guess_by_hand():
    """Four numbers of 4 bytes a weight but the step, and two for the way back; ICU keeps the output
    layer for what is measured and once more for its loss; 50 + 40 + 2 * 50 states of 32."""
    some = texts()
    whole, output = 4 * num_parameters(some.loaded.model), 4 * VOCAB * 32
    found = plan(some, name="icu").parts
    assert found.pop("held already") == pytest.approx(memory.held_bytes(torch.device("cpu")), 0.1)
    assert found == {
        "gradients": whole,
        "optimiser moments": 2 * whole,
        "best weights": whole,
        "adapters": 0,
        "further models": 2 * whole,
        "reference outputs": 2 * output,
        "reference states": 4 * 190 * 32,
        STEP: 700,
        CHECKPOINT: 3 * whole,
        SAVED: whole,
    }


@pytest.mark.usefixtures("measured")
def test_with_adapters_only_they_are_trained():
    """GPT-2: 32 -> 96, 32 -> 32, 32 -> 128, 128 -> 32 in each of two blocks, rank 4."""
    adapter = 4 * 4 * 2 * (128 + 64 + 160 + 160)
    some = texts()
    found = plan(some, name="npo", training={"lora_rank": 4}).parts
    for name, number in (
        ("gradients", adapter),
        ("optimiser moments", 2 * adapter),
        ("best weights", adapter),
        ("adapters", adapter),
        (CHECKPOINT, 3 * adapter),
        (SAVED, 4 * num_parameters(some.loaded.model)),
    ):
        assert found[name] == number, name


@pytest.mark.usefixtures("measured")
def test_layers_held_in_sixteen_bits_take_half_unless_they_are_trained():
    """Then they are float32 from the step on, and so are the copies for the way back; what is
    saved is loaded as the target was."""
    model = tiny_model("llama")
    cast_layers(model, torch.bfloat16, rounded=True)
    whole, held = 4 * num_parameters(model), sum(one.nbytes for one in model.parameters())
    short = sum(one.nbytes for one in model.parameters() if one.dtype == torch.bfloat16)
    some = texts(model)
    found = plan(some, name="icu", training={"lora_rank": 4}).parts
    assert (found["further models"], found[SAVED]) == (0, held)
    assert "float32 weights" not in found
    assert has_cast_layers(model)
    found = plan(some, name="icu").parts
    assert (found["float32 weights"], held + short) == (short, whole)
    assert (found["further models"], found["gradients"]) == (2 * whole, whole)
    assert not has_cast_layers(model)


def test_adapters_count_as_those_that_are_made():
    some = texts(tiny_model("llama"))
    found = plan(some, name="npo", training={"lora_rank": 3}).parts["adapters"]
    memory.adapters.attach(some.loaded.model, 3, None)
    trained = [one for one in some.loaded.model.parameters() if one.requires_grad]
    assert found == sum(one.nbytes for one in trained)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("method", "models", "with_adapters"),
    [("deepcut", 0, 0), ("scrub", 1, 0), ("bad_teacher", 2, 1)],
)
def test_teachers_are_further_models(method, models, with_adapters):
    """With adapters the target is the model itself with its adapters off."""
    some = Labelled()
    whole = 4 * num_parameters(some.loaded.model)
    found = plan(some, family=SEQUENCE, name=method).parts
    assert found["further models"] == models * whole
    assert "reference outputs" not in found
    found = plan(some, family=SEQUENCE, name=method, training={"lora_rank": 2}).parts
    assert found["further models"] == with_adapters * whole


@pytest.mark.usefixtures("measured")
def test_shards_and_the_weights_before_slices_are_further_models():
    """Five shards and three slices; the saved model is all shards. A model made anew beside one."""
    some = Labelled()
    whole = 4 * num_parameters(some.loaded.model)
    found = plan(some, family=SEQUENCE, name="sisa").parts
    assert (found["further models"], found[SAVED]) == (8 * whole, 5 * whole)
    found = plan(texts(), name="retrain", pretrained="base").parts
    assert found["further models"] == found[SAVED]


@pytest.mark.usefixtures("measured")
def test_the_saved_model_is_measured_as_the_target_was():
    one, other = (plan(texts(), evaluation=Cost(number, 0.0), name="npo") for number in (0, 500))
    assert other.parts[SAVED] == one.parts[SAVED] + 500


@pytest.mark.usefixtures("measured")
def test_the_peak_is_the_largest_moment_and_not_the_sum_of_all():
    """A checkpoint holds three times the weights; without one the saved model; then the step."""
    some = texts()
    always = {CHECKPOINT, SAVED, STEP}
    found = plan(some, name="npo")
    assert (found.moment, always & found.peak.keys()) == (CHECKPOINT, {CHECKPOINT})
    found = plan(some, name="npo", training={"checkpoint_every": "never"})
    assert found.parts[CHECKPOINT] == 0
    assert (found.moment, always & found.peak.keys()) == (SAVED, {SAVED})
    found.parts[STEP] = found.parts[SAVED] + 1
    assert (found.moment, always & found.peak.keys()) == (STEP, {STEP})
    assert found.parts.keys() - found.peak.keys() == {CHECKPOINT, SAVED}


@pytest.mark.usefixtures("measured")
def test_the_plan_divides_what_training_adds(monkeypatch):
    """Of 4 processes that divide the model each has a quarter, and the saved model whole."""
    some = texts()
    whole = plan(some, name="npo").parts
    monkeypatch.setattr(memory.sharding, "wanted", lambda: True)
    monkeypatch.setattr(memory.processes, "count", lambda: 4)
    for name in ("gather", "from_main"):
        monkeypatch.setattr(
            memory.processes, name, lambda value, name=name: [value] if name == "gather" else value
        )
    divided = plan(some, name="npo").parts
    for name in ("gradients", "optimiser moments", "best weights"):
        assert divided[name] == whole[name] // 4
    assert divided[SAVED] == whole[SAVED]


def test_of_several_processes_the_largest_step_counts(monkeypatch):
    monkeypatch.setattr(memory, "measure_step", lambda *_: Cost(700, 6.0))
    others = [Cost(900, 6.0), Cost(800, 6.0)]
    monkeypatch.setattr(memory.processes, "gather", lambda value: [value, *others])
    assert plan(texts(), name="npo").parts[STEP] == 900
    monkeypatch.setattr(memory.processes, "gather", lambda value: [value, Cost(900, math.nan)])
    assert math.isnan(plan(texts(), name="npo").seconds_per_epoch)


# The largest step, and the time of an epoch


def test_a_step_holds_the_largest_records_and_kept_windows_with_the_longest(measured, monkeypatch):
    """2 forget windows of 12 and 4 of the 5 kept ones, one of them that of 14 tokens."""
    some, found = texts(forget=(3, 12), retain=(4, 10), pool=(5, 14)), batches(monkeypatch)
    plan(some, name="icu", batch_size=2, fresh_per_step=4)
    measured[0][0]()
    assert sorted(map(len, found[0])) == [12, 12, 14, 14, 14, 14]
    assert len({window.id for window in found[0]}) >= 4


def test_a_record_of_many_windows_counts_with_all_of_them(measured, monkeypatch):
    """40 tokens in windows of 16: the model made here has 16 positions."""
    model = tiny_model("gpt2")
    model.config.n_positions = 16
    some, found = texts(model, forget=(3, 40), retain=(2, 10)), batches(monkeypatch)
    per_record = len(some.sets["forget"].windows) // 3
    assert per_record > 1
    plan(some, name="gradient_ascent", batch_size=2)
    measured[0][0]()
    assert len(found[0]) == 2 * per_record


def test_companions_go_forward_beside_forget_records(measured, monkeypatch):
    some, found = texts(), batches(monkeypatch)
    plan(some, name="dpo", batch_size=3)
    measured[0][0]()
    config = RunConfig.from_sections({"method": {"name": "dpo", "batch_size": 3}})
    kept = min(5, config.method.kept_per_step)
    assert len(found[0]) == 3 * config.method.windows_per_record + kept


def test_a_classifiers_step_has_views_of_both_sets(measured, monkeypatch):
    """2 forget records twice and 3 remaining ones; a method without those draws from all."""
    encoded = []
    monkeypatch.setattr(
        memory.Classifier, "encode", lambda _, examples: encoded.append(examples) or exit_early()
    )

    def exit_early():
        raise StopIteration

    for settings, count in (
        ({"name": "deepcut", "batch_size": 2, "retain_batch_size": 3, "retain_views": 1}, 7),
        ({"name": "finetune", "batch_size": 20}, 20),
        ({"name": "retrain"}, 24),
    ):
        plan(Labelled(forget=4), family=SEQUENCE, **settings)
        with pytest.raises(StopIteration):
            measured.pop()[0]()
        assert len(encoded.pop()) == count, settings


def test_the_largest_of_many_draws_is_larger_than_the_mean_and_holds_the_longest():
    groups = [[range(number)] for number in range(1, 101)]
    drawn = memory._largest(groups, 10)
    assert len(drawn) == 10
    assert range(100) in drawn
    assert 10 * 50.5 < sum(map(len, drawn)) < 10 * 95
    assert memory._largest(groups, 0) == []
    assert len(memory._largest(groups, 1000)) == 100


@pytest.mark.usefixtures("measured")
def test_seconds_of_an_epoch_by_hand():
    """3 records of 12 tokens in 2 steps, each with 4 kept windows of 10: 36 + 2 * 40 = 116 tokens.

    A third for the watched 5 * 10 tokens: 116 + 16.67. The step of 6 s has 2 * 12 + 4 * 10 = 64
    tokens. Evaluating took 2.52 s for 36 + 50 + 40 tokens, so 0.72 for the forget set.
    """
    method = {"name": "icu", "batch_size": 2, "fresh_per_step": 4, "max_epochs": 7}
    found = plan(texts(), evaluation=Cost(0, 2.52), **method)
    assert found.seconds_per_epoch == pytest.approx((116 + 50 / 3) / 64 * 6 + 0.72)
    assert found.max_epochs == 7


@pytest.mark.usefixtures("measured")
def test_a_step_holds_no_more_kept_windows_than_there_are():
    """All 5: 36 + 2 * 50 = 136 tokens, in a step 24 + 50; 2 partners of 2 records: 76, in 44."""
    found = plan(texts(), name="icu", batch_size=2, fresh_per_step=99)
    assert found.seconds_per_epoch == pytest.approx((136 + 50 / 3) / 74 * 6)
    found = plan(texts(), name="icu", batch_size=2, fresh_per_step=99, pairs="fixed")
    assert found.seconds_per_epoch == pytest.approx((76 + 50 / 3) / 44 * 6)


@pytest.mark.usefixtures("measured")
def test_a_method_that_trains_anew_has_its_own_epochs():
    assert plan(Labelled(), family=SEQUENCE, name="retrain").max_epochs == 10
    assert plan(Labelled(), family=SEQUENCE, name="retrain", epochs=3).max_epochs == 3
    assert plan(Labelled(), family=SEQUENCE, name="deepcut", max_epochs=7).max_epochs == 7
    assert plan(texts(), name="retrain", pretrained="base").max_epochs == 30


def test_one_forget_record_and_nothing_else_can_be_planned():
    found = plan(texts(forget=(1, 12)), name="gradient_ascent")
    assert 0 < found.seconds_per_epoch < math.inf


# Measured for real


def state(model):
    """All that a step could leave behind, by name."""
    modules = dict(model.named_modules())
    return {
        "bytes": digest_model(model),
        "kinds": {name: type(module) for name, module in modules.items()},
        "modules": {
            name: {key: value for key, value in vars(module).items() if key != "_parameters"}
            for name, module in modules.items()
        },
        "hooks": {
            name: [len(value) for key, value in vars(module).items() if key.endswith("hooks")]
            for name, module in modules.items()
        },
        "trained": {name: one.requires_grad for name, one in model.named_parameters()},
        "gradients": {name: one.grad for name, one in model.named_parameters()},
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
    }


SETTINGS = [
    {},
    {"lora_rank": 2},
    {"gradient_checkpointing": True},
    {"precision": "bfloat16", "gradient_checkpointing": True, "lora_rank": 2},
]


def unchanged(model, run):
    before = state(model)
    run()
    after = state(model)
    for name, value in before.items():
        if name == "modules":
            for module, values in value.items():
                assert values.keys() == after[name][module].keys(), module
                plain = {key: one for key, one in values.items() if isinstance(one, (bool, float))}
                assert plain == {key: after[name][module][key] for key in plain}, module
        else:
            assert after[name] == value, name


@pytest.mark.parametrize("training", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_the_step_leaves_nothing_behind(kind, training):
    model = tiny_model(kind)
    unchanged(model, lambda: plan(texts(model), name="icu", training=training))


@pytest.mark.parametrize("training", SETTINGS, ids=str)
@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_the_step_of_a_classifier_with_dropout_leaves_nothing_behind(family, training):
    """Dropout draws from the global generator, which is put back."""
    some = Labelled(family)
    assert some.loaded.model.config.hidden_dropout_prob > 0
    unchanged(
        some.loaded.model,
        lambda: plan(some, family=family, name="deepcut", training=training),
    )


def test_an_ensemble_can_be_planned():
    model = make_ensemble([tiny_classifier() for _ in range(2)], SEQUENCE)
    unchanged(model, lambda: plan(Labelled(model=model), family=SEQUENCE, name="deepcut"))


def test_a_step_that_fails_leaves_nothing_behind_either():
    model = tiny_model("llama")
    settings = TrainingSettings(lora_rank=2, gradient_checkpointing=True)

    def loss():
        assert memory.adapters.has_adapters(model)
        assert model.training
        torch.rand(1)
        raise RuntimeError("another fault")

    def run():
        with pytest.raises(RuntimeError, match="another fault"):
            measure_step(Loaded(model, None, ""), loss, settings)

    unchanged(model, run)


def test_gradients_that_were_there_are_there_again():
    model = tiny_model("gpt2")
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    plan(texts(model), name="npo")
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize("model_name", ["gpt2", "opt"])
def test_the_model_is_as_training_has_it(model_name):
    """Adapters, the lower precision, and training mode only where checkpointing needs it."""
    seen = []

    def look(model):
        def loss():
            rates = [one.p for one in model.modules() if isinstance(one, torch.nn.Dropout)]
            seen.append((model.training, any(rates), torch.is_autocast_enabled("cpu")))
            return sum(one.sum() for one in model.parameters() if one.requires_grad)

        return loss

    for settings in SETTINGS:
        model = tiny_model(model_name)
        measure_step(Loaded(model, None, ""), look(model), TrainingSettings(**settings))
    assert [training for training, _, _ in seen] == [False, False, True, True]
    assert [lower for _, _, lower in seen] == [False, False, False, True]
    assert not any(rates for training, rates, _ in seen if training)


def test_the_peak_is_what_comes_and_goes():
    """50 MiB and then 30 more, of which nothing stays; the most of both together is 80."""

    before = memory.held_bytes(torch.device("cpu"))
    with measuring(torch.device("cpu")) as found:
        one = torch.ones(50 * MIB // 4)
        other = torch.ones(30 * MIB // 4)
        time.sleep(0.1)  # a thread looks every few milliseconds, on a busy machine more rarely
        del one, other
    assert found.bytes == pytest.approx(80 * MIB, rel=0.15)
    assert found.seconds > 0
    assert memory.held_bytes(torch.device("cpu")) - before < 20 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="what is freed stays with the process there")
def test_what_was_freed_before_is_not_taken_for_free():
    """Once a block of 30 MiB was freed smaller ones come from a heap, below what stays in use."""
    torch.ones(30 * MIB // 4)
    blocks = [torch.ones(25 * MIB // 4) for _ in range(10)]
    last = bytearray(200_000)
    del blocks
    with measuring(torch.device("cpu")) as found:
        again = torch.ones(50 * MIB // 4)
    del last, again
    assert found.bytes == pytest.approx(50 * MIB, rel=0.15)


def test_the_step_grows_with_the_batch():
    """A forward pass of 60 windows of 100 tokens keeps some 15 MB for each of two blocks."""
    some = texts(forget=(60, 100), retain=(4, 10))
    few, many = (
        plan(some, name="gradient_ascent", batch_size=size).parts[STEP] for size in (2, 60)
    )
    assert many > few + 10 * MIB


GRADIENTS = """
import torch
from conftest import tiny_model
from unlearner.models.loading import Loaded
from unlearner.settings import TrainingSettings
from unlearner.training import memory

model = tiny_model("gpt2")
weights = [torch.nn.Parameter(torch.zeros(40 * 2**18)) for _ in range(3)]
for number, weight in enumerate(weights):
    model.register_parameter(f"large{number}", weight)
loaded, settings = Loaded(model, None, ""), TrainingSettings()
print(memory.measure_step(loaded, lambda: sum(w.sum() for w in weights), settings).bytes)
memory.sharding.wanted = lambda: True
print(memory.measure_step(loaded, lambda: sum(w.sum() for w in weights), settings).bytes)
print(sum(bool(weight._post_accumulate_grad_hooks) for weight in weights))
"""


def test_gradients_count_once():
    """Three of 40 MiB each are a part of the plan, not of the step, which has nothing beside.

    Of a model that will be divided one is there at a time. In a process of its own, whose heap has
    no large blocks of other tests.
    """
    tests = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    ran = subprocess.run(
        [sys.executable, "-c", GRADIENTS],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    whole, divided, hooks = map(int, ran.stdout.split())
    assert whole < 20 * MIB
    assert 15 * MIB < divided < 75 * MIB
    assert hooks == 0


# Where it does not fit


def test_a_first_guess_that_is_too_much_is_not_run(measured, monkeypatch):
    """Four numbers a weight are more than there is, by a byte; with a byte more the step is run."""
    some = texts(forget=(3, 12))
    guess = 16 * num_parameters(some.loaded.model)
    monkeypatch.setattr(memory, "available_bytes", lambda: guess - 1)
    found = plan(some, name="gradient_ascent")
    assert measured == []
    assert math.isnan(found.seconds_per_epoch)
    monkeypatch.setattr(memory, "available_bytes", lambda: guess)
    assert plan(some, name="gradient_ascent").parts[STEP] == 700


@pytest.mark.parametrize(
    ("given", "room", "tried", "chosen"),
    [
        ("auto", 600, [6], None),
        ("auto", 599, [6, 3], 3),
        ("auto", 150, [6, 3, 1], 1),
        ("auto", 50, [6, 3, 1], 1),  # does not fit in any case, and is refused
        (2, 50, [2], 2),
    ],
)
def test_fewer_windows_at_a_time_where_the_step_does_not_fit(
    monkeypatch, given, room, tried, chosen
):
    """A step of 2 forget and 4 kept windows, of which each takes 100 bytes."""
    some, found = texts(), []

    def measure(_, loss, __):
        sizes = []
        hook = some.loaded.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, inputs: sizes.append(len(inputs[0]))
        )
        loss()
        hook.remove()
        found.append(max(sizes))
        return Cost(100 * found[-1], 6.0)

    monkeypatch.setattr(memory, "measure_step", measure)
    monkeypatch.setattr(memory, "room_on", lambda _: 1 << 40)
    method = {"name": "icu", "batch_size": 2, "fresh_per_step": 4}
    training = {"micro_batch": given, "checkpoint_every": "never"}
    parts = plan(some, training=training, **method).parts
    found.clear()
    # What a saved model holds is less than the step here, or it would decide when the peak is.
    monkeypatch.setattr(memory, "_first_guess", lambda *_: {**parts, STEP: 0, SAVED: 0})
    rest = sum(plan(some, training=training, **method).peak.values()) - 100 * found[0]
    found.clear()
    monkeypatch.setattr(memory, "room_on", lambda _: rest - parts["held already"] + room)
    planned = plan(some, training=training, **method)
    assert (found, planned.micro_batch) == (tried, chosen)


def test_every_architecture_can_be_measured():
    for architecture in ARCHITECTURES:
        found = plan(texts(tiny_model(architecture)), name="icu")
        assert 0 < found.seconds_per_epoch < math.inf, architecture


# Several processes


@pytest.mark.slow
def test_two_processes_take_their_shares_of_the_step_and_agree():
    def parts():
        found = [plan(texts(), name="icu"), plan(Labelled(), family=SEQUENCE, name="deepcut")]
        return [(one.parts[STEP], one.parts["gradients"], one.seconds_per_epoch) for one in found]

    first, second = in_processes(2, parts)
    assert first == second
    assert all(0 < seconds < math.inf for _, _, seconds in first)
    assert first[0][1] == 4 * num_parameters(tiny_model("gpt2"))
