"""The folder is the registry: names, nearest names, and what methods say of themselves."""

import subprocess
import sys
import textwrap

import pytest

from unlearner import registry
from unlearner.cli.terminal import method_words
from unlearner.errors import UserError
from unlearner.methods.base import load_method


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder of our own in the place of the real one."""
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    return tmp_path


def write(path, source):
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))


def test_metrics_of_the_contract_are_listed():
    listed = registry.names("metrics")
    assert {"loss", "perplexity", "ma", "el_3", "el_10", "es", "bleu", "rouge_l"} <= set(listed)
    assert {"bertscore_f1", "mia_loss_auc", "degenerate", "kl_to_target"} <= set(listed)
    assert "base" not in listed
    assert list(listed) == sorted(listed)


def test_a_dropped_file_is_a_name_and_base_and_private_files_are_not(package):
    for name in ("npo", "base", "_shared", "__init__"):
        write(package / "methods" / f"{name}.py", "")
    write(package / "methods" / "notes.txt", "")
    assert registry.names("methods") == ("npo",)
    assert registry.names("attacks") == ()


def test_a_file_that_cannot_be_imported_is_listed_all_the_same(package):
    write(package / "metrics" / "broken.py", "raise SystemExit")
    assert registry.names("metrics") == ("broken",)


def test_names_are_read_without_torch():
    code = (
        "import sys; from unlearner import registry as r; "
        "assert all(r.names(f) for f in ('methods', 'metrics', 'datasets')); "
        "sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_refused_with_the_nearest_and_the_list():
    with pytest.raises(UserError) as caught:
        registry.load("metrics", "Rouge-L")
    line = str(caught.value)
    assert line.startswith("there is no 'Rouge-L' among the metrics: did you mean 'rouge_l'?")
    assert "available: accuracy, bertscore_f1, " in line
    assert "\n" not in line


def test_private_names_and_paths_are_refused():
    for name in ("base", "__init__", "../errors", "", "zzz"):
        with pytest.raises(UserError, match="available: "):
            registry.load("metrics", name)


def test_an_empty_folder_says_so():
    with pytest.raises(UserError, match="there is no 'x' among the nothing: available: none"):
        registry.load("nothing", "x")


def method_module(monkeypatch, source):
    """What `load_method` sees when `load` returns a module of this source."""
    module = type(sys)("unlearner.methods.made")
    exec(textwrap.dedent(source), module.__dict__)
    monkeypatch.setattr(registry, "load", lambda *_: module)
    return module


def test_load_method_finds_the_one_public_class_of_the_file(monkeypatch):
    module = method_module(
        monkeypatch,
        """
        from unlearner.inference.answers import Answer
        class _Part:
            def loss(self): ...
        class Settings: ...
        class NPO:
            def loss(self): ...
        """,
    )
    assert load_method("made") is module.NPO


def test_load_method_refuses_a_file_with_two_methods(monkeypatch):
    two = "class A:\n    def loss(self): ...\nclass B:\n    def unlearn(self): ...\n"
    method_module(monkeypatch, two)
    with pytest.raises(AssertionError, match="one public method"):
        load_method("made")


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_file_holds_one_described_method(name):
    method = load_method(name)
    assert registry.first_line(method).endswith(".")
    ours = ("retrain", "quantile_matching", "counterfactual")
    assert registry.paper(method).startswith("arXiv:") or name in ours


# What a method says of itself


def described(docstring):
    """A class with the docstring, indented as in a file."""
    return type("Some", (), {"__doc__": textwrap.indent(docstring, "    ").lstrip()})


def test_the_first_line_is_that_of_the_docstring_and_empty_without_one():
    assert registry.first_line(described("Does it.\n\nMore.")) == "Does it."
    assert registry.first_line(type("Some", (), {})) == ""


FIRST, SECOND = "arXiv:2404.05868", "arXiv:2210.01504"


@pytest.mark.parametrize(
    ("reference", "paper"),
    [
        ("Reference: A (2024), arXiv:2404.05868.", FIRST),
        (
            "Reference: A, arXiv:2404.05868; B,\narXiv:2210.01504.",
            f"{FIRST}, {SECOND}",
        ),
        (
            "Reference: A, arXiv:2404.05868.\nDiffers from B, arXiv:2210.01504: much.",
            FIRST,
        ),
        ("Reference: A, arXiv:2404.05868.\n\nSee also 2210.01504.", FIRST),
        ("Reference: Smith (1999), a book; nothing else.", "Smith (1999), a book"),
        ("Reference: none; what all are measured against.", "none"),
        ("No source.", "none"),
    ],
)
def test_the_paper_is_taken_from_the_reference_alone(reference, paper):
    assert registry.paper(described(f"Does it.\n\n{reference}\n")) == paper


@pytest.mark.parametrize(
    ("families", "needs", "words"),
    [
        (("causal-lm",), ("forget", "retain"), "for language models; needs forget, retain or pool"),
        (("causal-lm",), ("forget", "holdout"), "for language models; needs forget"),
        (
            ("causal-lm",),
            ("forget", "analogous"),
            "for language models; needs forget, similar records found in retain or pool",
        ),
        (
            ("sequence-classification",),
            ("forget", "retain", "holdout"),
            "for classifiers; needs forget, retain, holdout",
        ),
        (
            ("causal-lm", "token-classification"),
            ("forget", "holdout"),
            "for language models and classifiers; needs forget; for classifiers also holdout",
        ),
    ],
)
def test_needs_are_listed_by_the_kind_of_model(families, needs, words):
    body = {"__doc__": "Reference: arXiv:2404.05868.", "families": families, "needs": needs}
    rest = {"begins_anew": False, "companion_models": (), "model_fields": {}}
    kind = type("Some", (), body | rest)
    assert method_words(kind) == f"paper {FIRST}; {words}"


def test_a_method_that_makes_a_proxy_says_what_of():
    words = method_words(load_method("counterfactual"))
    assert words.startswith("no paper; for language models; needs forget, retain or pool, holdout")
    assert words.endswith("; and the pretrained model that the target was made of")


def test_a_method_that_begins_anew_says_so():
    assert method_words(load_method("retrain")).endswith("; begins anew from a pretrained model")
