"""`unlearner run`: from one file to target, report and comparison; what is finished is kept."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from unlearner.cli import commands
from unlearner.datasets.base import options_of
from unlearner.errors import UserError
from unlearner.pipeline.run_file import ExpectedSettings, compare_expected, read_run_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import rows  # noqa: E402

NAMES = ["amos", "bella", "cyril", "dora", "edwin", "flora"]


def question(kind, number, **more):
    name = NAMES[number % 6]
    return {
        "question": f"what did {name} {kind} say {number}?",
        "answer": f"{name} {kind} has {3 + number * 7} geese",
    } | more


def lines(some):
    return "".join(json.dumps(row) + "\n" for row in some)


def tofu_files():
    """TOFU in small: 4 rows to forget, 30 others of two authors; five or three wrong answers."""
    reworded = {"paraphrased_answer": "geese has he", "perturbed_answer": ["no geese", "a mill"]}
    files = {
        "forget01": [question("f", n) for n in range(4)],
        "retain99": [question("r", n) for n in range(30)],
        "forget01_perturbed": [question("f", n, **reworded) for n in range(4)],
        "retain_perturbed": [question("r", n, **reworded) for n in range(6)],
    }
    wrong = {"perturbed_answer": ["no geese", "a mill"]}
    for part in ("real_authors", "world_facts"):
        files[f"{part}_perturbed"] = [question(part[:1], n, **wrong) for n in range(3)]
    return {f"tofu/{name}.json": lines(some) for name, some in files.items()}


ROW = """
run: {command: forget, output: out/row}
target: {pretrained: $blank, epochs: 30, batch_size: 4, learning_rate: 5e-3, retrained: true}
data:
  name: tofu
  folder: ${WHERE:-tofu}
  append_eos: true
  options: {retain_records: 6, holdout_records: 6, tofu_metrics: true}
method: {name: icu, max_epochs: 2, fresh_per_step: 4}
evaluation: {resamples: 20}
training: {device: cpu}
"""


@pytest.fixture
def files(model_folders):
    return tofu_files() | {"row.yaml": ROW.replace("$blank", str(model_folders / "blank"))}


def test_a_row_makes_its_target_and_a_second_run_only_what_is_missing(
    call, files, tmp_path, monkeypatch
):
    status, _, said, left = call("run row.yaml", files)
    assert status in (0, 3), said
    row = tmp_path / "out/row"
    assert {path.name for path in row.iterdir()} == {
        "target",
        "retrained",
        "run",
        "row.yaml",
        "benchmark.json",
    }
    assert not [name for name in left if name.endswith("records.jsonl")]
    done = json.loads((row / "benchmark.json").read_text("utf-8"))
    assert (done["row"], done["dataset"], done["method"]) == ("row", "tofu", "icu")
    assert done["seconds"]["target"] > 0
    assert set(done["tofu"]) == {"target", "retrained", "unlearned"}
    assert 0 <= done["tofu"]["unlearned"]["forget_quality"] <= 1
    assert "forget_quality" not in done["tofu"]["retrained"]
    assert done["tofu"]["target"]["retain_probability"] > 0.5  # it learned them
    measured = json.loads((row / "run/report.json").read_text("utf-8"))["results"]
    assert (
        measured["retrained"]["forget"]["ma"]["value"] < measured["target"]["forget"]["ma"]["value"]
    )
    assert f"verdict {done['verdict']}" in said

    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(commands, "run_finetune", never)
    monkeypatch.setattr(commands, "run_forget", never)
    monkeypatch.setattr(commands, "write_benchmark", never)
    again = call("run row.yaml", files)
    assert again[0] == status
    assert again[3] == []

    other = call("run row.yaml training.seed=1", files)
    assert other[0] == 2
    assert "--output out/row: holds a run of other settings" in other[2]
    assert call("run row.yaml run.output=elsewhere --output out/row", files)[0] == status


def test_the_target_learns_forget_and_retain_and_the_retrained_model_retain_alone(
    call, files, tmp_path, monkeypatch
):
    taught = {}

    def finetune(_, records, output, **asked):
        some = [json.loads(line) for line in Path(records).read_text("utf-8").splitlines()]
        taught[output.name] = ([row["id"] for row in some], asked["settings"])
        output.mkdir(parents=True)

    monkeypatch.setattr(commands, "run_finetune", finetune)
    files["row.yaml"] = files["row.yaml"].replace("command: forget", "command: finetune")
    assert call("run row.yaml", files)[0] == 0
    forget, retain = [f"forget01-{n}" for n in range(1, 5)], [f"retain99-{n}" for n in range(1, 7)]
    assert taught["target"][0] == forget + retain
    assert taught["retrained"][0] == retain
    for asked in ("data.append_eos=true", 'training.device="cpu"', "epochs=30"):
        assert asked in taught["target"][1]
    assert not (tmp_path / "out/row/run").exists()


@pytest.mark.slow
def test_a_row_can_compare_methods(call, files, tmp_path):
    compared = files["row.yaml"].replace("command: forget", "command: compare, methods: [icu, npo]")
    files["row.yaml"] = compared.replace("max_epochs: 2", "max_epochs: 1").replace(
        "name: icu, ", ""
    )
    status, _, said, _ = call("run row.yaml", files)
    assert status == 0, said
    found = json.loads((tmp_path / "out/row/run/compare.json").read_text("utf-8"))
    assert "npo" in json.dumps(found)
    assert call("run row.yaml", files)[3] == []  # it is finished


def test_a_row_without_a_target_runs_a_model_that_is_there(call, tmp_path):
    row = {
        "model": {"name": "MODEL"},
        "run": {"output": "out/plain"},
        "data": {"forget": "forget.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"},
        "method": {"max_epochs": 1, "fresh_per_step": 4},
        "evaluation": {"resamples": 20},
        "expected": {"metric": "ma", "value": 0.0, "tolerance": 1.0, "source": "any value"},
    }
    status, _, said, _ = call(
        "run plain.yaml model.name=$models/good", {"plain.yaml": yaml.safe_dump(row)}
    )
    assert status in (0, 3)
    assert "as expected (0 ± 1; any value)" in said
    done = json.loads((tmp_path / "out/plain/benchmark.json").read_text("utf-8"))
    report = json.loads((tmp_path / "out/plain/run/report.json").read_text("utf-8"))
    assert done["expected"]["measured"] == report["results"]["unlearned"]["forget"]["ma"]["value"]
    assert done["tofu"] == {}


def test_a_figure_off_the_expected_one_is_status_3(call):
    row = {
        "model": {"name": "MODEL"},
        "data": {"forget": "forget.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"},
        "method": {"max_epochs": 1, "fresh_per_step": 4},
        "evaluation": {"resamples": 20},
        "expected": {"metric": "ma", "value": 7, "tolerance": 0.1, "source": "nowhere"},
    }
    command = "run plain.yaml model.name=$models/good --output out/off"
    status, _, said, _ = call(command, {"plain.yaml": yaml.safe_dump(row)})
    assert status == 3
    assert "NOT as expected" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: tofu", "name: tofo", "no 'tofo' among the datasets: did you mean 'tofu'?"),
        ("${WHERE:-tofu}", "absent", "data.folder: absent: no such folder; give the folder of"),
        ("${WHERE:-tofu}", "${WHERE}", "row.yaml: ${WHERE} is not set; set it, or write"),
        ("retain_records: 6", "split: forget02", "data.options.split: input should be"),
        ("training:", "trainning:", "row.yaml: unknown section 'trainning'; did you mean"),
        ("epochs: 30", "epoch: 30", "finetune: unknown key 'epoch'; did you mean 'epochs'?"),
        ("command: forget", "command: forgot", "run.command: input should be 'forget', "),
        ("max_epochs: 2", "max_epoch: 2", "method: unknown key 'max_epoch'; did you mean"),
        ("command: forget", "command: compare", "--methods: none given; name some"),
        ("command: forget", "command: compare, methods: [icu, 3]", "run.methods: input should be"),
        ("  name: tofu\n", "  forget: x.jsonl\n", "data.name: needed where data.folder"),
        ("pretrained: ", "pretraned: ", "target.pretrained: field required"),
    ],
)
def test_a_wrong_row_is_refused_in_one_line_and_leaves_nothing(call, files, old, new, said):
    assert old in files["row.yaml"]
    files["row.yaml"] = files["row.yaml"].replace(old, new)
    status, out, line, left = call("run row.yaml", files)
    assert (status, out) == (2, "")
    assert line.count("\n") == 1
    assert said in line
    assert not [name for name in left if name.startswith("out")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run", "run needs a run file; see benchmarks/ for examples"),
        ("run absent.yaml", "absent.yaml: no such run file"),
        ("run row.yaml stray", "'stray' is neither an option nor a setting section.key=value"),
        ("run row.yaml data.options.split=forget02", "data.options.split: input should be"),
        ("run row.yaml --output forget.jsonl", "--output forget.jsonl: is a file"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(call, files, command, said):
    status, _, line, left = call(command, files)
    assert status == 2
    assert said in line
    assert not [name for name in left if name.startswith("out")]


def test_options_can_be_set_one_by_one(files, tmp_path, monkeypatch):
    path = tmp_path / "row.yaml"
    path.write_text(files["row.yaml"])
    file = read_run_file(path, ["data.options.seed=3", "target.epochs=9"])
    assert options_of(file.data).seed == 3
    assert options_of(file.data).retain_records == 6
    assert file.target is not None
    assert file.target.finetune["epochs"] == 9
    monkeypatch.setenv("WHERE", "/elsewhere")
    assert read_run_file(path).data.folder == "/elsewhere"


RESULTS = {"unlearned": {"forget": {"ma": {"value": 0.25, "low": 0.2, "high": 0.3}}}}
TOFU = {"unlearned": {"model_utility": 0.5}}


def test_an_expected_figure_is_met_within_its_tolerance():
    """|0.25 - 0.20| = 0.05 is within 0.06 and not within 0.04; of TOFU's own, |0.5 - 0.6| = 0.1."""
    for metric, of, value, tolerance, within in (
        ("ma", "forget", 0.20, 0.06, True),
        ("ma", "forget", 0.20, 0.04, False),
        ("model_utility", "tofu", 0.6, 0.11, True),
    ):
        expected = ExpectedSettings(
            metric=metric, set=of, value=value, tolerance=tolerance, source="s"
        )
        assert compare_expected(expected, RESULTS, TOFU)["within"] is within
    found = compare_expected(expected, RESULTS, TOFU)
    assert (found["measured"], found["low"]) == (0.5, None)


def test_a_figure_that_was_not_measured_is_said():
    expected = ExpectedSettings(metric="bleu", value=0, tolerance=0, source="s")
    with pytest.raises(UserError, match="no bleu of the set 'forget' of the unlearned model"):
        compare_expected(expected, RESULTS, TOFU)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_in_benchmarks_parses(path):
    """Every section is checked as a run checks it, without the data."""
    assert rows.is_row(path) == (read_run_file(path).run.command == "forget")
    file = read_run_file(path)
    assert file.data.name
    assert (file.target is None) == (file.name in ("training_extraction_icu", "icu_paper"))
    assert path.read_text("utf-8").startswith("# ")


def test_the_table_holds_the_rows_own_figures_and_says_what_was_not_run(tmp_path):
    folder = tmp_path / "one"
    (folder / "run").mkdir(parents=True)
    value = {"value": 0.25, "low": 0.2, "high": 0.3, "records": 4}
    report = {
        "model": {"family": "causal-lm"},
        "results": {
            "target": {"forget": {"ma": value}},
            "unlearned": {"forget": {"el_10": {"value": 0.0004, "low": None}}},
        },
    }
    row = {
        "row": "one",
        "method": "icu",
        "verdict": "met",
        "seconds": {"run": 99.6, "unlearning": 41.2},
        "tofu": TOFU,
        "expected": {
            "metric": "el_10",
            "set": "forget",
            "published": True,
            "value": 0.044,
            "source": "table 1",
        },
    }
    (folder / "benchmark.json").write_text(json.dumps(row))
    (folder / "run/report.json").write_text(json.dumps(report))
    page = rows.table(["one", "two"], tmp_path)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ][2:]
    assert cells[0] == [
        "one",
        "icu",
        "ma of forget",
        "0.250 (0.200 to 0.300)",
        "-",
        "-",
        "-",
        "100 (41)",
        "met",
    ]
    assert cells[1][2:7] == ["el_10 of forget", "-", "4.0e-04", "-", "0.044 (table 1)"]
    assert cells[4][2:5] == ["model_utility", "-", "0.500"]
    assert page.endswith("Not run here: two.\n")


def test_the_readme_of_the_benchmarks_has_the_table_that_was_made():
    readme = rows.README.read_text("utf-8")
    page = (rows.RESULTS / "rows.md").read_text("utf-8")
    assert rows.with_table(readme, page) == readme


@pytest.mark.slow
def test_a_row_is_run_in_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    """Its data are absent: status 2, which the table tells as not run."""
    path = tmp_path / "row.yaml"
    path.write_text("data: {name: lume, folder: absent}\nmodel: {name: nothing}\n")
    monkeypatch.setenv("UNLEARNER_ENCODER", "kept")
    rows.run(path, tmp_path / "out")
    assert "row was not run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
