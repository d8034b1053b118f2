"""A folder of records and models in which methods are compared, and what tests read of it."""

import json
import math
import shutil
from pathlib import Path

import jsonschema
import pytest

from command_world import SETS
from unlearner.cli.app import run
from unlearner.pipeline import pipeline, search

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/report.schema.json").read_text("utf-8"))
FILES = ("compare.json", "compare.html", "compare.md", "compare.csv")
GIVEN = (
    "--forget",
    "forget.jsonl",
    "--retain",
    "retain.jsonl",
    "--holdout",
    "holdout.jsonl",
    "--quiet",
    "evaluation.resamples=20",
)
# Both forget within some 20 rounds at this rate; two trials and two seeds of each take 8 seconds.
SHORT = ("--seeds", "2", "search.trials=2", "method.learning_rate=0.005", "method.max_epochs=25")
METHODS = "npo,idk,gradient_ascent"
# One round of the settings given.
ONE = ("--no-search", "method.max_epochs=1")


@pytest.fixture(scope="module")
def compare_folder(one_key, tmp_path_factory, model_folders):  # noqa: ARG001 - the key comes first
    """Record files, a model that knows the records to be forgotten, and one that knows nothing."""
    root = tmp_path_factory.mktemp("world")
    for name, content in SETS.items():
        (root / name).write_text(content, encoding="utf-8")
    for name in ("good", "blank"):
        shutil.copytree(model_folders / name, root / name)
    return root


def compare(output, *more, methods=METHODS):
    return run(["compare", "good", *GIVEN, "--methods", methods, "--output", str(output), *more])


def read(folder):
    return json.loads(Path(folder, "compare.json").read_text("utf-8"))


def report(folder, method, seed=0):
    path = Path(folder, "runs", method, f"seed-{seed}", "report.json")
    found = json.loads(path.read_text("utf-8"))
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    return found


def counted(monkeypatch, trial=math.inf, seed=math.inf):
    """What is run, as it ends: trials and seeds of methods; one can be killed by its place."""
    done = {"trials": [], "seeds": []}
    try_it, carry_out = search._try, pipeline.carry_out

    def one_trial(config, settings, number, *rest):
        if len(done["trials"]) == trial:
            raise KeyboardInterrupt
        found = try_it(config, settings, number, *rest)
        done["trials"].append((config.method.name, number))
        return found

    def one_run(config, *some, **rest):
        if len(done["seeds"]) == seed:
            raise KeyboardInterrupt
        found = carry_out(config, *some, **rest)
        done["seeds"].append((config.method.name, config.training.seed))
        return found

    monkeypatch.setattr(search, "_try", one_trial)
    monkeypatch.setattr(pipeline, "carry_out", one_run)
    return done
