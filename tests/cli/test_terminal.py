"""Results in the terminal: whole lines, and ids that do nothing."""

import math
from pathlib import Path

import torch

from unlearner.cli.terminal import print_check, print_verdict
from unlearner.data.duplicates import Duplicate
from unlearner.evaluation.intervals import Value
from unlearner.families.base import CheckResult
from unlearner.training.data import HoldoutBaseline
from unlearner.training.memory import CHECKPOINT, SAVED, STEP, ResourcePlan

HOSTILE = "[red]a[/red]:warning:\x1b[2J\x07"
INERT = "[red]a[/red]:warning:\\x1b[2J\\x07"
GIB = 2**30
PARTS = {
    "held already": GIB,
    "further models": 0,
    STEP: GIB // 2,
    CHECKPOINT: 0,
    SAVED: GIB // 4,
}
SENTENCE = "memorised: MA 0.900, EL_10 0.500, unseen text has 0.300 and 0.010"
LEVEL = HoldoutBaseline(0.3, 0.01, 0.1, 3.0, 0.5, 0.1, "")


def value(figure, low=0.0, high=1.0):
    return Value(figure, low, high, 7)


def checked(found=(), ids=("a", "b")):
    figures = {"ma": value(0.9, 0.8, 0.95), "el_10": value(0.5, math.nan, math.nan)}
    return CheckResult(
        family="causal-lm",
        values={"forget": figures},
        level=LEVEL,
        memorised=True,
        sentence=SENTENCE,
        duplicates={"retain": list(found)},
        record_ids={"forget": list(ids), "retain": list(ids)},
        plan=ResourcePlan(2.0, 40, PARTS, torch.device("cpu"), {}, ignored=False),
    )


def report(reason="fine", notes=(), status="met"):
    claims = [{"claim": "verbatim", "status": status, "reason": reason}]
    return {"verdict": {"status": status, "claims": claims, "notes": list(notes)}}


def test_a_check_tells_figures_copies_and_what_a_run_takes(capsys):
    """Two copies: a of the forget set is b of the retain set exactly, b is nearly a."""
    print_check(checked([Duplicate(0, 1, 1.0, True), Duplicate(1, 0, 0.9, False)]))
    out = capsys.readouterr().out
    assert "copies of forget records in retain: 1 exact, 1 near\n  a ~ b, b ~ a\n" in out
    assert (
        "a run takes about 2.0 s an epoch, at most 40 epochs (80 s), and up to 1.50 GiB of memory "
        "(when the largest step is taken)\n"
    ) in out
    assert out.endswith(SENTENCE + "\n")
    assert "0.9 (0.8 to 0.95)" in " ".join(out.split())
    assert "nan" not in out  # one subject has no interval


def test_a_check_tells_the_parts_of_a_runs_memory(capsys):
    """The step needs more than the saved model; a part that takes nothing is no line."""
    print_check(checked())
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "│ held already │ 1.00 GiB │ yes │" in lines
    assert "│ largest step │ 512 MiB │ yes │" in lines
    assert "│ saved model │ 256 MiB │ │" in lines
    assert any(line.startswith("│ expected peak │ 1.50 GiB │ when the largest") for line in lines)
    assert not any("further models" in line or "checkpoint" in line for line in lines)


def test_only_the_first_ten_copies_are_named(capsys):
    ids = [f"id{i}" for i in range(12)]
    print_check(checked([Duplicate(i, i, 1.0, True) for i in range(12)], ids))
    out = capsys.readouterr().out
    assert "12 exact, 0 near" in out
    assert "id9 ~ id9 ...\n" in out
    assert "id10" not in out


def test_ids_are_shown_not_obeyed(capsys):
    print_check(checked([Duplicate(0, 0, 1.0, True)], [HOSTILE]))
    assert f"  {INERT} ~ {INERT}\n" in capsys.readouterr().out


def test_reasons_notes_and_paths_are_shown_not_obeyed(capsys):
    print_verdict(report(reason=HOSTILE, notes=[HOSTILE]), Path(HOSTILE))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert f"  verbatim: met. {INERT}\n  {INERT}\nreport: {INERT}/report.html\n" in out


def test_without_a_terminal_a_line_is_whole_however_long(capsys):
    output = Path("a/very/long/path") / ("x" * 120)
    print_verdict(report(reason="because " * 40 + "of it"), output)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"report: {output / 'report.html'}"
    assert lines[1] == "  verbatim: met. " + "because " * 40 + "of it"


def test_a_verdict_begins_with_its_status_and_what_no_test_proves(capsys):
    for status in ("met", "not met", "not measured"):
        print_verdict(report(status=status), Path("out"))
        assert capsys.readouterr().out.startswith(
            f"verdict: {status} (suppressed or not on the tests run; no test proves that"
        )
