"""The pages of the classifier benchmarks: means, ranges and gaps by hand; rows are kept once."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from test_comparison import comparison

import compared
import deepcut_defaults
import deepcut_table
import icu_table
import requests_in_a_row
import retrained_seeds
from real_classifiers import Rows
from unlearner.requests.holds import StillHeld
from unlearner.requests.runs import Ended


def row(method, seed, forget, auc, seconds=10.0):
    return {
        "task": "banking77",
        "removal": "5%",
        "seed": seed,
        "method": method,
        "seconds": seconds,
        "share": seconds / 100,
        "forget": forget,
        "retain": 0.9,
        "test": 0.8,
        "auc": auc,
    }


def test_a_line_holds_means_ranges_and_the_mean_gap_to_retraining(tmp_path, monkeypatch):
    """Gaps: of seed 0 (0.1 + 0) / 4 = 0.025, of seed 1 (0.1 + 0.2) / 4 = 0.075; their mean 0.05."""
    monkeypatch.setattr(deepcut_table, "RESULTS", tmp_path)
    rows = [row("retrained", seed, 0.8, 0.5, 100.0) for seed in (0, 1)]
    rows += [row("deepcut", 0, 0.9, 0.5), row("deepcut", 1, 0.9, 0.7, 30.0)]
    deepcut_table.write_table("banking77", rows)
    page = (tmp_path / "deepcut-banking77.md").read_text("utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| deepcut")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == ["2", "20", "0.20"]
    assert cells[4] == "0.900 (0.900 to 0.900)"
    assert cells[7:] == ["0.600 (0.500 to 0.700)", "-", "0.050"]
    kept = json.loads((tmp_path / "deepcut-banking77.json").read_text("utf-8"))
    assert kept["rows"] == rows
    assert kept["environment"]["threads"] == 1


def test_a_row_is_found_by_its_key_and_not_by_another(tmp_path, capsys):
    rows = Rows(tmp_path / "work" / "table.jsonl")
    assert rows.all() == []
    rows.add(row("deepcut", 0, 0.9, 0.5))
    assert rows.has({"method": "deepcut", "seed": 0})
    assert not rows.has({"method": "deepcut", "seed": 1})
    assert json.loads(capsys.readouterr().out)["forget"] == 0.9


@pytest.mark.parametrize("variant", list(deepcut_defaults.VARIANTS))
@pytest.mark.parametrize("task", list(deepcut_defaults.BASES))
def test_every_variant_is_a_setting_of_the_method(task, variant):
    assert deepcut_defaults.DeepCUT(**deepcut_defaults.settings(task, variant))


def test_a_weight_is_a_multiple_of_the_familys_own_and_a_base_departs_from_nothing():
    """Twice 2 for texts, twice 0.3 for tags, which have the gradient stopped by themselves."""
    for task, weight in (("banking77", 4.0), ("wnut17", 0.6)):
        assert deepcut_defaults.settings(task, "gamma doubled")["forget_weight"] == weight
    assert deepcut_defaults.departs("banking77", "stop gradient")
    assert not deepcut_defaults.departs("wnut17", "stop gradient")


def test_rows_of_an_earlier_run_have_lines_of_their_own_beside_its_retrained_model(
    tmp_path, monkeypatch
):
    """Now .1 from the retrained model in one figure of four, .025; then .3 from its own, .075."""
    monkeypatch.setattr(deepcut_table, "RESULTS", tmp_path)
    then = {"earlier": True}
    rows = [row("retrained", 0, 0.8, 0.5), row("deepcut", 0, 0.9, 0.5)]
    rows += [row("retrained", 0, 0.5, 0.5) | then, row("deepcut", 0, 0.8, 0.5) | then]
    deepcut_table.write_table("banking77", rows)
    page = (tmp_path / "deepcut-banking77.md").read_text("utf-8")
    lines = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| ")}
    assert lines["| deepcut"].endswith("| 0.025 |")
    assert lines["| deepcut *"].endswith("| 0.075 |")
    assert deepcut_table.EARLIER in page


@pytest.mark.parametrize("name", list(deepcut_table.METHODS))
def test_every_method_of_the_table_takes_its_settings(name):
    method = deepcut_table.load_method(name)(**deepcut_table.METHODS[name])
    assert "token-classification" in method.families


def test_the_table_of_a_comparison_has_means_settings_and_what_a_search_took():
    """Perplexity 21 is 1.05 times the target's 20; of two trials of 2 s one reached it."""
    found = {cells[0]: cells for cells in compared.rows(comparison())}
    assert list(found) == ["target", "retrained", "`icu` *", "`npo` *", "`gradient_ascent`"]
    assert found["retrained"][3] == "0.350"
    assert found["`npo` *"][1:4] == ["learning_rate 0.002", "1 of 2", "0.400"]
    assert found["`npo` *"][7:] == ["1.050", *"-----", "1", "1 of 2 reached, 4 s"]
    assert found["`icu` *"][1] == "as given"
    assert found["`gradient_ascent`"][7] == "-"


def test_of_a_later_comparison_lines_are_marked_and_take_the_place_of_earlier_ones():
    later = comparison()
    del later["methods"]["npo"]
    later["results"] = {"target": later["results"]["target"]}
    later["methods"]["icu"]["summary"]["forget"]["ma"]["value"] = 0.123
    found = {cells[0]: cells for cells in compared.rows(comparison(), later)}
    names = ["`icu` †", "`npo`", "`gradient_ascent` †"]
    assert list(found) == ["target", "retrained", "target †", *names]
    assert found["`icu` †"][3] == "0.123"


def test_the_page_has_the_table_of_the_finished_rows():
    measured = json.loads(icu_table.RESULTS.read_text("utf-8"))
    page = icu_table.PAGE.read_text("utf-8")
    assert icu_table.with_table(page, measured) == page


def test_a_line_of_the_pages_table_is_the_reports_own_figure(tmp_path):
    """Perplexity 2441.3 has no places, 1.049 three digits; unseen text is beside the forget set."""
    value = lambda number: {"value": number}  # noqa: E731
    sets = {
        "forget": {"ma": value(0.25), "perplexity": value(2441.3), "mia_loss_auc": value(0.04)},
        "retain": {"perplexity": value(1.049)},
        "holdout": {"ma": value(0.38), "perplexity": value(158.4), "el_10": value(0.00034)},
    }
    report = {
        "verdict": {"status": "met"},
        "rounds": [{}, {}, {}],
        "environment": {},
        "cost": {"seconds_unlearning": 12.4},
        "results": {"target": sets, "unlearned": sets},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = list(icu_table.lines({"TOFU": icu_table.figures(tmp_path / "report.json")}))
    assert found[2] == ["MA of forgotten records", "0.250", "0.250", "0.380"]
    assert found[3] == ["EL_10 of forgotten records", "-", "-", "0.0003"]
    assert found[4][1:] == ["2441", "2441", "158"]
    assert found[5][1:] == ["1.05", "1.05", ""]
    assert found[-1] == ["epochs, seconds; verdict", "", "2, 12", "met"]


def test_the_page_on_choosing_has_the_table_of_the_committed_comparison():
    page = compared.PAGE.read_text("utf-8")
    assert compared.with_table(page, compared.comparisons()) == page


def ended(requests, held, folder):
    return Ended(tuple(requests), "met", folder, tuple(held))


def test_a_row_of_requests_counts_what_earlier_ones_hold(tmp_path):
    """Of three earlier requests two hold, one of which was run with another; its own is no part."""
    held = [
        StillHeld(("01", "02"), "holds", {}, ""),
        StillHeld(("03",), "lost", {}, "ma of forget is 0.6, the limit 0.5"),
        StillHeld(("04",), "lost", {}, "of no matter here"),
        StillHeld((), "holds", {}, ""),
    ]
    results = {
        name: {"retain": {"perplexity": {"value": value}}}
        for name, value in (("original", 2.0), ("target", 1.9), ("unlearned", 2.1))
    }
    (tmp_path / "report.json").write_text(json.dumps({"results": results}), "utf-8")
    line = requests_in_a_row.row_of(
        ended(["04"], held, tmp_path), 12.4, requests_in_a_row.TASKS["tofu"]
    )
    assert line == ("| 04 | met | 2 of 3 | 1.050 | 12 | 03: ma of forget is 0.6, the limit 0.5 |")


def test_where_nothing_was_to_be_run_a_row_has_no_figure(tmp_path):
    line = requests_in_a_row.row_of(
        ended(["01"], [], tmp_path), 3.0, requests_in_a_row.TASKS["banking77"]
    )
    assert line == "| 01 | met | 0 of 0 | - | 3 | - |"


def test_retrained_models_are_set_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(retrained_seeds, "RESULTS", tmp_path / "page.md")
    some = {name: {"value": 0.25} for name in retrained_seeds.FIGURES}
    retrained_seeds._write({1: some, 0: some}, {"0, 1": 0.0625})
    lines = (tmp_path / "page.md").read_text("utf-8").splitlines()
    assert "| 0 |" + " 0.250 |" * 6 in lines
    assert lines[-1] == "| 0, 1 | 0.062 |"
    assert json.loads((tmp_path / "page.json").read_text("utf-8"))["distances"] == {"0, 1": 0.0625}
