"""The program does what it did: golden runs, compared with what is kept of them.

`golden_files` says what is kept and how it is compared. A change that is wanted is kept by
`python tests/golden/renew.py`, which prints it, and is then seen in the diff of `kept/`.
"""

import time
from itertools import islice
from pathlib import Path

import pytest
from golden_files import (
    FINGERPRINT,
    course,
    differences,
    fingerprint,
    kept_file,
    make,
    page_digests,
    page_file,
    read,
    read_page,
)
from golden_runs import RUNS, carry_out, in_folder
from golden_world import build_world
from torch.optim.optimizer import register_optimizer_step_post_hook

pytestmark = pytest.mark.slow

# Lines of a failure, beyond which there are only more of them.
SHOWN = 40
# A run that was stopped, and the same one that was not.
RESUMED = {"icu-resumed": "icu", "deepcut-resumed": "deepcut"}


@pytest.fixture(scope="session")
def golden_world(made_once) -> Path:
    return made_once("golden-world", build_world)


def named(runs):
    return [pytest.param(name, marks=[pytest.mark.slow] * run.slow) for name, run in runs.items()]


def told_apart(page, old, new, folder):
    """Both texts of a page as files, a tag a line, for a diff."""
    paths = [folder / f"{page.replace('/', '-')}.{when}" for when in ("before", "now")]
    for path, text in zip(paths, (old, new), strict=True):
        path.write_text(text.replace(">", ">\n"), encoding="utf-8")
    return "diff {} {}".format(*paths)


@pytest.mark.parametrize("name", named(RUNS))
def test_a_run_gives_what_it_gave(name, golden_world, tmp_path):
    """To the byte on the machine it was kept on, and within the stated tolerance on another."""
    exactly = read(FINGERPRINT) == fingerprint()
    folder = tmp_path / "run"
    folder.mkdir()
    old, (new, pages) = read(kept_file(name)), make(name, folder, golden_world)
    assert old["files"].keys() == new["files"].keys()
    if not exactly and course(old) != course(new):
        some = list(differences(course(old), course(new), exactly=True))
        pytest.skip(f"on this machine the run took another course: {'; '.join(some[:3])}")
    told = list(islice(differences(old, new, exactly=exactly), SHOWN))
    before, now = page_digests(old), page_digests(new)
    for path in sorted(before.keys() & now.keys()):
        if exactly and before[path] != now[path]:
            texts = read_page(before[path]), pages[now[path]]
            told.append(told_apart(path, *texts, tmp_path))
    assert not told, "\n".join(told)


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_kept_as_the_one_that_was_not_stopped(name):
    resumed, whole = (read(kept_file(one)) for one in (name, RESUMED[name]))
    assert resumed["files"] == whole["files"]
    assert resumed["statuses"] == [130, *whole["statuses"]]
    assert resumed["printed"] == [[], *whole["printed"]]


@pytest.mark.parametrize("name", RESUMED)
def test_the_seconds_of_a_resumed_run_are_those_of_its_parts(
    name, golden_world, tmp_path, monkeypatch
):
    """By a clock that every optimiser step moves on by 100 seconds, and nothing else does.

    The run is stopped behind its third step: of n steps 3 * 100 seconds are before that and
    (n - 3) * 100 behind it, all of them of unlearning; of evaluation are the fifty steps on kept
    records alone.
    """
    now = 0.0

    def move_on(*_):
        nonlocal now
        now += 100.0

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    hook = register_optimizer_step_post_hook(move_on)
    try:
        with in_folder(tmp_path, golden_world):
            carry_out(RUNS[name])
    finally:
        hook.remove()
    cost = read(tmp_path / "run" / "report.json")["cost"]
    assert cost["steps"] > RUNS[name].stop_behind
    assert cost["seconds_unlearning"] == 100 * cost["steps"]
    assert cost["seconds_evaluation"] == 50 * 100
    assert cost["seconds"] == cost["seconds_unlearning"] + cost["seconds_evaluation"]


def test_every_run_is_kept_and_nothing_else():
    kept = {path.stem for path in FINGERPRINT.parent.glob("*.json")} - {"fingerprint"}
    assert kept == set(RUNS)
    digests = {page for name in RUNS for page in page_digests(read(kept_file(name))).values()}
    pages = {page_file(digest) for digest in digests}
    assert {*page_file("sha256:").parent.iterdir()} == pages
