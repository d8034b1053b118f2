"""Steps by length, timed: the figures that are not seconds are what the batches say."""

import json

import pytest

import lengths
from unlearner.inference import reference


def test_of_a_step_together_and_alone_positions_are_the_paddings_share(
    shared_data, tmp_path, monkeypatch
):
    """One pass has every position; where a pass costs nothing, no padding is left."""
    monkeypatch.setattr(lengths, "RESULTS", tmp_path / "lengths.md")
    monkeypatch.setattr(reference, "PASS_TOKENS", reference.PASS_TOKENS)
    rows = lengths.measure(str(shared_data / "models" / "stories260k"), 4, 1)
    assert [row["costs"] for row in rows] == list(lengths.COSTS)
    first, last = rows[0], rows[-1]
    assert (first["passes"], first["positions"], first["time"]) == (1, 1.0, pytest.approx(1.0))
    assert 1 < last["passes"] <= 4
    assert last["positions"] == min(row["positions"] for row in rows) < 0.95
    lengths.write(rows, 1)
    assert "| stories260k | 4 | - | 1 | 1.00 | 1.00 |" in lengths.RESULTS.read_text("utf-8")
    assert json.loads((tmp_path / "lengths.json").read_text("utf-8"))["rows"] == rows
