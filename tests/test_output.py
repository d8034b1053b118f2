"""Results appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from unlearner.errors import UserError
from unlearner.output import check_output, staged


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(work):
    (work / "model").mkdir()
    (work / "model" / "weights").write_text("w")
    (work / "report.json").write_text("{}")


WHOLE = ["model", "model/weights", "report.json"]


def test_the_folder_appears_whole_and_at_the_end(tmp_path):
    output = tmp_path / "a" / "b" / "out"
    with staged(output) as work:
        write(work)
        assert not output.exists()
        assert work.parent == output.parent  # the same disk, so that a rename is all
    assert tree(output) == WHOLE
    assert tree(tmp_path / "a" / "b") == ["out", *(f"out/{name}" for name in WHOLE)]
    assert stat.S_IMODE(output.stat().st_mode) == 0o755  # not the 0700 of a temporary folder


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, UserError])
@pytest.mark.parametrize("existed", [True, False])
def test_a_run_that_dies_leaves_everything_as_it_was(tmp_path, error, existed):
    output = tmp_path / "a" / "out"
    if existed:
        output.mkdir(parents=True)
    before = tree(tmp_path)

    def die():
        with staged(output) as work:
            write(work)
            raise error("dead")

    with pytest.raises(error, match="dead"):
        die()
    assert tree(tmp_path) == before


def test_a_parent_that_someone_else_uses_meanwhile_stays(tmp_path):
    output = tmp_path / "a" / "out"

    def die():
        with staged(output):
            (tmp_path / "a" / "theirs").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert tree(tmp_path) == ["a", "a/theirs"]


def test_an_empty_folder_is_filled(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with staged(output) as work:
        write(work)
    assert tree(output) == WHOLE


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with staged(tmp_path / "link") as work:
        write(work)
    assert tree(tmp_path / "real") == WHOLE
    assert (tmp_path / "link").is_symlink()


def test_a_path_with_dots_is_resolved(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with staged(Path("..") / "out") as work:
        write(work)
    assert tree(tmp_path / "out") == WHOLE


@pytest.mark.parametrize("name", [".hidden", "file"])
def test_a_folder_that_holds_anything_is_refused_and_untouched(tmp_path, name):
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("precious")
    with pytest.raises(UserError, match="is not empty; give another folder"), staged(output):
        raise AssertionError("the block must not run")
    assert tree(tmp_path) == ["out", f"out/{name}"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_output(tmp_path / "out")
    with pytest.raises(UserError, match=r"cannot be written, .*out is not a writable folder"):
        check_output(tmp_path / "out" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="is not a writable folder"):
        check_output(tmp_path / "a" / "out")


def test_checking_makes_nothing(tmp_path):
    check_output(tmp_path / "a" / "out")
    assert tree(tmp_path) == []
