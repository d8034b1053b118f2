"""The memory benchmark: every case is a run that can be configured, and a small one is made."""

from pathlib import Path

import pytest

import memory
from unlearner.config import RunConfig
from unlearner.pipeline import pipeline
from unlearner.training.trainer import Trainer

SMALL = {"layers": 2, "width": 64, "vocabulary": 500}


@pytest.mark.parametrize("case", memory.CASES, ids=lambda case: case.name)
def test_each_case_is_a_run(case):
    family = "causal-lm" if case.layers else "sequence-classification"
    config = RunConfig.from_sections(memory.sections(case, Path("model")), family=family)
    assert config.training.checkpoint_every == "never"
    for name, value in case.settings.items():
        assert getattr(config.training, name) == value
    assert config.model.holding.casting is bool(case.held)


@pytest.mark.parametrize("held", [None, True])
def test_a_small_run_has_a_line(tmp_path, monkeypatch, held):
    for place, name in ((pipeline, "plan_run"), (pipeline, "announce"), (Trainer, "step")):
        monkeypatch.setattr(place, name, getattr(place, name))  # put back behind the test
    case = memory.Case("small", **SMALL, held=held)
    memory.make_model(case, tmp_path / "model")
    row = memory.run(case, tmp_path / "model")
    assert row["measured_peak"] == max(row["measured"].values()) > 0
    assert ("float32 weights" in row["parts"]) == bool(held)
    assert row["plan_seconds"] > row["step_seconds"] > 0
    versions = {"machine": "x", "versions": {"torch": "1"}}
    page = memory.render({"environment": versions, "rows": [row]})
    ratio = row["expected_peak"] / row["measured_peak"]
    assert f"Expected over measured: {ratio:.2f} to {ratio:.2f}." in page
    assert "| small | " in page
