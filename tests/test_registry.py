"""The folder is the registry: names, nearest names, summaries, and no import to list them."""

import subprocess
import sys
import textwrap

import pytest

from unlearner import registry
from unlearner.cli.terminal import method_words
from unlearner.errors import UserError
from unlearner.methods.base import load_method
from unlearner.registry import MethodFacts


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


def test_listing_and_describing_import_nothing(package):
    """A file that cannot be imported is listed and described all the same."""
    write(package / "metrics" / "broken.py", '"""Describes itself.\n\nMore."""\nraise SystemExit')
    assert registry.names("metrics") == ("broken",)
    assert registry.summary("metrics", "broken") == "Describes itself."


def test_catalog_does_not_import_torch():
    code = (
        "import sys; from unlearner import catalog as c; "
        "[c.summary(f, n) for f in ('methods', 'metrics', 'attacks') for n in c.names(f)]; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_method_is_described_by_its_public_class(package):
    write(
        package / "methods" / "scrub.py",
        '''
        """The file."""
        class _Part:
            """Not this."""
            def loss(self): ...
        class Settings:
            """Nor this."""
        class SCRUB:
            """Pushes forget answers away from the teacher.

            More.
            """
            def unlearn(self): ...
        ''',
    )
    assert registry.summary("methods", "scrub") == "Pushes forget answers away from the teacher."


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
        with pytest.raises(UserError, match="available: "):
            registry.summary("metrics", name)


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
        from unlearner.answers import Answer
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
    assert load_method(name).__doc__
    assert registry.summary("methods", name).endswith(".")


# What a method needs, from source text alone

FIRST, SECOND = "arXiv:2404.05868", "arXiv:2210.01504"
BASE = """
    class Method:
        families: ClassVar[tuple[str, ...]] = ("causal-lm",)
        needs: ClassVar[tuple[str, ...]] = ("forget",)
        begins_anew: ClassVar[bool] = False
"""
HEAD = """
    import a_module_that_is_not_there
    from unlearner.methods.base import Method
    from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS as BOTH

"""


@pytest.fixture
def methods(package):
    """Write a method's class body; its facts."""
    write(package / "methods" / "base.py", BASE)
    write(
        package / "metrics" / "base.py",
        'CAUSAL_LM = ("causal-lm",)\nA = "a"\nCLASSIFIERS = (A, "b")',
    )

    def facts(body, bases="Method"):
        source = (
            textwrap.dedent(HEAD)
            + f"class Some({bases}):\n"
            + textwrap.indent(textwrap.dedent(body).strip(), "    ")
            + "\n    def loss(self): ...\n"
        )
        (package / "methods" / "some.py").write_text(source)
        return registry.method_facts("some")

    return facts


def test_needs_and_families_are_inherited(methods):
    """What the class body does not say stands in the base class, of another file."""
    found = methods('"""Does something."""')
    assert (found.families, found.needs, found.begins_anew) == (("causal-lm",), ("forget",), False)


def test_names_and_tuples_of_other_files_are_resolved(methods):
    found = methods(
        """
        families: ClassVar[tuple[str, ...]] = (*CAUSAL_LM, *BOTH)
        needs = ("forget", "retain")
        begins_anew: ClassVar[bool] = True
        """
    )
    assert found.families == ("causal-lm", "a", "b")
    assert found.needs == ("forget", "retain")
    assert found.begins_anew


def test_what_would_have_to_be_computed_is_left_unsaid(methods):
    """An empty tuple is no claim; listing goes on."""
    found = methods("families = tuple(sorted(BOTH))\nneeds = (*NOWHERE, 'forget')")
    assert (found.families, found.needs) == ((), ())
    assert "in its file" in method_words(found)


def test_a_base_that_is_not_ours_says_nothing(methods):
    assert methods("x = 1", bases="a_module_that_is_not_there.Base").needs == ()


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
def test_the_paper_is_taken_from_the_reference_alone(methods, reference, paper):
    assert methods(f'"""Does it.\n\n{reference}\n"""').paper == paper


def test_facts_are_those_of_the_imported_classes():
    """Read as text and imported, every method of the package says the same."""
    for name in registry.names("methods"):
        facts, kind = registry.method_facts(name), load_method(name)
        assert facts.families == kind.families, name
        assert facts.needs == kind.needs, name
        assert facts.begins_anew == kind.begins_anew, name
        assert facts.paper.startswith("arXiv:") or name == "retrain", name


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
def test_needs_are_told_by_the_kind_of_model(families, needs, words):
    assert method_words(MethodFacts("arXiv:1", families, needs, False)) == f"paper arXiv:1; {words}"


def test_describing_methods_imports_nothing_heavy():
    code = (
        "import sys; from unlearner.cli.terminal import lines; assert list(lines('methods')); "
        "sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
