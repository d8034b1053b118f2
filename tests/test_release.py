"""What goes out: the wheel in an environment of its own, the citation, what is declared."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from report_example import example
from unlearner import __version__
from unlearner.cli.app import run
from unlearner.report.files import write_report

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def name_of(requirement):
    return re.split(r"[<>=!\[;]", requirement)[0].strip().lower().replace("_", "-")


def test_the_version_is_said(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"unlearner {__version__}\n"
    assert PROJECT["version"] == __version__


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == __version__
    assert cited["license"] == PROJECT["license"]
    assert {"message", "title", "authors"} <= set(cited)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(one["url"] in readme for one in cited["references"])


def test_what_is_imported_is_declared():
    """Libraries that come only as somebody else's dependency may go with them."""
    extras = PROJECT["optional-dependencies"]
    declared = {name_of(one) for one in PROJECT["dependencies"]}
    declared |= {name_of(one) for name in extras if name != "dev" for one in extras[name]}
    found = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0]: path.name for name in names}
    outside = set(found) - set(sys.stdlib_module_names) - {"unlearner"}
    known = packages_distributions() | {"pydantic_core": ["pydantic"]}  # its other half
    for module in sorted(outside):
        packages = {name_of(one) for one in known.get(module, [module])}
        assert packages & declared, f"{found[module]} imports {module}, which nothing declares"


def test_the_extra_of_the_docs_is_what_the_tests_build_them_with():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["dev"])


def test_the_workflow_and_the_hook_run_the_commands_of_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["all"]["steps"] if "run" in step]
    assert steps == ["make test", "make test-slow", "make lint", "make demo"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [one["entry"] for repo in hooks["repos"] for one in repo["hooks"]] == ["make lint"]
    targets = (ROOT / "Makefile").read_text("utf-8")
    ci = (ROOT / ".ci/run").read_text("utf-8")
    for target in re.findall(r"^make ([\w-]+)", ci, re.MULTILINE):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from a copy of the source, in an environment that has nothing of it else.

    Its libraries are those of the running environment, found by a line in a .pth file: nothing is
    downloaded, and the line brings no .pth files of that environment, so not this source either.
    """
    root = tmp_path_factory.mktemp("release")
    source = root / "source"
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    for found in source.rglob("*.egg-info"):
        shutil.rmtree(found)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(root / "dist")]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    venv.create(root / "venv", with_pip=False)
    place = next((root / "venv").glob("lib/python*/site-packages"))
    (place / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (wheel,) = (root / "dist").glob("*.whl")
    python = root / "venv/bin/python"
    options = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([python, "-m", "pip", *options, str(wheel)], check=True, env=environment())
    return root, place


def environment():
    """Without what would show the source to another process."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(installed, tmp_path):
    root, place = installed
    assert len(list((root / "dist").glob("*.tar.gz"))) == 1
    assert (place / "unlearner/py.typed").exists()

    def ask(*arguments):
        return subprocess.run(
            arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        ).stdout.strip()

    python, command = str(root / "venv/bin/python"), str(root / "venv/bin/unlearner")
    origin = ask(python, "-c", "import unlearner; print(unlearner.__file__)")
    assert Path(origin) == place / "unlearner/__init__.py"
    assert ask(command, "--version") == f"unlearner {__version__}"
    assert "--files" in ask(command, "demo", "--help")
    # Templates and styles are in it: a page is written again.
    (tmp_path / "run").mkdir()
    write_report(example(3), tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    ask(command, "report", "run")
    assert "<style>" in (tmp_path / "run/report.html").read_text("utf-8")
