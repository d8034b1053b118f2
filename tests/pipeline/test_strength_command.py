"""`unlearner strength` on a finished run: what it finds, where it writes it, what it refuses."""

import json
import math
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from command_world import SETS, spoil_weights
from conftest import tiny_model
from page_reader import Page
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT, run
from unlearner.pipeline.strength import Point, evenly_spaced, largest_keeping, mix
from unlearner.report.files import write_report

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
FIGURES = ("ma", "el_10", "es")


@pytest.fixture(scope="module")
def world(one_key, model_folders, tmp_path_factory):  # noqa: ARG001 - the key comes first
    """Records, a target, and `run`, in which it unlearned them by a few epochs of NPO."""
    root = tmp_path_factory.mktemp("world")
    shutil.copytree(model_folders / "good", root / "target")
    for name, text in SETS.items():
        (root / name).write_text(text)
    status = run(
        [
            "forget",
            str(root / "target"),
            *files(root),
            "--output",
            str(root / "run"),
            "--method",
            "npo",
            "--quiet",
            "method.max_epochs=4",
            "method.stop=never",
            "method.learning_rate=1e-3",
            "evaluation.resamples=20",
        ]
    )
    assert status in (MET, NOT_MET)
    return root


def files(root):
    roles = ("forget", "retain", "holdout")
    return [part for role in roles for part in (f"--{role}", str(root / f"{role}.jsonl"))]


@pytest.fixture
def finished(world, tmp_path):
    """A copy of the run's folder."""
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


def read(folder):
    return json.loads((folder / "report.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def looked_at(world, tmp_path_factory):
    """A copy of the run with five points."""
    folder = Path(shutil.copytree(world / "run", tmp_path_factory.mktemp("looked") / "run"))
    assert run(["strength", str(folder), "--points", "5", "--quiet"]) == MET
    return folder


# What is found


def test_shares_are_evenly_spaced_with_both_ends():
    """Nine points are eighths."""
    assert evenly_spaced(9) == [0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1]
    assert evenly_spaced(2) == [0, 1]


def test_the_report_gets_the_points_and_keeps_everything_else(world, looked_at):
    report, before = read(looked_at), read(world / "run")
    jsonschema.validate(report, SCHEMA)
    strength = report.pop("strength")
    assert report == before
    assert [point["share"] for point in strength["points"]] == [0, 0.25, 0.5, 0.75, 1]
    assert all(point["el_10"] is not None for point in strength["points"])  # looks are whole


def test_the_ends_of_the_path_are_the_models_of_the_report(looked_at):
    """All six kept records are watched, so that the ratio is the report's own as well."""
    report = read(looked_at)
    results, points = report["results"], report["strength"]["points"]
    for model, point in (("target", points[0]), ("unlearned", points[-1])):
        for name in FIGURES:
            assert point[name] == pytest.approx(results[model]["forget"][name]["value"], abs=1e-6)
    kept = [results[one]["retain"]["perplexity"]["value"] for one in ("target", "unlearned")]
    assert points[0]["kept_ratio"] == 1
    assert points[-1]["kept_ratio"] == pytest.approx(kept[1] / kept[0], rel=1e-4)


def test_a_point_between_is_the_model_with_the_mean_of_both_weights(world, looked_at, tmp_path):
    """The half-way model, saved and measured by `evaluate`, has the figures of the point 0.5."""
    half = Path(shutil.copytree(world / "target", tmp_path / "half"))
    one, other = (
        load_file(folder / "model.safetensors")
        for folder in (world / "target", looked_at / "model")
    )
    mixed = {name: (one[name] + other[name]) / 2 for name in one}
    save_file(mixed, half / "model.safetensors", {"format": "pt"})
    run(
        [
            "evaluate",
            str(half),
            *files(world),
            "--target",
            str(world / "target"),
            "--quiet",
            "--output",
            str(tmp_path / "out"),
            "evaluation.resamples=20",
        ]
    )
    results, point = read(tmp_path / "out")["results"], read(looked_at)["strength"]["points"][2]
    for name in FIGURES:
        assert point[name] == pytest.approx(results["unlearned"]["forget"][name]["value"], abs=1e-6)
    kept = [results[model]["retain"]["perplexity"]["value"] for model in ("target", "unlearned")]
    assert point["kept_ratio"] == pytest.approx(kept[1] / kept[0], rel=1e-4)


def test_what_is_at_the_floor_is_the_last_point_under_it(looked_at):
    """The floor is 1.1 times the target's perplexity, as no criterion was set otherwise."""
    strength = read(looked_at)["strength"]
    under = [point for point in strength["points"] if point["kept_ratio"] <= 1.1]
    assert strength["at_the_floor"] == under[-1]


def test_the_furthest_under_the_floor_is_taken_though_nearer_ones_are_above():
    points = [
        Point(share, 0.5, None, None, ratio, suppressed=False)
        for share, ratio in ((0, 1.0), (0.5, 1.3), (0.75, 1.09), (1, math.inf))
    ]
    best = largest_keeping(points, 1.1)
    assert best is not None
    assert best.share == 0.75
    assert largest_keeping(points[1:2], 1.1) is None


def test_mixing_is_the_weighted_mean_and_its_ends_are_exact():
    """(1 - a) w + a v, to the last bit at 0 and 1."""
    model, other = tiny_model("llama", 1), tiny_model("llama", 2)
    one = {name: some.clone() for name, some in model.state_dict().items()}
    two = other.state_dict()
    for share in (0.0, 0.25, 1.0):
        mix(model, one, two, share)
        for name, some in model.state_dict().items():
            wanted = (1 - share) * one[name] + share * two[name]
            torch.testing.assert_close(some, wanted)
            assert share not in (0.0, 1.0) or torch.equal(some, wanted)


# What is shown


def test_the_terminal_has_a_row_for_each_point_and_the_largest_share(finished, capsys):
    assert run(["strength", str(finished), "--points", "3", "--quiet"]) == MET
    out = capsys.readouterr().out.replace("\xa0", " ")
    shares = re.findall(r"^[│|]\s+([\d.]+ %)", out, re.MULTILINE)
    assert shares == ["0 %", "50 %", "100 %"]
    assert "floor: perplexity of kept text at most 1.1 times the target model's" in out
    best = read(finished)["strength"]["at_the_floor"]
    said = next(line for line in out.splitlines() if line.startswith("largest share"))
    assert f"{100 * best['share']:.3g} %" in said or best["share"] == 0
    assert str(finished / "report.html") in out


def test_the_pages_show_it(looked_at):
    page = Page((looked_at / "report.html").read_text("utf-8"))
    drawn = [a["aria-label"] for _, a in page.tags if a.get("class") == "plot"]
    told = next(label for label in drawn if label.startswith("By share of the change"))
    assert told.count("perplexity times") == 6  # five points and the limit
    sentence = r"(art of the change|is the most), of the 5 shares|Even the whole change"
    assert re.search(sentence, page.shown)
    assert re.search(sentence, (looked_at / "report.md").read_text("utf-8"))


def test_a_second_time_takes_the_place_of_the_first(finished):
    for points in (2, 3):
        assert run(["strength", str(finished), "--points", str(points), "--quiet"]) == MET
    assert len(read(finished)["strength"]["points"]) == 3


def test_the_same_command_gives_the_same_bytes(world, looked_at, tmp_path):
    again = Path(shutil.copytree(world / "run", tmp_path / "run"))
    assert run(["strength", str(again), "--points", "5", "--quiet"]) == MET
    for name in ("report.json", "report.html", "report.md"):
        assert (again / name).read_bytes() == (looked_at / name).read_bytes()


def test_nothing_but_the_three_reports_is_touched(world, looked_at):
    for path in (world / "run").rglob("*"):
        if path.is_file() and not path.name.startswith("report."):
            assert (looked_at / path.relative_to(world / "run")).read_bytes() == path.read_bytes()


# What is refused


def change_yaml(folder, section, **values):
    path = folder / "run.yaml"
    sections = yaml.safe_load(path.read_text())
    sections[section].update(values)
    path.write_text(yaml.safe_dump(sections))


def change_report(folder, change):
    report = read(folder)
    change(report)
    write_report(report, folder)


def move_target(folder):
    change_yaml(folder, "model", name=str(folder / "elsewhere"))


def change_target(folder):
    name = yaml.safe_load((folder / "run.yaml").read_text())["model"]["name"]
    shutil.copytree(name, folder.parent / "changed")
    spoil_weights(folder.parent / "changed", lambda _, tensor: tensor * 1.01)
    change_yaml(folder, "model", name=str(folder.parent / "changed"))


def change_forget(folder):
    text = SETS["forget.jsonl"].replace("york", "hull")
    (folder.parent / "other.jsonl").write_text(text)
    change_yaml(folder, "data", forget=str(folder.parent / "other.jsonl"))


REFUSED = {
    "an evaluation": (
        lambda f: change_report(f, lambda r: r.update(command="evaluate")),
        r"is a folder of `unlearner evaluate`",
    ),
    "an ensemble": (
        lambda f: (f / "model/ensemble.json").write_text("{}"),
        r"model: is an ensemble of several models, so there is nothing between it and the target",
    ),
    "no report": (lambda f: (f / "report.json").unlink(), r"report\.json: no such file"),
    "no model": (lambda f: shutil.rmtree(f / "model"), r"model: no such folder; .*repeat the run"),
    "no run file": (lambda f: (f / "run.yaml").unlink(), r"run\.yaml: no such run file"),
    "a model from Python": (
        lambda f: change_yaml(f, "model", name=""),
        r"given its model or its records from Python",
    ),
    "records from Python": (
        lambda f: change_yaml(f, "data", forget=""),
        r"given its model or its records from Python",
    ),
    "a target that is gone": (move_target, r"model\.name .*elsewhere: no longer there"),
    "records that are gone": (
        lambda f: change_yaml(f, "data", retain="gone.jsonl"),
        r"data\.retain gone\.jsonl: no longer there; restore it, or run the command in the folder",
    ),
    "a target that has changed": (change_target, r"changed: is not the model that the run in"),
    "an unlearned model that has changed": (
        lambda f: spoil_weights(f / "model", lambda _, tensor: tensor * 1.01),
        r"model: is not the model that was measured",
    ),
    "records that have changed": (
        change_forget,
        r"data\.forget .*other\.jsonl: its records are not those of the run",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_in_one_line_and_nothing_is_written(what, finished, capsys):
    spoil, said = REFUSED[what]
    spoil(finished)
    before = {path: path.read_bytes() for path in finished.glob("report.*")}
    assert run(["strength", str(finished), "--quiet"]) == WRONG_INPUT
    line = capsys.readouterr().err
    assert re.search(said, line), line
    assert line.count("\n") == 1
    assert {path: path.read_bytes() for path in finished.glob("report.*")} == before


def test_one_point_is_no_path(finished, capsys):
    assert run(["strength", str(finished), "--points", "1"]) == WRONG_INPUT
    assert capsys.readouterr().err.count("\n") == 1
