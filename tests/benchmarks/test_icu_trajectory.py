"""What the table of ICU's trajectories is made of."""

import math

import pytest
import torch

from conftest import tiny_model
from icu_trajectory import perplexity_at, render
from published_icu import PublishedLoop


def line(ma, perplexity):
    return {"ma": ma, "el_10": 0.0, "retain_perplexity": perplexity, "active": 1}


LINES = [line(0.9, 1.0), line(0.7, 2.0), line(0.6, 3.0), line(0.65, 4.0)]


def test_the_perplexity_at_a_level_is_on_the_line_between_two_epochs():
    """From 0.7 to 0.6, 0.62 is four fifths of the way from 2 to 3; and 0.5 is never reached."""
    assert perplexity_at(LINES, 0.62) == pytest.approx(2.8)
    assert perplexity_at(LINES, 0.7) == pytest.approx(2.0)
    assert math.isnan(perplexity_at(LINES, 0.5))


def test_the_table_has_means_and_ranges_over_seeds():
    shorter = [line(0.8, 1.0), line(0.5, 2.0)]
    page = render({"runs": {"preset": [LINES, [*shorter, {"verdict": "met"}]]}})
    (head, _, ma, perplexity) = page.splitlines()
    assert head.startswith("| loop | figure | 0 | 1 | 2 | 3 |")
    assert "| 0.850 (0.800 to 0.900) | 0.600 (0.500 to 0.700) | 0.600 (0.600 to 0.600) |" in ma
    assert ma.endswith("| 3, 1 |")
    assert "| 2.200 (1.600 to 2.800) |" in perplexity


def test_the_published_loss_by_hand():
    """Two records and their pairs; probabilities straight from the model, one token at a time."""
    model = tiny_model("gpt2").double()
    records, pairs = torch.randint(2, 90, (2, 2, 6), generator=torch.Generator().manual_seed(0))
    loop = PublishedLoop(model, records, pairs, 1e-3)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
        found = float(loop.loss([0, 1]))
        climb, learn, stay = [], [], []
        for ids, pair in zip(records, pairs, strict=True):
            said, heard = (
                model(input_ids=some[None]).logits[0].softmax(-1) for some in (ids, pair)
            )
            wanted = loop.target(input_ids=pair[None]).logits[0].softmax(-1)
            climb += [-math.log(said[t - 1, ids[t]]) for t in range(1, 6)]
            learn += [-math.log(heard[t - 1, pair[t]]) for t in range(1, 6)]
            stay += [-float((wanted[t] * heard[t].log()).sum()) for t in range(6)]
    mean = [sum(some) / len(some) for some in (climb, learn, stay)]
    assert [len(climb), len(stay)] == [10, 12]
    assert found == pytest.approx(-mean[0] + 0.5 * mean[1] + mean[2], rel=1e-8)
