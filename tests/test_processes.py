"""Several processes do what one does: the same figures, and the same steps to rounding."""

import json
import os
from pathlib import Path
from string import Template

import numpy as np
import pytest
import torch
from test_icu import LOW, tokenized, unlearning_data
from test_resume import class_methods
from torch import nn

from classifier_world import (
    LABELS,
    SEQUENCE,
    TOKEN,
    labelled,
    recipe_from,
    save_encoder,
    tiny_classifier,
    tiny_data,
    tiny_trainer,
    toy_tokenizer,
)
from command_world import FINETUNE, FORGET_RUN, SETS
from conftest import tiny_model
from in_processes import in_processes
from unlearner import processes
from unlearner.cli.app import NOT_MET, WRONG_INPUT, run
from unlearner.inference.classifier import classify
from unlearner.inference.language_model import Questions, infer
from unlearner.inference.reference import TargetDistribution
from unlearner.methods.base import load_method
from unlearner.methods.icu import ICU
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    FinetuneSettings,
    finetune_model,
)

torch.set_num_threads(1)

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


# Pieces


def test_shares_are_every_nth_and_make_up_the_whole():
    shares = in_processes(3, lambda: processes.share("abcdefg"))
    assert shares == [["a", "d", "g"], ["b", "e"], ["c", "f"]]


def test_gathered_rows_have_the_gradient_of_their_own_process():
    """x = [1, 2] and [3] and []: f = (sum of squares of all) / 2, df/dx = x for each its own."""

    def work():
        own = [[1.0, 2.0], [3.0], []][processes.rank()]
        x = torch.tensor(own).requires_grad_()
        rows = processes.gather_rows(x)
        (rows.square().sum() / 2).backward()
        return rows.tolist(), x.grad.tolist() if own else []

    assert in_processes(3, work) == [
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
        ([1.0, 2.0, 3.0], [3.0]),
        ([1.0, 2.0, 3.0], []),
    ]


def test_gradients_are_summed_also_where_a_process_has_none():
    """1 + 10 + nothing = 11 for the first, 2 + 20 = 22 for the second parameter."""

    def work():
        some = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
        if processes.rank() < 2:
            for number, parameter in enumerate(some):
                value = (number + 1.0) * 10 ** processes.rank()
                parameter.grad = torch.full_like(parameter, value)
        processes.sum_gradients(some)
        return [parameter.grad.tolist() for parameter in some]

    assert in_processes(3, work) == [[[11.0, 11.0], [22.0]]] * 3


def test_a_loss_that_shares_nothing_is_not_counted_twice():
    """Every process has the whole gradient 2 w = 2; plain descent by 0.1 gives 0.8."""

    def work():
        some = tiny_trainer(max_gradient_norm=100.0)
        one = nn.Linear(1, 1, bias=False)
        nn.init.ones_(one.weight)
        some.start(one, 0.1)
        some.optimiser = torch.optim.SGD(one.parameters(), 0.1)
        some.step(lambda: {"square": one.weight.square().sum()})
        return float(one.weight)

    assert in_processes(2, work) == [pytest.approx(0.8)] * 2


def test_what_stops_the_main_process_stops_all(tmp_path):
    def work():
        try:
            processes.together(lambda: (tmp_path / "none" / "file").write_text(""))
        except OSError:
            return "stopped"

    assert in_processes(2, work) == ["stopped"] * 2


# Threads


@pytest.mark.parametrize(
    ("variables", "alone", "each"),
    [
        ({}, 1, 1),
        ({}, 6, 3),
        ({"LOCAL_WORLD_SIZE": "1"}, 6, 6),  # a machine for each
        ({"OMP_NUM_THREADS": "1"}, 1, 1),
        ({"OMP_NUM_THREADS": "2"}, 2, 2),
        ({"MKL_NUM_THREADS": "2"}, 2, 2),
    ],
)
def test_every_process_computes_on_its_share_of_threads_or_on_what_was_asked(
    monkeypatch, variables, alone, each
):
    """`alone` is what torch has where it starts: the processors, or what the variable says."""
    for name in processes.THREADS_SET_BY:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(alone)
    try:
        found = in_processes(2, lambda: (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]))
        assert torch.get_num_threads() == alone
    finally:
        torch.set_num_threads(1)
    assert found == [(each, str(each))] * 2


def test_machines_that_differ_compute_on_the_fewest_threads_of_them(monkeypatch):
    monkeypatch.setattr(processes, "_own_threads", lambda: 3 - int(os.environ["RANK"]))
    assert in_processes(2, torch.get_num_threads) == [2, 2]


# Asking


def same_answers(a, b):
    return (
        a.id == b.id
        and all(
            np.array_equal(getattr(a, name), getattr(b, name))
            for name in ("input_ids", "log_probs", "argmax", "kl")
        )
        and {k: v.tolist() for k, v in a.decoded.items()}
        == {k: v.tolist() for k, v in b.decoded.items()}
    )


@pytest.mark.parametrize("lengths", [(14, 9, 20, 7, 11), (9,)], ids=["odd", "fewer than processes"])
def test_answers_are_bit_for_bit_those_of_one_process(tokenizer, lengths):
    """Batches are those of one process, and each is computed by one, on as many threads."""
    some = tokenized("some", lengths, 3)
    questions = Questions(prompt_start=0.5, batch_tokens=24)

    def work():
        model = tiny_model("gpt_neo")
        target = TargetDistribution.of(tiny_model("gpt_neo", seed=1), some.windows)
        return infer(model, tokenizer, some.windows, questions, target)

    alone = work()
    for found in in_processes(2, work):
        assert all(same_answers(a, b) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize("count", [1, 5])
def test_a_classifiers_answers_are_bit_for_bit_those_of_one_process(count):
    records = labelled(count)

    def work():
        return classify(tiny_classifier(), records, LABELS[SEQUENCE], batch_tokens=16)

    alone = work()
    for found in in_processes(2, work):
        for a, b in zip(alone, found, strict=True):
            assert np.array_equal(a.class_log_probs, b.class_log_probs)
            assert np.array_equal(a.features, b.features)


# Training

# Another split of a batch is another shape, for which kernels may sum in another order, and Adam
# scales up what a gradient has of rounding. Seen over ICU and all methods for classifiers but
# SCRUB: terms that differed by 4e-6 at most, by 2e-5 where the processes also computed on other
# numbers of threads. Where gradients were not summed, or the other process's were taken, they
# differed by 1e-3 at the least.
ROUNDING = 1e-4
# Up to 0.5 % of the weights were seen to differ by more than ROUNDING; with those faults at the
# least 25 % of them.
DIFFERING = 0.02


def curve(some):
    """The terms of every step and round, and the counts."""
    lines = [line["loss"] for line in some.rounds if line.get("loss")]
    return lines, some.steps, some.tokens


def same_curves(alone, found):
    assert found[1:] == alone[1:]
    for a, b in zip(alone[0], found[0], strict=True):
        assert b == pytest.approx(a, abs=ROUNDING)


def same_weights(alone, found):
    """Adam moves some weights by what is nothing but rounding, so all of them are counted."""
    assert ((found - alone).abs() > ROUNDING).float().mean() < DIFFERING


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("forget", "batch_size", "fresh"),
    [((14, 9, 20), 3, 5), ((9,), 1, 1), ((9, 8), 2, 1)],
    ids=["odd", "fewer records than processes", "one kept window"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_icu_takes_the_same_steps(tokenizer, forget, batch_size, fresh, precision):
    def work():
        some = tiny_trainer(precision=precision)
        pool = tokenized("pool", (10, 16, 12, 8, 9), 4)
        method = ICU(max_epochs=2, learning_rate=1e-3, batch_size=batch_size, fresh_per_step=fresh)
        data = unlearning_data(tokenizer, tokenized("forget", forget, 3), pool, LOW)
        model = method.unlearn(tiny_model("gpt_neo"), data, some)
        return curve(some), flat(model)

    alone, weights = work()
    found = in_processes(2, work)
    assert torch.equal(found[0][1], found[1][1])  # of each other the processes never differ
    if precision == "float32":
        for some in found:
            same_curves(alone, some[0])
        same_weights(weights, found[0][1])


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
@pytest.mark.parametrize("name", class_methods())
def test_every_method_for_classifiers_takes_the_same_steps(tmp_path, name, family):
    """Without dropout, whose masks no two ways of computing share."""
    settings = {"max_epochs": 1, "stop": "never", "learning_rate": 1e-3, "batch_size": 3}
    settings = {"retrain": {}, "sisa": {"num_shards": 2, "num_slices": 2}}.get(name, settings)
    method = load_method(name)(**settings)
    recipe = recipe_from(save_encoder(tmp_path / "encoder"), epochs=1)
    config = tmp_path / "encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | NO_DROPOUT))

    def work():
        some = tiny_trainer()
        data = tiny_data(family, sizes=(5, 12, 5), recipe=recipe)
        model = method.unlearn(tiny_classifier(family, **NO_DROPOUT), data, some)
        return curve(some), flat(model)

    alone, weights = work()
    found = in_processes(2, work)
    assert torch.equal(found[0][1], found[1][1])
    if name != "scrub":  # its first gradient is nothing but rounding, which Adam scales up
        same_curves(alone, found[0][0])
        same_weights(weights, found[0][1])


def test_finetuning_takes_the_same_steps(tokenizer):
    records = tokenized("records", (9, 7, 8), 3)
    settings = FinetuneSettings(epochs=3, batch_size=2, learning_rate=1e-3)

    def work():
        some, losses = tiny_trainer(), []
        some.log.listener = lambda line: losses.append(line.get("loss", {}).get("loss", 0.0))
        finetune_model(tiny_model("gpt2"), tokenizer, records, settings, some)
        return losses

    alone = work()
    assert len(alone) == 3 * 2 + 3
    for found in in_processes(2, work):
        assert found == pytest.approx(alone, abs=ROUNDING)


def test_dropout_leaves_out_other_units_in_every_process():
    records, settings = labelled(6), ClassifierFinetuneSettings(epochs=1, batch_size=6)

    def work():
        some = tiny_trainer()
        model = finetune_model(tiny_classifier(), toy_tokenizer(), records, settings, some)
        return torch.rand(3).tolist(), flat(model.model)

    (first, one), (second, other) = in_processes(2, work)
    assert first != second
    assert torch.equal(one, other)


# Commands


LAST = (
    "--forget forget.jsonl --quiet method.max_epochs=2 method.fresh_per_step=4 "
    "evaluation.resamples=20 training.device=cpu"
)


@pytest.fixture
def world(tmp_path, monkeypatch, model_folders):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(tmp_path / "key"))
    for name, content in SETS.items():
        (tmp_path / name).write_text(content)
    return lambda line: Template(line).substitute(models=model_folders).split()


def test_forget_and_evaluate_give_one_result_equal_to_that_of_one_process(world, capfd):
    command = world(FORGET_RUN.replace("out/run", "two") + LAST)
    assert in_processes(2, lambda: run(command)) == [NOT_MET] * 2
    assert capfd.readouterr().out.count("report:") == 1  # one of them talks
    assert run(world(FORGET_RUN.replace("out/run", "one") + LAST)) == NOT_MET
    one, two = (json.loads(Path(name, "report.json").read_text()) for name in ("one", "two"))
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    assert one["environment"]["hardware"] == two["environment"]["hardware"]  # threads too
    assert one["results"]["target"] == two["results"]["target"]
    assert one["cost"]["tokens"] == two["cost"]["tokens"]
    logs = [Path(name, "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    for a, b in zip(*logs, strict=True):  # of eight steps, each with the rounding of those before
        assert json.loads(b)["loss"] == pytest.approx(json.loads(a)["loss"], abs=4 * ROUNDING)
    command = world(
        "evaluate two/model --forget forget.jsonl --holdout holdout.jsonl --quiet "
        "--target $models/good evaluation.resamples=20 --output "
    )
    assert in_processes(2, lambda: run([*command, "e2"])) == [NOT_MET] * 2
    assert run([*command, "e1"]) == NOT_MET
    found = [json.loads(Path(name, "report.json").read_text()) for name in ("e1", "e2")]
    assert found[0]["results"] == found[1]["results"]


def test_finetune_in_two_processes(world):
    command = world(FINETUNE + "--quiet epochs=1 training.device=cpu")
    assert in_processes(2, lambda: run(command)) == [0, 0]
    assert Path("out/run/model.safetensors").exists()


def test_wrong_input_is_told_once(world, capfd):
    command = world("forget $models/none --forget forget.jsonl --output out")
    assert in_processes(2, lambda: run(command)) == [WRONG_INPUT] * 2
    assert capfd.readouterr().err.count("unlearner: ") == 1


def test_two_processes_go_on_where_they_were_cut_off(world):
    settings = LAST + " training.checkpoint_every=1"
    command = world(FORGET_RUN.replace("out/run", "cut") + settings)

    def cut():
        from unlearner.training.log import Log

        write = Log.write

        def die(self, line):
            write(self, line)
            if line.get("step") == 2:
                processes.wait()
                os._exit(9)

        Log.write = die
        run(command)

    with pytest.raises((AssertionError, FileNotFoundError)):
        in_processes(2, cut)
    assert run(world("forget --resume --quiet --output cut")) == WRONG_INPUT  # by one process
    assert in_processes(2, lambda: run(world("forget --resume --quiet --output cut"))) == [3, 3]
    whole = world(FORGET_RUN.replace("out/run", "whole") + settings)
    assert in_processes(2, lambda: run(whole)) == [NOT_MET] * 2
    weights = [Path(name, "model/model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
