"""The pages of docs/ and the README: found, linked, short, and true to the code they show."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import typer

from unlearner import registry
from unlearner.cli.app import app
from unlearner.methods.base import load_method
from unlearner.settings import SECTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
PICTURES = ("report.png", "terminal.svg")
MOST_BYTES = 150_000


@pytest.fixture(scope="module")
def reference():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import reference

        yield reference


# The pages


def test_every_page_stands_in_the_table_of_contents():
    lists = re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    listed = [name for one in lists for name in one.split("\n\n")[1].split()]
    assert len(listed) == len(set(listed))
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert pages == {name for name in listed if not name.startswith("generated/")}


@pytest.mark.parametrize("page", ["README.md", *sorted(p.name for p in DOCS.glob("*.md"))])
def test_what_a_page_names_is_there(page):
    """`docs/x.md` and the like, written as code; those of pages are links on the site."""
    path = ROOT / page if page == "README.md" else DOCS / page
    added = page == "adding.md"  # whose reader is to write some of the files
    named = re.findall(r"`((?:docs|benchmarks|examples|src)/[\w./-]+)`", path.read_text("utf-8"))
    for name in named:
        assert (ROOT / name).exists() or "NAME" in name or added, f"{page}: {name}"


def test_the_readme_is_short_and_shows_its_pictures():
    assert len(README.splitlines()) <= 160
    shown = re.findall(r"!\[[^\]]+\]\((docs/pictures/[\w.]+)\)", README)
    assert [Path(name).name for name in shown] == list(PICTURES)
    for name in shown:
        assert 1000 < (ROOT / name).stat().st_size < MOST_BYTES


def test_the_picture_of_the_terminal_loads_nothing():
    drawn = (DOCS / "pictures/terminal.svg").read_text("utf-8")
    assert set(re.findall(r"https?://[^\"' )]+", drawn)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in drawn
    assert "unlearner demo icu" in drawn.replace("&#160;", " ")


def test_links_are_made_of_pages_that_are_mentioned():
    """Not within a block of code, nor of a page that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import conf
    text = "See `docs/log.md` and `none.md`.\n\n```text\n`log.md`\n```\n\n`pitfalls.md`"
    assert conf.with_links(text) == (
        "See [](log.md) and `none.md`.\n\n```text\n`log.md`\n```\n\n[](pitfalls.md)"
    )


# The reference


def test_every_setting_stands_in_the_reference_with_its_words(reference):
    page = reference.settings_page()
    for section, kind in SECTIONS.items():
        part = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
        assert [cells[0].strip("| `") for cells in rows] == list(kind.model_fields)
        for cells in rows:
            assert len(cells[3].strip("| ")) > 5, f"{section}.{cells[0]}"


def test_a_row_has_bounds_default_and_words(reference):
    page = reference.settings_page()
    assert "| `prompt_start` | number, above 0 | `0.75` | Shortest prompt of EL:" in page
    assert "| `scope` | `sequence`, `response` | `response` |" in page
    assert "| `ma` | number, null, from 0 to 1 | `null` |" in page
    assert "| `keep_adapter` | true, false | `false` |" in page


def test_every_method_stands_in_the_reference_with_its_settings(reference):
    page = reference.methods_page()
    for name in registry.names("methods"):
        part = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for field in load_method(name).model_fields:
            assert f"| `{field}` |" in part, f"{name}.{field}"


@pytest.mark.parametrize("folder", ["metrics", "attacks", "datasets"])
def test_every_plug_in_stands_in_the_reference(reference, folder):
    page = reference.plug_ins_page(folder, "Title")
    heads = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert heads == list(registry.names(folder))


def test_every_command_stands_in_the_reference_with_its_options(reference):
    page = reference.commands_page()
    found = dict(reference.commands(typer.main.get_command(app)))
    assert {"forget", "requests add", "demo"} <= set(found)
    for name, command in found.items():
        part = page.partition(f"\n## unlearner {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert f"`{', '.join(parameter.opts)}`" in part, f"{name} {parameter.name}"


def test_a_docstring_becomes_markdown_without_losing_its_formula(reference):
    text = "Loss.\n\n.. math::\n    L = a_1 * b\n\nwith *a* in <0, 1>, see `x_y`."
    assert reference.prose(text) == (
        "Loss.\n\n```text\nL = a_1 * b\n```\n\nwith \\*a\\* in \\<0, 1\\>, see `x_y`."
    )


def test_the_interface_from_python_has_arguments_and_errors(reference):
    page = reference.python_page()
    part = page.partition("## unlearner.unlearn\n")[2].partition("\n## ")[0]
    assert "forget=None" in part
    assert "- `holdout`: Records like the forget set" in part
    assert "**Raises**\n\n- `UserError`: The input cannot be used." in part


# The site


class Found(HTMLParser):
    """What a page of the site leads to, loads and can be led to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given["id"]} if given.get("id") else set()
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        loads = tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload")
        if given.get("src") or loads:
            self.loaded.append(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def site(made_once):
    """The folder of the site, built as `make docs` does, without a warning."""
    return made_once("site", build)


def build(folder):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    caches = ["-d", str(folder / "doctrees")]
    built = subprocess.run(
        [*command, *caches, str(DOCS), str(folder / "html")], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_every_link_within_leads_somewhere(site):
    pages = {path: Found(path.read_text("utf-8")) for path in (site / "html").rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        for link in page.links:
            parts = urlparse(link)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            anchors = pages[target].ids if target in pages else set()
            assert not parts.fragment or target not in pages or parts.fragment in anchors, link


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    for path in (site / "html").rglob("*.html"):
        for source in Found(path.read_text("utf-8")).loaded:
            assert not urlparse(source).netloc, f"{path.name}: {source}"
            assert not source.startswith("//")
    for path in [*(site / "html").rglob("*.css")]:
        style = path.read_text("utf-8")
        assert not re.findall(r"@import|url\(\s*[\"']?(?:https?:)?//", style), path.name


@pytest.mark.slow
def test_the_log_and_the_pitfalls_are_on_the_site(site):
    start = (site / "html/index.html").read_text("utf-8")
    for page in ("log", "pitfalls", "choosing", "measures", "audit", "generated/settings"):
        assert f'href="{page}.html"' in start
