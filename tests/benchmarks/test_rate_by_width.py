"""The benchmark of rates over widths: its sets, what it reads off a run, and its page by hand."""

import json
import math

import pytest
import torch

import rate_by_width
from conftest import tiny_tokenizer
from unlearner.data.loading import read_records
from unlearner.settings import TrainingSettings


def line(steps, ma, ratio, *, suppressed):
    return {"steps": steps, "ma": ma, "kept_ratio": ratio, "suppressed": suppressed}


def row(width=64, times=0.064, seed=0, *, steps=6, ma=0.2):
    """The limits kept after so many steps, lost again, and kept in the end after twice as many."""
    course = [
        line(0, 0.98, 1.0, suppressed=False),
        line(steps, ma, 1.3, suppressed=True),
        line(2 * steps, 0.4, 1.02, suppressed=False),
    ]
    return {
        "width": width,
        "times": times,
        "seed": seed,
        "rate": times / width,
        "parameters": 1000 * width,
        "learned": {"epochs": 30, "ma": 0.975},
        "level": 0.25,
        "limit": 0.3,
        "verdict": "not met",
        "final": {"ma": 0.24, "retain_ratio": 1.03, "holdout_ratio": 2.04},
        "course": course,
        "environment": {
            "versions": {"torch": "2", "transformers": "5"},
            "hardware": {"machine": "x86_64"},
        },
    }


def test_the_overshoot_is_counted_in_the_first_round_within_the_limits():
    assert rate_by_width.overshoot(row(ma=0.2)) == pytest.approx(0.05)  # below the level of 0.25
    assert rate_by_width.overshoot(row(ma=0.28)) == 0.0  # between level and limit
    never = row() | {"course": [line(9, 0.4, 1.0, suppressed=False)]}
    assert rate_by_width.overshoot(never) is None
    assert "| - | - | - | - | - | 9 | 3.0 |" in rate_by_width.line_of([never])


def test_the_power_of_the_width_at_which_steps_are_equal():
    """Steps 2 / (c sqrt(width)): c / width^1.5 is c' = c / sqrt(width) of the rule, 2 / c steps."""
    rows = [
        row(width, times, steps=2 / (times * math.sqrt(width)))
        for width in (64, 256)
        for times in (0.01, 0.02)
    ]
    assert rate_by_width.equal_steps_power(rows) == pytest.approx(1.5)
    same = [row(width, times, steps=2 / times) for width in (64, 256) for times in (0.01, 0.02)]
    assert rate_by_width.equal_steps_power(same) == pytest.approx(1.0)


def test_a_line_of_the_page_holds_both_seeds(tmp_path):
    """24 records in batches of 8 are 3 steps an epoch: 6 steps are 2 of them."""
    rows = [row(seed=1, steps=9, ma=0.28), row(), row(128, 0.128, steps=3)]
    rate_by_width.write_table(rows, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert (
        "| 64 | 0.064 | 1.00e-03 | 6 / 9 | 2.0 / 3.0 | 0.200 / 0.280 | 0.050 / 0.000 "
        "| 1.30 / 1.30 | 12 / 18 | 4.0 / 6.0 | 0.240 / 0.240 | 1.030 / 1.030 "
        "| 2.0 / 2.0 | not met / not met |"
    ) in page
    assert "| 128 | 128,000 | 30 | 0.975 | 0.250 | 0.300 |" in page
    assert "| 0.064 | 64 | 0 of 2 | 8 | 15 | 0.050 | 1.30 | 0.010 | 1.030 | 2.0 |" in page
    kept = json.loads((tmp_path / "page.json").read_text("utf-8"))
    assert [(one["width"], one["seed"]) for one in kept["rows"]] == [(64, 0), (64, 1), (128, 0)]


def test_a_round_is_kept_with_whether_it_is_within_the_limits():
    trainer = rate_by_width.WatchedTrainer(TrainingSettings(device="cpu"))
    state = {"values": {"ma": 0.5}, "active": [1, 2], "suppressed": False, "kept_ratio": 1.1}
    assert trainer.evaluate_round(lambda: state) == state
    (found,) = trainer.course
    assert found == {
        "steps": 0,
        "active": 2,
        "ma": 0.5,
        "el_10": None,
        "es": None,
        "suppressed": False,
        "kept_ratio": 1.1,
    }


@pytest.mark.slow
def test_the_sets_are_paragraphs_of_the_books_without_one_in_common(tmp_path, shared_data):
    tokenizer = rate_by_width.AutoTokenizer.from_pretrained(shared_data / "models" / "stories260k")
    rate_by_width.write_sets(shared_data / "public-domain-text", tmp_path, tokenizer)
    found = {
        name: [record.text for record in read_records(tmp_path / f"{name}.jsonl", name=name)]
        for name in rate_by_width.SETS
    }
    assert {name: len(texts) for name, texts in found.items()} == rate_by_width.SETS
    every = [text for texts in found.values() for text in texts]
    assert len(set(every)) == len(every)
    assert all(40 <= len(tokenizer(text)["input_ids"]) <= 80 for text in every)


@pytest.mark.parametrize("width", [64, 256])
def test_a_model_has_the_width_asked_for_and_follows_no_other_seed(width):
    first, second = (rate_by_width.make_model(width, tiny_tokenizer()) for _ in range(2))
    assert first.config.hidden_size == width
    assert first.config.head_dim == 32
    same = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
