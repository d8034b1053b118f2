"""`docs/inputs.md` to the letter: every file that it shows is read as it says."""

import re
from pathlib import Path

import pytest

from unlearner.data.loading import classifier_family, read_records

PAGE = (Path(__file__).parents[2] / "docs/inputs.md").read_text("utf-8")
SHOWN = re.compile(r"^`([\w.]+)`.*\n\n```\w+\n((?:(?!```).*\n)*)```\n\nread: (.*)$", re.MULTILINE)
FILES = {name: (content, read) for name, content, read in SHOWN.findall(PAGE)}


def test_the_page_shows_every_kind_of_file():
    assert {Path(name).suffix for name in FILES} >= {
        ".txt",
        ".md",
        ".jsonl",
        ".json",
        ".csv",
        ".conll",
    }
    assert len(FILES) == PAGE.count("\nread: ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_page_is_read_as_the_page_says(tmp_path, name):
    content, read = FILES[name]
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    labelled = "label" in read or "tags" in read
    family = classifier_family(path, {}) if labelled else "causal-lm"
    found = read_records(path, name="forget", family=family)
    assert found.reading.partition("read: ")[2] == read
