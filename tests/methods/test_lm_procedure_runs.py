"""Methods for language models that are more than a loss against a reference: their runs."""

import copy
from dataclasses import replace

import pytest
import torch
from test_icu import LOW, nll, tokenized, unlearning_data
from test_resume import check_every_cut
from test_sharding import sharded

from classifier_world import tiny_trainer
from conftest import tiny_model
from in_processes import in_processes
from unlearner import processes
from unlearner.data.record import Record
from unlearner.methods.gradient_ascent import GradientAscent
from unlearner.methods.gradient_difference import GradientDifference
from unlearner.methods.llmu import LLMU
from unlearner.methods.rmu import RMU
from unlearner.methods.task_arithmetic import TaskArithmetic
from unlearner.models import adapters
from unlearner.training.data import HoldoutBaseline

pytestmark = pytest.mark.slow

torch.set_num_threads(1)

FAST = {"learning_rate": 3e-3, "batch_size": 2, "max_epochs": 3}
KEPT = {"retain_batch_size": 3}
METHODS = [
    GradientAscent(**FAST, stop="never"),
    GradientDifference(**FAST, **KEPT, stop="never"),
    LLMU(**FAST, **KEPT, stop="never", forget_weight=2.0),
    RMU(**FAST, **KEPT, stop="never", steering_coefficient=200.0, retain_weight=1.0),
    TaskArithmetic(**FAST, finetune_epochs=2, max_scale=3.0),
]
# Above every model, so that all records count as forgotten from the start.
HIGH = HoldoutBaseline(
    ma=1.0, el_10=1.0, es=1.0, loss=3.0, worst_ma=1.0, worst_el_10=1.0, source="test"
)


def by_name(method):
    return method.name


@pytest.fixture(params=METHODS, ids=by_name)
def method(request):
    return request.param


def sets(tokenizer, level=LOW):
    """Three forget records, one of two windows, and five kept ones."""
    forget = tokenized("forget", (14, 9, 20, 6), 3, records=[0, 1, 2, 2])
    pool = tokenized("pool", (10, 16, 12, 8, 9), 4)
    retain = replace(pool, records=tuple(Record(str(i), text=f"text {i}") for i in range(5)))
    return replace(unlearning_data(tokenizer, forget, pool, level), analogous=None, retain=retain)


def flat(model):
    return torch.cat([some.detach().flatten() for some in model.parameters()])


def loss_of(model, windows):
    with torch.no_grad():
        return float(sum(sum(nll(model, window)) for window in windows))


# A run


def test_a_run_changes_the_model_and_tells_its_rounds(method, tokenizer, architecture):
    """Round 0 is the target; the forget loss rises, of RMU the hidden states come nearer to c u.

    Of a random model RMU cannot raise the loss, which is that of chance already.
    """
    data, trainer, model = sets(tokenizer), tiny_trainer(), tiny_model(architecture)
    before = copy.deepcopy(model)
    done = method.unlearn(model, data, trainer)
    assert [line["round"] for line in trainer.rounds] == [0, 1, 2, 3]
    assert trainer.tokens > 0
    assert all(some.requires_grad for some in done.parameters())
    if method.name == "rmu":
        assert trainer.rounds[3]["loss"]["forget"] < trainer.rounds[1]["loss"]["forget"]
    else:
        assert loss_of(done, data.forget.windows) > loss_of(before, data.forget.windows)


def test_rmu_takes_the_same_steps_where_activations_are_computed_again(tokenizer):
    found = []
    for again in (False, True):
        some = tiny_trainer(gradient_checkpointing=again)
        model = METHODS[3].unlearn(tiny_model("llama"), sets(tokenizer), some)
        found.append(flat(model))
    assert torch.allclose(*found, atol=1e-4)


def test_rmu_leaves_all_but_the_down_projections_of_its_blocks(tokenizer):
    """Block 1 of two is the layer, so that both blocks' are trained, and nothing else changes."""
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    METHODS[3].unlearn(model, sets(tokenizer), tiny_trainer())
    changed = {n for n, some in model.state_dict().items() if not torch.equal(some, before[n])}
    assert changed == {f"model.layers.{number}.mlp.down_proj.weight" for number in (0, 1)}


@pytest.mark.parametrize("rank", [2])
def test_adapters_are_all_that_changes_until_they_are_merged(method, rank, tokenizer):
    data, trainer, model = sets(tokenizer), tiny_trainer(lora_rank=rank), tiny_model("llama")
    target, before = flat(model), loss_of(model, data.forget.windows)
    model = method.unlearn(model, data, trainer)
    assert loss_of(model, data.forget.windows) != pytest.approx(before, rel=1e-6)
    with adapters.without_adapters(model):
        assert loss_of(model, data.forget.windows) == pytest.approx(before, rel=1e-6)
    assert not torch.equal(flat(trainer.finish(model)), target)


@pytest.mark.parametrize("kind", [GradientAscent, GradientDifference, RMU, LLMU, TaskArithmetic])
def test_nothing_is_done_where_the_rule_is_met_from_the_start(kind, tokenizer):
    trainer, model = tiny_trainer(), tiny_model("gpt2")
    before = flat(model)
    kind(batch_size=2).unlearn(model, sets(tokenizer, HIGH), trainer)
    assert trainer.steps == 0
    assert len(trainer.rounds) == 1
    assert torch.equal(flat(model), before)


def test_gradient_ascent_stops_by_the_level_and_gradient_difference_by_every_record(tokenizer):
    """MA and EL_10 of the set are at the level, a single record is not: KUMPR's rule is met."""
    level = replace(HIGH, worst_ma=-1.0)
    found = {}
    for kind in (GradientAscent, GradientDifference):
        trainer = tiny_trainer()
        kind(learning_rate=1e-4, max_epochs=2).unlearn(
            tiny_model("gpt2"), sets(tokenizer, level), trainer
        )
        found[kind.__name__] = len(trainer.rounds)
    assert found == {"GradientAscent": 1, "GradientDifference": 3}


def test_llmu_ends_at_its_loss_bound(tokenizer):
    """A tiny random model has some 8 nats per token from the start: 0 epochs, not 3."""
    for bound, rounds in ((1.0, 1), (None, 4)):
        trainer = tiny_trainer()
        METHODS[2].model_copy(update={"loss_bound": bound}).unlearn(
            tiny_model("gpt2"), sets(tokenizer), trainer
        )
        assert len(trainer.rounds) == rounds


def test_the_term_of_a_lone_record_is_told_nowhere(method, tokenizer):
    data, trainer, lines = sets(tokenizer), tiny_trainer(), []
    trainer.log.listener = lines.append
    data = replace(data, forget=data.forget.subset([0]))
    method.unlearn(tiny_model("gpt2"), data, trainer)
    assert lines
    assert not any("forget" in line.get("loss", {}) for line in lines)


# Task arithmetic


def test_the_result_lies_on_the_line_through_the_target_and_the_finetuned_model(tokenizer):
    """theta - a (theta_f - theta) for the last scale a = 3, as none is suppressed and the floor is
    far: theta_f is what as many steps from the same seed give.
    """
    method = METHODS[4].model_copy(update={"max_epochs": 1})
    model, target = tiny_model("gpt2"), flat(tiny_model("gpt2"))
    data, trainer, finetuned = sets(tokenizer), tiny_trainer(), []
    keep = trainer.keep
    trainer.keep = lambda some: (finetuned.append(flat(some)), keep(some))
    found = flat(method.unlearn(model, data, trainer))
    assert trainer.steps == 2 * 2
    assert not torch.equal(finetuned[0], target)
    assert torch.allclose(found, target - 3 * (finetuned[0] - target), atol=1e-5)


def test_the_first_scale_that_is_suppressed_is_taken(tokenizer, monkeypatch):
    """Scales 1, 2 and 3; the look at 2 finds the records suppressed: there is no third."""
    told = looks([False, False, True], [1.0, 1.0, 9.0], monkeypatch)
    trainer = tiny_trainer()
    METHODS[4].unlearn(tiny_model("gpt2"), sets(tokenizer), trainer)
    assert len(trainer.rounds) == len(told) == 3
    assert "restored_round" not in trainer.details


def test_else_the_best_under_the_floor_is_taken(tokenizer, monkeypatch):
    """Kept text is at 1, 1.05 and 2 times the target's perplexity, the floor 1.1: scale 2 it is."""
    weights = looks([False] * 4, [1.0, 1.0, 1.05, 2.0], monkeypatch)
    data, trainer = replace(sets(tokenizer), utility_floor=1.1), tiny_trainer()
    found = METHODS[4].unlearn(tiny_model("gpt2"), data, trainer)
    assert trainer.details["restored_round"] == 2
    assert torch.equal(flat(found), weights[2])


def looks(suppressed, ratios, monkeypatch):
    """Make looks find these, with less and less to forget; returns the weights looked at."""
    from unlearner.training.stop_rule import Refinement, RoundState

    weights = []

    def examine(_self, model, number, _first=None):
        weights.append(flat(model).clone())
        return RoundState(
            number,
            (),
            {"ma": 0.5, "loss": 1.0},
            ratios[number],
            ratios[number],
            suppressed[number],
            suppressed[number],
            10.0 - number,
            0.0,
        )

    monkeypatch.setattr(Refinement, "examine", examine)
    return weights


# Cut off, and in several processes


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_that_was_cut_off_goes_on(tmp_path, method, rank, tokenizer):
    def unlearn(some):
        return some.finish(method.unlearn(tiny_model("gpt_neo"), sets(tokenizer), some))

    check_every_cut(tmp_path, unlearn, [2, 4], lora_rank=rank)


def test_task_arithmetic_goes_on_from_a_look_at_a_scale(tmp_path, tokenizer):
    """Told to stop at the look at the second scale, it has the fine-tuned weights to go on with."""
    from test_resume import trainer as with_checkpoints

    def unlearn(some):
        return METHODS[4].unlearn(tiny_model("gpt2"), sets(tokenizer), some)

    whole = with_checkpoints(tmp_path / "whole", every="never")
    expected = flat(unlearn(whole)).clone()
    cut = with_checkpoints(tmp_path / "cut", every="never")
    log = cut.log_round
    # Before the look at the third scale, which then saves and ends.
    cut.log_round = lambda line: (log(line), line["round"] == 2 and cut.journal._request_stop())
    with pytest.raises(Exception, match="interrupted after 4 steps"):
        unlearn(cut)
    resumed = with_checkpoints(tmp_path / "cut", every="never")
    assert resumed.resume() == 4
    assert torch.equal(flat(unlearn(resumed)), expected)
    assert len(resumed.rounds) == len(whole.rounds) == 4


@pytest.mark.parametrize(
    "start", [in_processes, lambda n, work: sharded(work, n)], ids=["whole", "sharded"]
)
def test_several_processes_take_the_same_steps(method, start, tokenizer):
    """Not the same weights: at the first step a KL's gradient is nothing but rounding, which Adam
    makes a whole step of wherever no other term has one.
    """
    slow = method.model_copy(update={"learning_rate": 1e-3})

    def work():
        some, data = tiny_trainer(), sets(tokenizer)
        model = some.finish(slow.unlearn(tiny_model("llama"), data, some))
        loss = loss_of(model, data.forget.windows) if processes.is_main() else None
        return [line["loss"] for line in some.rounds], loss

    losses, expected = work()
    found = start(2, work)
    for some, _ in found:
        for one, other in zip(some, losses, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-3)
    before = loss_of(tiny_model("llama"), sets(tokenizer).forget.windows)
    assert found[0][1] - before == pytest.approx(expected - before, rel=1e-2)
