"""A model divided among processes learns, is saved and goes on as a whole one does."""

import os
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from test_icu import LOW, tokenized, unlearning_data
from torch import nn

from classifier_world import tiny_trainer
from conftest import tiny_model
from in_processes import in_processes
from test_processes import (
    ROUNDING,
    curve,
    same_curves,
    same_weights,
    world,  # noqa: F401 - a fixture
)
from unlearner import processes
from unlearner.inference.language_model import Questions, beam_continuations, infer
from unlearner.methods.icu import ICU
from unlearner.models import adapters, sharding
from unlearner.settings import TrainingSettings
from unlearner.training.checkpoints import Checkpoints, Journal
from unlearner.training.finetune import FinetuneSettings, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@contextmanager
def environment(**values):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def sharded(function, count=2, **more):
    """What a function returns in each of several processes that shard their model."""
    with environment(**FSDP, **more):
        return in_processes(count, function)


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# Parts


@pytest.mark.parametrize("architecture", ["gpt_neo", "llama"])  # tied embeddings, and not
def test_each_process_has_half_of_every_weight_and_of_its_moments(architecture):
    """All rows of the tiny models' weights are even in number: 2 equal halves."""

    def work():
        some = tiny_trainer()
        model = some.start(tiny_model(architecture), 1e-3)
        some.step(lambda: {"loss": model(input_ids=torch.ones(1, 4).long()).logits.square().mean()})
        parts = [sharding.own(parameter).numel() for parameter in model.parameters()]
        moments = [
            sharding.own(values["exp_avg"]).numel() for values in some.optimiser.state.values()
        ]
        whole = [parameter.numel() for parameter in model.parameters()]
        return parts, moments, whole, len(sharding.blocks(model))

    for parts, moments, whole, layers in sharded(work):
        assert [2 * number for number in parts] == whole == [2 * number for number in moments]
        assert layers == 2


def test_a_part_is_what_torch_gives_a_process_also_where_rows_do_not_divide():
    """5 rows of 3 processes: 2, 2 and 1; one row: 1, 0 and 0."""

    def work():
        model = nn.Sequential(nn.Linear(2, 5, bias=False), nn.Linear(2, 1))
        wholes = [torch.arange(10.0).view(5, 2), torch.ones(1, 2), torch.ones(1)]
        sharding.shard(model, torch.device("cpu"))
        lengths, same = [], True
        for parameter, whole in zip(model.parameters(), wholes, strict=True):
            mine = sharding.part(parameter, whole)
            lengths.append((len(mine), len(sharding.own(parameter))))
            sharding.own(parameter).copy_(mine)
            back = sharding.collect(parameter, sharding.own(parameter))
            same &= torch.equal(back, whole) if processes.is_main() else back.numel() == 0
        return lengths, same

    assert sharded(work, 3) == [
        ([(2, 2), (1, 1), (1, 1)], True),
        ([(2, 2), (0, 0), (0, 0)], True),
        ([(1, 1), (0, 0), (0, 0)], True),
    ]


def test_the_norm_that_limits_gradients_is_that_of_all_parts():
    """Gradients 3 and 4 in two processes: the norm is 5, a limit of 1 leaves 0.6 and 0.8."""

    def work():
        model = nn.Linear(1, 2, bias=False)
        sharding.shard(model, torch.device("cpu"))
        model.weight.grad = torch.zeros_like(model.weight)
        sharding.own(model.weight.grad).fill_(3.0 + processes.rank())
        norm = sharding.clip_gradients([model.weight], 1.0)
        return norm, float(sharding.own(model.weight.grad))

    assert sharded(work) == [(5.0, pytest.approx(0.6)), (5.0, pytest.approx(0.8))]


# Training


@pytest.mark.parametrize(
    ("architecture", "lora_rank"), [("gpt_neo", 0), ("llama", 0), ("gpt_neo", 4)]
)
@pytest.mark.parametrize(
    ("forget", "batch_size", "fresh"),
    [((14, 9, 20), 3, 5), ((9,), 1, 1)],
    ids=["odd", "fewer records than processes"],
)
def test_icu_takes_the_same_steps(tokenizer, architecture, lora_rank, forget, batch_size, fresh):
    def work():
        some = tiny_trainer(lora_rank=lora_rank)
        pool = tokenized("pool", (10, 16, 12, 8, 9), 4)
        method = ICU(max_epochs=2, learning_rate=1e-3, batch_size=batch_size, fresh_per_step=fresh)
        data = unlearning_data(tokenizer, tokenized("forget", forget, 3), pool, LOW)
        model = some.finish(method.unlearn(tiny_model(architecture), data, some))
        assert sharding.is_sharded(some.model) == (processes.count() > 1)
        assert not sharding.is_sharded(model)
        return curve(some), flat(model) if processes.is_main() else None

    alone, weights = work()
    found = sharded(work)
    for some, _ in found:
        same_curves(alone, some)
    same_weights(weights, found[0][1])


def learned(tokenizer, records, architecture, **settings):
    """Finetune; the trainer, what it told, and the finished model."""
    lines = []
    some = tiny_trainer(**settings)
    some.log.listener = lambda line: lines.append(line.get("loss", {}).get("loss", 0.0))
    lesson = FinetuneSettings(epochs=2, batch_size=2, learning_rate=1e-3)
    result = finetune_model(tiny_model(architecture), tokenizer, records, lesson, some)
    return some, lines, some.finish(result.model)


@pytest.mark.parametrize(
    ("settings", "variables", "count"),
    [
        ({}, {}, 2),
        ({}, {}, 3),
        ({"gradient_checkpointing": True}, {}, 2),
        ({"lora_rank": 4}, {}, 2),
        ({"max_gradient_norm": 0.1}, {}, 2),
        ({}, {"FSDP_OFFLOAD_PARAMS": "true"}, 2),
    ],
    ids=["two", "three", "checkpointing", "lora", "clipped", "offloaded"],
)
def test_finetuning_takes_the_same_steps(tokenizer, settings, variables, count):
    """Three records in batches of two: now and then a process has no share; 32 rows of three."""
    records = tokenized("records", (9, 7, 8), 3)

    def work():
        _, lines, model = learned(tokenizer, records, "llama", **settings)
        return lines, flat(model) if processes.is_main() else None

    alone, weights = work()
    found = sharded(work, count, **variables)
    for lines, _ in found:
        assert lines == pytest.approx(alone, abs=ROUNDING)
    same_weights(weights, found[0][1])


def test_in_bfloat16_it_learns_as_a_whole_model_does(tokenizer):
    """Rounding to 8 bits differs with the batch's shape; the losses are of about 10."""
    records = tokenized("records", (9, 7, 8), 3)

    def work():
        return learned(tokenizer, records, "llama", precision="bfloat16")[1]

    alone = work()
    for lines in sharded(work):
        assert lines == pytest.approx(alone, rel=0.02)


def test_a_loss_that_shares_nothing_is_not_counted_twice():
    """Every process has the whole gradient 2 w = 2; plain descent by 0.1 gives 0.8."""

    def work():
        some = tiny_trainer(max_gradient_norm=100.0)
        one = nn.Linear(1, 1, bias=False)
        nn.init.ones_(one.weight)
        some.start(one, 0.1)
        some.optimiser = torch.optim.SGD(one.parameters(), 0.1)
        some.step(lambda: {"square": one(torch.ones(1, 1)).square().sum()})
        return sharding.own(one.weight).flatten().tolist()

    assert sharded(work) == [[pytest.approx(0.8)], []]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_model_whose_logits_no_head_gives_takes_the_same_steps(tokenizer, monkeypatch, lora_rank):
    """As where something unknown stands behind the head: the whole model is asked each time."""
    for place in ("inference.language_model", "inference.reference"):
        monkeypatch.setattr(f"unlearner.{place}.output_head", lambda _: None)

    def work():
        some = tiny_trainer(lora_rank=lora_rank)
        torch.manual_seed(0)
        data = unlearning_data(
            tokenizer, tokenized("forget", (9,), 3), tokenized("pool", (10, 16), 4), LOW
        )
        method = ICU(max_epochs=2, learning_rate=1e-3, batch_size=1, fresh_per_step=1)
        method.unlearn(tiny_model("llama"), data, some)
        return curve(some)

    alone = work()
    for found in sharded(work):
        same_curves(alone, found)


# Looks


@pytest.mark.parametrize("architecture", ["gpt_neo", "llama", "gemma2"])
def test_answers_are_those_of_the_whole_model(tokenizer, architecture):
    """To rounding: the weights lie elsewhere in memory, by which a kernel may choose its way.

    Where the halves of one weight of the last layer changed places, or one was zero, some
    log-probability differed by 1.4 at the least.
    """
    some = tokenized("some", (14, 9, 20, 7), 3)
    questions = Questions(prompt_start=0.5, batch_tokens=24)

    def work():
        model = tiny_trainer().start(tiny_model(architecture), 1e-3)
        texts = beam_continuations(model, tokenizer, some.windows[:1], num_beams=2)
        return infer(model, tokenizer, some.windows, questions), texts

    (alone, texts), found = work(), sharded(work)
    for answers, said in found:
        assert said == texts
        for a, b in zip(alone, answers, strict=True):
            assert b.log_probs == pytest.approx(a.log_probs, abs=ROUNDING)
            assert {k: v.tolist() for k, v in a.decoded.items()} == {
                k: v.tolist() for k, v in b.decoded.items()
            }


# Keeping, saving, going on


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("architecture", ["gpt_neo", "llama"])
def test_what_was_kept_comes_back_and_the_saved_model_is_an_ordinary_one(
    tmp_path, architecture, lora_rank
):
    def work():
        some = tiny_trainer(lora_rank=lora_rank)
        torch.manual_seed(0)  # LoRA draws
        model = some.start(tiny_model(architecture), 1e-2)
        tokens = torch.arange(12).view(2, 6)

        def step():
            some.step(lambda: {"loss": model(input_ids=tokens).logits.square().mean()})

        step()
        some.keep(model)
        before = adapters.trained_weights(model)
        step()
        moved = adapters.trained_weights(model)
        some.restore(model)
        after = adapters.trained_weights(model)
        logits = model(input_ids=tokens).logits.detach()
        whole = some.finish(model)
        if not processes.is_main():
            return None
        whole.save_pretrained(tmp_path / architecture)
        again = type(whole).from_pretrained(tmp_path / architecture)
        assert any(not torch.equal(before[name], moved[name]) for name in before)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.allclose(again(input_ids=tokens).logits, logits, atol=1e-4)
        return whole.config.architectures, type(whole) is type(tiny_model(architecture))

    names = tiny_model(architecture)
    assert sharded(work) == [([type(names).__name__], True), None]


class CutError(Exception):
    """The run ends here, as if it were killed."""


def test_a_run_that_was_cut_off_ends_with_the_bytes_of_one_that_was_not(tokenizer, tmp_path):
    """Cut in step 4 of 4, when an earlier round's weights are kept; checkpoints are of one form."""

    def work(folder, stop=-1, resume=False):
        some = tiny_trainer(checkpoint_every=1)
        some.journal = Journal(Checkpoints(folder, {}), 1, None)
        if resume:
            assert some.resume() == 3
        pool = tokenized("pool", (10, 16, 12, 8, 9), 4)
        data = unlearning_data(tokenizer, tokenized("forget", (14, 9, 20), 3), pool, LOW)
        method = ICU(max_epochs=2, learning_rate=1e-3, batch_size=2, fresh_per_step=3)

        def listen(line):
            if line.get("step") == stop:
                raise CutError

        some.log.listener = listen
        try:
            model = method.unlearn(tiny_model("gpt_neo"), data, some)
        except CutError:
            return len(some.kept)
        kept = torch.cat([value.flatten() for value in some.kept.values()])
        whole = some.finish(model)
        return kept, flat(whole) if processes.is_main() else None

    for number in sharded(lambda: work(tmp_path / "cut", stop=4)):
        assert number > 0
    went_on = sharded(lambda: work(tmp_path / "cut", resume=True))
    whole = sharded(lambda: work(tmp_path / "whole"))
    assert torch.equal(went_on[0][1], whole[0][1])
    for a, b in zip(went_on, whole, strict=True):
        assert torch.equal(a[0], b[0])
    in_processes(2, lambda: work(tmp_path / "plain"))
    folders = [next((tmp_path / name).glob("step-*")) for name in ("whole", "plain")]
    for name in ("weights", "optimiser", "kept"):
        one, two = (load_file(folder / f"{name}.safetensors") for folder in folders)
        assert one.keys() == two.keys()
        assert all(one[key].shape == two[key].shape for key in one)
        assert any(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


def test_the_last_rounds_model_and_the_adapter_are_written_whole(tmp_path):
    def work(rank):
        folder = tmp_path / str(rank)
        log = Log(folder / "log.jsonl")
        folder.mkdir(exist_ok=True)
        settings = {"keep_checkpoints": True, "keep_adapter": True, "lora_rank": rank}
        some = Trainer(TrainingSettings(device="cpu", **settings), log)
        model = some.start(tiny_model("llama"), 1e-2)
        some.keep(model)
        some.restore(model)
        some.finish(model, "target")

    for rank in (0, 4):
        sharded(partial(work, rank))
    last = load_file(tmp_path / "0/checkpoints/last/model.safetensors")
    assert all(
        torch.equal(last[name], value)
        for name, value in tiny_model("llama").state_dict().items()
        if name in last
    )
    one, two = (
        load_file(tmp_path / "4" / folder / "adapter_model.safetensors")
        for folder in ("adapter", "checkpoints/last")
    )
    assert one
    assert all(torch.equal(one[name], two[name]) and one[name].numel() for name in one)
