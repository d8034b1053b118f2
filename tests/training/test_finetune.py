"""Learning records: the schedule by hand, the goal, and the same weights from the same seed."""

import json

import numpy as np
import pytest
import torch

from conftest import tiny_model
from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet, Window
from unlearner.errors import UserError
from unlearner.provenance import digest_model
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import FinetuneSettings, Until, finetune_model, share_of_peak
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer


def records(lengths=(12, 9, 15, 6, 11), unscored=()):
    made = []
    for index, length in enumerate(lengths):
        tokens = np.random.default_rng(index).integers(2, 90, length)
        counts = np.full(length - 1, index not in unscored)
        made.append(Window(index, str(index), tokens, counts, length // 2))
    some = tuple(Record(str(i), text="x") for i in range(len(lengths)))
    return TokenizedSet("records", some, tuple(made), "memory")


def train(tokenizer, some=None, *, until="", seed=0, log=None, **settings):
    model = tiny_model("gpt_neo")
    trainer = Trainer(TrainingSettings(device="cpu", seed=seed), log or Log())
    goal = Until.parse(until) if until else None
    chosen = FinetuneSettings(**{"epochs": 2, "batch_size": 2, "learning_rate": 3e-3, **settings})
    return finetune_model(model, tokenizer, some or records(), chosen, trainer, goal), trainer


# Goals


@pytest.mark.parametrize(
    ("text", "metric", "limit", "reached", "missed"),
    [
        ("ma>=0.99", "ma", 0.99, 0.99, 0.98),
        ("ma > 0.5", "ma", 0.5, 0.51, 0.5),
        (" loss <= 1e-3 ", "loss", 0.001, 0.001, 0.0011),
        ("perplexity<1.5E0", "perplexity", 1.5, 1.49, 1.5),
        ("el_10>=.5", "el_10", 0.5, 0.5, 0.4),
    ],
)
def test_a_goal_is_a_metric_a_sign_and_a_limit(text, metric, limit, reached, missed):
    goal = Until.parse(text)
    assert (goal.metric, goal.limit) == (metric, limit)
    assert goal.reached(reached) is True
    assert goal.reached(missed) is False
    assert goal.reached(float("nan")) is False


@pytest.mark.parametrize(
    "text",
    ["", "ma", "ma=0.9", "ma>=", ">=0.9", "ma>=x", "ma>=1e", "ma>=0.9, loss<1", "ma>=--1"],
)
def test_what_is_no_goal_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"for example 'ma>=0\.99'"):
        Until.parse(text)


def test_an_unknown_metric_is_refused_by_its_nearest():
    with pytest.raises(UserError, match="did you mean 'loss'"):
        Until.parse("los<1")


@pytest.mark.parametrize("text", ["mia_loss_auc>0.9", "kl_to_target<1", "bertscore_f1>0.9"])
def test_a_metric_that_needs_more_than_the_records_is_refused(text):
    with pytest.raises(UserError, match="needs more than the records themselves"):
        Until.parse(text)


# The schedule


def test_the_rate_warms_up_over_a_twentieth_and_falls_linearly():
    """40 steps: 2 of warm-up at 1/2 and 1, then 38/38, 37/38, ... 1/38."""
    shares = [share_of_peak(step, 40) for step in range(40)]
    assert shares == pytest.approx([0.5, 1.0, *(k / 38 for k in range(38, 0, -1))])


@pytest.mark.parametrize("total", [1, 2, 3, 10, 29])
def test_a_short_run_warms_up_over_one_step_and_no_step_is_empty(total):
    shares = [share_of_peak(step, total) for step in range(total)]
    assert shares[0] == 1.0
    assert all(0 < share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=True)


def test_steps_are_taken_at_the_scheduled_rate(tokenizer):
    """Five windows by twos in two epochs are 6 steps; the optimiser's rate ends at its share 0."""
    result, trainer = train(tokenizer)
    assert result.epochs == 2
    assert trainer.steps == 6
    assert trainer.tokens == 2 * (12 + 9 + 15 + 6 + 11)
    assert trainer.optimiser.param_groups[0]["lr"] == pytest.approx(3e-3 * share_of_peak(6, 6))
    assert trainer.optimiser.param_groups[0]["betas"] == (0.9, 0.999)


def test_auto_is_a_share_of_the_width(tokenizer):
    """0.192 / 32 hidden units = 0.006."""
    _, trainer = train(tokenizer, learning_rate="auto", epochs=1)
    assert trainer.optimiser.param_groups[0]["initial_lr"] == pytest.approx(0.006)


# Learning


def test_the_loss_is_the_mean_over_the_labels_of_the_batch(tokenizer, tmp_path):
    """One batch of windows of 12 and 5 labels: the mean over 17, not of two means."""
    some = records((13, 6))
    losses = []
    model = tiny_model("gpt_neo")
    for window in some.windows:
        ids = torch.from_numpy(window.input_ids)[None]
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        losses += [-float(log_probs[t - 1, ids[0, t]]) for t in range(1, ids.shape[1])]
    train(tokenizer, some, epochs=1, log=Log(tmp_path / "log.jsonl"))
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"]["loss"] == pytest.approx(sum(losses) / 17, rel=1e-5)


def test_windows_without_labels_that_count_are_left_out(tokenizer):
    """A batch of none but such windows would have a mean over nothing: 3 of 5 windows, 3 steps."""
    _, trainer = train(tokenizer, records(unscored=(0, 3)), batch_size=1, epochs=1)
    assert trainer.steps == 3
    assert trainer.tokens == 9 + 15 + 11


def test_it_stops_at_the_epoch_that_reaches_the_goal(tokenizer):
    """Perplexity is below a million from the start, and never below 1."""
    result, trainer = train(tokenizer, until="perplexity<1000000", epochs=5)
    assert (result.epochs, result.reached, trainer.steps) == (1, True, 3)
    assert result.value is not None
    assert 1 < result.value < 1e6
    result, _ = train(tokenizer, until="perplexity<1", epochs=2)
    assert (result.epochs, result.reached) == (2, False)


def test_it_learns_by_heart(tokenizer):
    result, _ = train(tokenizer, until="ma>=0.99", epochs=60, learning_rate=1e-2)
    assert result.reached
    assert result.epochs < 60


def test_without_a_goal_there_is_no_value(tokenizer):
    result, trainer = train(tokenizer, epochs=1)
    assert (result.value, result.reached) == (None, None)
    assert trainer.rounds == [{"round": 1, "epochs": 1, "value": None}]


def test_a_goal_that_the_records_are_too_short_for_is_refused(tokenizer):
    with pytest.raises(UserError, match="el_10 cannot be measured on these records"):
        train(tokenizer, records((6, 5)), until="el_10>0.5")


def test_one_record_is_enough(tokenizer):
    result, trainer = train(tokenizer, records((6,)), batch_size=8, epochs=2)
    assert (result.epochs, trainer.steps) == (2, 2)


def test_the_same_seed_gives_the_same_weights_and_another_seed_another_order(tokenizer):
    digests = [digest_model(train(tokenizer, seed=seed)[0].model) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
