"""The speed benchmark's own arithmetic and checks, on tiny models; no test asserts a time."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import VOCAB, tiny_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import speed
import speed_asking
from speed_asking import AskingPlan, Ours, compare
from speed_cases import Case, NoText, own_text
from speed_definition import Definition, overlap, prompt_lengths, spread_lengths
from speed_step import Steps, kept_bytes
from speed_table import render
from speed_timing import Cost

TOKENS = 24


def random_ids(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, VOCAB, (count, TOKENS), generator=torch.Generator().manual_seed(seed))


def case(kind: str = "unseen") -> Case:
    model = tiny_model("gpt_neo")
    if kind == "memorised":  # the text must not end where the model would end it
        model.generation_config.eos_token_id = model.config.eos_token_id = None
    ids = random_ids(3) if kind == "unseen" else own_text(model, random_ids(3))
    return Case("tiny", kind, model, NoText(), ids)


@pytest.mark.parametrize("kind", ["memorised", "unseen"])
def test_both_ways_give_equal_values_for_every_prompt_range(kind):
    rows = compare(case(kind), AskingPlan({1: Ours(2), 9: Ours()}))
    assert [row.start for row in rows] == [1, 9]
    for row in rows:
        assert not row.extrapolated
        assert row.asked_lengths == TOKENS - 1
        if kind == "memorised":
            assert row.ma == row.el_10 == 1


def test_a_wrong_continuation_is_found(monkeypatch):
    """The comparison is no formality: one changed token makes it fail."""
    real = speed_asking.ours

    def wrong(*arguments):
        answers = real(*arguments)
        tokens = {m: (t + 1) % VOCAB for m, t in answers[0].decoded.items()}
        return [replace(answers[0], decoded=tokens), *answers[1:]]

    monkeypatch.setattr(speed_asking, "ours", wrong)
    with pytest.raises(AssertionError, match="record 0"):
        compare(case(), AskingPlan({1: Ours()}, [3, 8]))


def test_ours_on_a_part_of_the_records_is_multiplied_up(monkeypatch):
    """One of three records in 2 s is 6 s for all."""
    model_case = case()
    answers = speed_asking.ours(model_case, model_case.windows[:1], 1)
    monkeypatch.setattr(speed_asking, "timed", lambda _: (answers, Cost(2, 2)))
    row = compare(model_case, AskingPlan({1: Ours(1, records=1)}, [3]))[0]
    assert (row.ours_records, row.records) == (1, 3)
    assert row.ours == Cost(6, 6)


def test_extrapolation_is_exact_where_cost_is_linear_in_tokens_and_passes():
    """0.1 s per token read and 2 s per pass; a prompt of t is followed by 23 - t passes.

    From 1 to 23 there are 276 tokens for MA; the prompts 5..14 of EL_10 have 95 tokens and
    10 * 23 - 95 = 135 passes: 0.1 * (276 + 95) + 2 * 135 = 307.1 s.
    """
    slow = Definition(None, random_ids(1), frozenset())
    for t in (6, 12):
        slow.first[t] = ([], Cost(0.1 * t, 0.1 * t))
        slow.rest[t] = ([], Cost(0.1 * t + 2 * (23 - t), 0.0))
    assert not slow.is_complete
    assert slow.cost(5).process == pytest.approx(307.1)


def test_cost_of_all_lengths_is_their_sum():
    """23 calls of 1 s for MA, and 14 - 9 + 1 = 6 of 10 s for EL_10 from 9 on."""
    slow = Definition(None, random_ids(1), frozenset())
    slow.first = {t: ([], Cost(1, 1)) for t in range(1, TOKENS)}
    slow.rest = {t: ([], Cost(10, 10)) for t in range(1, TOKENS - 9)}
    assert slow.cost(9) == Cost(83, 83)


def test_overlap_counts_ten_grams_with_multiplicity():
    """The text of 11 tokens has two 10-grams; a continuation with the first one thrice has 3/2."""
    text = list(range(11))
    assert overlap(text[:10] * 3, text) == 3 / 2


def test_definition_stops_at_the_end_of_text():
    slow = Definition(tiny_model("gpt2"), random_ids(1), frozenset({1}))
    assert slow._until_end([4, 1, 0, 0]) == [4, 1]


def test_spread_lengths_lie_in_both_parts_of_the_range():
    lengths = spread_lengths(200, 150, 6, torch.Generator().manual_seed(0))
    assert [length for length in lengths if length >= 150] == lengths[3:]
    assert set(lengths) <= set(prompt_lengths(1, 200))
    assert len(set(lengths)) == 6


def test_kept_bytes_are_those_of_the_hidden_states():
    """128 records of 23 positions and 32 hidden units of 4 bytes; the table has 24 x 96 x 4."""
    found = kept_bytes(tiny_model("gpt_neo"), random_ids(4), 128)
    assert found["kept"] == 128 * 23 * 32 * 4
    assert found["table"] == 128 * 24 * VOCAB * 4
    assert found["head"] == VOCAB * 32 * 4


def test_both_kinds_of_step_see_the_same_tokens():
    """At the target the divergence is 0, and the two losses average to the plain one.

    The analogous term is twice its loss, the forget term minus its loss.
    """
    steps = Steps(tiny_model("gpt_neo"), random_ids(4), "cpu")
    terms = steps.icu()
    assert terms["kl"] == pytest.approx(0, abs=1e-6)
    mean = (terms["analogous"] / 2 - terms["forget"]) / 2
    assert mean == pytest.approx(steps.plain(), rel=1e-5)


def test_page_marks_goals_extrapolations_and_parts():
    rows = compare(case(), AskingPlan({1: Ours(1, records=2)}, [3, 8]))
    row = speed._asking(replace(rows[0], definition=Cost(100, 90), ours=Cost(10, 10)))
    times = Steps(tiny_model("gpt_neo"), random_ids(4), "cpu").measure(1)
    times = replace(times, icu=Cost(1.1, 1.2), plain=Cost(1.0, 1.0))
    kept = kept_bytes(tiny_model("gpt_neo"), random_ids(2), 128) | {"name": "tiny"}
    page = render(
        {
            "command": "speed.py",
            "seconds": 60,
            "load": [1.0, 1.0],
            "clock": "process",
            "hardware": {"device": "a processor", "processors": 2, "threads": 1},
            "versions": {"torch": "2"},
            "asking": [row],
            "bytes": kept,
            "steps": [speed._step("tiny", 2, times)],
            "left_out": ["nothing"],
        }
    )
    asked, counted, step = (
        next(line for line in page.splitlines() if line.startswith(start))
        for start in ("| tiny | unseen", "| hidden states kept |", "| tiny | 2 + 2")
    )
    assert "(e: 2 of 23 lengths)" in asked
    assert "(p: 2 of 3 records)" in asked
    assert "| 10.0 | 9.0 | at least 20 | **not reached** |" in asked
    assert "**not reached**" in counted  # 24 * 96 / (23 * 32) = 3.1
    assert "| 1.10 | 1.20 | at most 1.15 | reached |" in step
    assert "(e) Extrapolated" in page
    assert "(p) Ours was run on a part" in page


def test_without_data_the_small_model_is_left_out_in_words(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("UNLEARNER_DATA", str(tmp_path / "absent"))
    results = {"left_out": [], "asking": [], "steps": []}
    speed._small(speed.QUICK, None, "cpu", results)
    assert results["asking"] == []
    assert "UNLEARNER_DATA" in results["left_out"][0]
    assert "UNLEARNER_DATA" in capsys.readouterr().err
