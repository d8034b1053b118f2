"""How Sphinx makes a site of this folder's pages: `make docs`. It loads nothing from elsewhere."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402 - it lies beside this file
from unlearner._version import __version__  # noqa: E402

project = "unlearner"
author = "The unlearner authors"
release = __version__
extensions = ["myst_parser"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["site"]
html_theme = "furo"
html_title = f"unlearner {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

# A page as it is named in the repository, `docs/choosing.md` or `log.md`.
MENTION = re.compile(r"`(?:docs/)?([\w-]+)\.md`")
FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def with_links(text: str) -> str:
    """The page with titles, as links, for the pages that it mentions outside of its code."""
    pages = {path.stem for path in HERE.glob("*.md")}

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[]({name}.md)" if name in pages else match[0]

    parts = FENCED.split(text)
    return "".join(part if part.startswith("```") else MENTION.sub(link, part) for part in parts)


def _link_pages(_: Any, name: str, source: list[str]) -> None:
    if not name.startswith("generated/"):
        source[0] = with_links(source[0])


def setup(app: Any) -> None:
    """Write the reference before any page is read, and link what pages mention."""
    reference.write(HERE / "generated")
    app.connect("source-read", _link_pages)
