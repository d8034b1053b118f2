"""`docs/adding.md` followed to the letter: what it adds is put where it says.

They lie in folders of this test's own, which `registry` and the import system are pointed at; the
package itself stays as it is.
"""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import test_classifier_methods as classifiers
import test_classifier_methods_numbers as numbers
import test_datasets
import test_lm_methods
import test_lm_methods_invariance as invariance

import unlearner
from attack_world import attacked, load, materials, text_sets
from classifier_commands import RUN as RUN_CLASSIFIER
from classifier_commands import SHORT as SHORT_CLASSIFIER
from classifier_world import (
    SEQUENCE,
    labelled,
    learn_by_heart,
    mean_loss,
    tiny_classifier,
    tiny_data,
    tiny_trainer,
)
from command_world import RUN, SETS
from conftest import tiny_model
from unlearner import registry
from unlearner.attacks.base import load_attack
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT, run
from unlearner.config import RunConfig
from unlearner.datasets.base import data_settings, named_sets
from unlearner.errors import UserError
from unlearner.families import FAMILIES
from unlearner.families.base import Family
from unlearner.inference.answers import Answer
from unlearner.methods.base import load_method
from unlearner.pipeline.compare_plan import make_plan
from unlearner.report.measures import measures
from unlearner.yaml_values import load_yaml, read_yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/adding.md").read_text("utf-8")
METHOD, CLASSIFIER_METHOD, METRIC = "tnpo", "delete", "unlikely_tokens"
DATASET, ATTACK, FAMILY = "ag_news", "opening", "tested_lm"
ADDED = (
    ("methods", METHOD),
    ("methods", CLASSIFIER_METHOD),
    ("metrics", METRIC),
    ("datasets", DATASET),
    ("attacks", ATTACK),
    ("families", FAMILY),
)
FOLDERS = tuple(dict.fromkeys(folder for folder, _ in ADDED))
MADE = tuple(f"{name}{end}" for _, name in ADDED for end in ("", ".py"))
SHORT = " --quiet method.max_epochs=1 evaluation.resamples=20"


def block(place):
    """The code below the line that ends with a file's name."""
    found = re.search(rf"`{re.escape(place)}`:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None, f"docs/adding.md has no block for {place}"
    return found[1]


def yaml_of(section):
    """The page's example of a section of a run file."""
    found = re.search(rf"```yaml\n({section}: .*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory):
    """A package folder with the page's files, beside links to everything else."""
    package = tmp_path_factory.mktemp("package")
    real, before = registry.PACKAGE, set(sys.modules)
    for path in real.iterdir():
        if path.name not in FOLDERS:
            (package / path.name).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        for folder in FOLDERS:
            (package / folder).mkdir()
            for path in (real / folder).glob("*.py"):
                (package / folder / path.name).symlink_to(path)
            parent = importlib.import_module(f"unlearner.{folder}")
            patch.setattr(parent, "__path__", [*parent.__path__, str(package / folder)])
        for folder, name in ADDED:
            source = package / folder / f"{name}.py"
            assert not source.exists(), f"{folder} has {name} by now; give docs/adding.md another"
            source.write_text(block(f"src/unlearner/{folder}/{name}.py"), encoding="utf-8")
        patch.setattr(registry, "PACKAGE", package)
        patch.setitem(test_lm_methods.CLASSES, METHOD, load_method(METHOD))
        measures.cache_clear()
        yield
    test_lm_methods.plain_run.cache_clear()
    measures.cache_clear()
    for folder, name in ADDED:
        parent = importlib.import_module(f"unlearner.{folder}")
        sys.modules.pop(f"{parent.__name__}.{name}", None)
        vars(parent).pop(name, None)
        assert name not in registry.names(folder)
    new = set(sys.modules) - before
    assert not {name for name in new if name.startswith("unlearner") and name.endswith(MADE)}


# The method for language models


def test_it_is_listed_with_its_paper_and_its_needs(capsys):
    assert run(["list", "methods"]) == MET
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith(f"{METHOD} "))
    told = " ".join(" ".join(lines[place : place + 3]).split())
    assert "Push each forget token below the reference model" in told
    assert "paper arXiv:2502.19301; for language models; needs forget, retain or pool" in told


def test_the_run_file_of_the_page_is_read_and_its_bounds_are_checked(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml_of("method"))
    sections = read_yaml(tmp_path / "run.yaml")
    method = RunConfig.from_sections(sections).method
    assert method.model_dump() | {"name": method.name} == {
        "name": "tnpo",
        "beta": 0.5,
        "retain_weight": 2.0,
        "learning_rate": 1e-4,
        "forget_weight": 1.0,
        "retain_batch_size": 8,
        "stop": "suppressed",
        "batch_size": 8,
        "max_epochs": 40,
    }
    for key, value, said in (
        ("beta", 0, r"method\.beta: .*greater than 0, got 0"),
        ("bata", 1, r"unknown key 'bata'; did you mean 'beta'"),
        ("retain_weight", -1, r"method\.retain_weight: .*got -1"),
    ):
        with pytest.raises(UserError, match=said):
            RunConfig.from_sections({"method": sections["method"] | {key: value}})


def test_a_wrong_value_on_the_command_line_is_one_line(call):
    status, _, said, left = call(RUN + f"--method {METHOD} method.beta=-1")
    assert (status, left) == (WRONG_INPUT, [])
    assert said.startswith("unlearner: method.beta: ")
    assert said.count("\n") == 1


def test_it_runs_end_to_end_by_the_command_line(call, tmp_path):
    status, _, said, _ = call(RUN + f"--method {METHOD} method.beta=0.5" + SHORT)
    assert status in (MET, NOT_MET), said
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    assert report["method"]["name"] == METHOD
    assert report["method"]["beta"] == 0.5
    assert set(report["rounds"][1]["loss"]) == {"forget", "retain"}
    page = (tmp_path / "out/run/report.html").read_text()
    assert "TNPO (token-wise NPO)" in page
    model = report["model"]
    assert model["digest_target"] != model["digest_unlearned"]
    # The page's metric is in the same report, below.
    for one in ("target", "unlearned"):
        assert 0 <= report["results"][one]["forget"][METRIC]["value"] <= 1
    assert "Unlikely tokens" in page
    assert "Share of words that the model would not have expected." in page


def test_it_is_one_of_all_methods_that_are_compared():
    options = {"retrained": "", "keep_models": False}
    assert METHOD in make_plan({}, "all", 1, **options).methods


@pytest.mark.slow
def test_it_comes_up_beside_others_in_a_comparison(call, tmp_path):
    command = RUN.replace("forget ", "compare ", 1)
    status, out, said, _ = call(command + f"--methods {METHOD},simnpo --no-search" + SHORT)
    assert status == MET, said
    assert METHOD in out
    comparison = json.loads((tmp_path / "out/run/compare.json").read_text())
    assert list(comparison["methods"]) == [METHOD, "simnpo"]


def test_it_is_found_from_python():
    assert unlearner.methods.TNPO is load_method(METHOD)


RULES = {
    name: rule
    for name, rule in vars(test_lm_methods).items()
    if name.startswith("test_") and "name" in inspect.signature(rule).parameters
}


@pytest.mark.parametrize("rule", RULES)
def test_it_keeps_to_what_every_method_keeps_to(rule, tmp_path):
    given = {"name": METHOD, "tmp_path": tmp_path}
    RULES[rule](**{name: given[name] for name in inspect.signature(RULES[rule]).parameters})


def test_the_rules_of_every_method_are_found():
    assert len(RULES) >= 10
    assert "test_equal_seeds_give_equal_bytes" in RULES


INVARIANT = (
    invariance.test_padding_does_not_change_the_loss,
    invariance.test_the_order_of_records_does_not_change_the_loss,
    invariance.test_a_batch_is_the_mean_of_its_parts,
    invariance.test_what_is_kept_of_the_reference_is_as_good_as_the_reference,
)


@pytest.mark.parametrize("rule", INVARIANT)
def test_padding_and_company_do_not_change_its_loss(rule):
    models = tuple(tiny_model("gpt2", seed).double() for seed in (1, 2))
    rule(load_method(METHOD)(beta=0.5), models)


@pytest.mark.parametrize("name", [METHOD, CLASSIFIER_METHOD])
def test_the_numbers_of_the_page_are_right(name):
    scope: dict = {}
    place = f"tests/methods/test_{name}.py"
    exec(compile(block(place), place, "exec"), scope)
    scope[f"test_{name}_by_hand"]()


# The method for classifiers


def test_the_one_for_classifiers_is_listed_and_found_from_python(capsys):
    assert run(["list", "methods"]) == MET
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith(f"{CLASSIFIER_METHOD} "))
    told = " ".join(" ".join(lines[place : place + 3]).split())
    assert "paper arXiv:2503.23751; for classifiers; needs forget, holdout" in told
    assert unlearner.methods.DELETE is load_method(CLASSIFIER_METHOD)


def test_it_runs_on_a_classifier_by_the_command_line(call_classifier, tmp_path):
    line = RUN_CLASSIFIER + f"--method {CLASSIFIER_METHOD}" + SHORT_CLASSIFIER
    status, _, said, _ = call_classifier(line)
    assert status in (MET, NOT_MET), said
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    assert report["method"]["name"] == CLASSIFIER_METHOD
    assert set(report["rounds"][1]["loss"]) == {"forget"}
    assert "DELETE (masked distillation)" in (tmp_path / "out/run/report.html").read_text()


def test_it_forgets_the_labels_and_hardly_anything_else():
    data = tiny_data()
    target = learn_by_heart(tiny_classifier(), data.forget, data.retain)
    before = mean_loss(target, data.forget), mean_loss(target, data.retain)
    method = load_method(CLASSIFIER_METHOD)(**classifiers.FAST, batch_size=3, max_epochs=6)
    trainer = tiny_trainer()
    model = method.unlearn(target, data, trainer)
    assert trainer.steps == 6 * 2
    assert mean_loss(model, data.forget) > before[0] + 0.5
    assert mean_loss(model, data.retain) < mean_loss(model, data.forget)
    assert [line["round"] for line in trainer.rounds] == list(range(len(trainer.rounds)))


def test_its_teacher_is_the_target_and_gets_no_gradient():
    method = load_method(CLASSIFIER_METHOD)()
    numbers.test_no_gradient_flows_into_a_teacher(method)
    numbers.test_padding_changes_no_loss(method, SEQUENCE)
    model, parts = tiny_classifier(), {"forget": labelled(4).examples}
    assert method.loss(model, parts, tiny_classifier(seed=1))["forget"] > 0


def test_its_docstring_says_what_every_other_says():
    classifiers.test_every_method_for_classifiers_says_where_it_comes_from(CLASSIFIER_METHOD)


# The metric


def test_the_metric_is_listed(capsys):
    assert run(["list", "metrics"]) == MET
    assert re.search(rf"^{METRIC} +Share of scored tokens", capsys.readouterr().out, re.MULTILINE)


def test_the_metric_counts_scored_tokens_below_one_in_a_hundred():
    """Of four labels with p = 1/2, 1/200, 1/300 and 1/99 the third does not count: 1 of 3."""
    answer = Answer(
        record=0,
        id="r",
        input_ids=np.arange(5),
        scored=np.array([True, True, False, True]),
        log_probs=np.log(np.array([1 / 2, 1 / 200, 1 / 300, 1 / 99])),
        argmax=np.arange(1, 5),
    )
    assert registry.load("metrics", METRIC).metric.tally(answer) == (1, 3)


# The data set


def test_the_data_set_is_listed(capsys):
    assert run(["list", "datasets"]) == MET
    shown = capsys.readouterr().out
    assert re.search(rf"^{DATASET} +AG News: headlines of the news", shown, re.MULTILINE)


def news(folder, count=40):
    """Numbers for half of the topics and names for the other; the files the page speaks of."""
    topics = (0, "1", "Business", "Sci/Tech")
    for part in ("train", "test"):
        rows = [{"text": f"{part} item {n}", "label": topics[n % 4]} for n in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")


SMALL = {"train_records": 20, "holdout_records": 10, "forget_share": 0.25, "test_records": 8}


def test_the_data_sets_records_have_their_roles_and_the_topics_names(tmp_path):
    news(tmp_path)
    values = load_yaml(yaml_of("data"))["data"]
    data = data_settings(values | {"folder": str(tmp_path), "options": SMALL})
    found = named_sets(data, "sequence-classification")
    assert {role: len(some) for role, some in found.items()} == {
        "forget": 5,
        "retain": 15,
        "holdout": 10,
        "test": 8,
    }
    labels = {record.label for some in found.values() for record in some}
    assert labels == {"World", "Sports", "Business", "Sci/Tech"}
    learned = [record.id for role in ("forget", "retain", "holdout") for record in found[role]]
    assert len({*learned}) == 30


def test_the_data_set_refuses_what_every_other_refuses(tmp_path):
    test_datasets.test_every_data_set_without_its_folder_or_files_says_so_in_one_line(
        DATASET, tmp_path
    )
    with pytest.raises(UserError, match=r"data\.options: unknown key 'split'"):
        data_settings({"name": DATASET, "folder": str(tmp_path), "options": {"split": 1}})


def test_a_command_names_the_data_set_and_its_labels_must_be_the_models(call_classifier, tmp_path):
    news(tmp_path)
    named = "forget $classifiers/texts --output out/run data.name=ag_news data.folder=. "
    status, _, said, _ = call_classifier(
        named + " ".join(f"data.options.{name}={value}" for name, value in SMALL.items())
    )
    assert status == WRONG_INPUT
    assert re.search(r"the model has no label '\w+'; train it on this data set", said)


# The family


def test_the_family_judges_the_test_set_too_once_it_is_registered(call, tmp_path, monkeypatch):
    tested = importlib.import_module(f"unlearner.families.{FAMILY}").TestedLM()
    monkeypatch.setitem(FAMILIES, tested.name, tested)
    files = {"test.jsonl": SETS["holdout.jsonl"].replace("uncle", "aunt")}
    status, _, said, _ = call(RUN + f"data.test=test.jsonl --method {METHOD}" + SHORT, files)
    assert status in (MET, NOT_MET), said
    report = json.loads((tmp_path / "out/run/report.json").read_text())
    before, after = (
        report["results"][one]["test"]["perplexity"]["value"] for one in ("target", "unlearned")
    )
    limits = {
        one["set"]: one["at_most"]
        for one in report["criteria"]
        if (one["claim"], one["metric"]) == ("utility", "perplexity")
    }
    assert {"retain", "test"} <= set(limits)
    assert limits["test"] == pytest.approx(1.1 * before)
    claim = next(one for one in report["verdict"]["claims"] if one["claim"] == "utility")
    assert claim["status"] == "not met" or after <= limits["test"]


def test_the_attack_opens_a_model_that_forgot_nothing(language_models):
    models = {name: load(language_models / name) for name in ("target", "retrained", "other")}
    given = materials(models["target"], text_sets())
    attack = load_attack(ATTACK)
    opened = attacked(attack, given, models["target"], models["retrained"])
    assert opened.status == "opened"
    assert attacked(attack, given, models["other"], models["retrained"]).status != "opened"


def test_the_page_names_all_that_a_family_has_to_define():
    table = TEXT.partition("A subclass of `Family` defines")[2].partition("\n\nand says")[0]
    assert {*re.findall(r"^\| `(\w+)`", table, re.MULTILINE)} == Family.__abstractmethods__


def test_the_page_names_the_files_that_tell_kinds_of_models_apart():
    """Those with an entry for each kind: a key of a mapping, or a name of its own."""
    entry = re.compile(r'"token-classification"[:}]|[^=]= "token-classification"$', re.MULTILINE)
    root = ROOT / "src/unlearner"
    files = {path for path in root.rglob("*.py") if entry.search(path.read_text("utf-8"))}
    table = TEXT.partition("| file | what of the kind |")[2]
    listed = {root / name for name in re.findall(r"`([\w/]+\.py)`", table)}
    own = {root / "datasets/wnut17.py", root / "training/classifier_loop.py"}  # of one kind alone
    assert files - own <= listed


# The page


def test_every_file_that_the_page_names_is_there():
    """But for those that it tells to make."""
    for name in re.findall(r"`([\w/.]+\.(?:py|md))`", TEXT):
        places = (ROOT / name, ROOT / "src/unlearner" / name)
        assert name.endswith(MADE) or any(place.exists() for place in places), name
