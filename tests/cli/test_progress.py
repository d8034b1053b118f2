"""What a person sees while a command works, with a terminal and without."""

import io

import pytest
from rich.console import Console

from unlearner.cli.terminal import RunProgress

ROUND = {
    "round": 3,
    "active": 12,
    "el_10": 0.25,
    "ma": 0.5,
    "loss": {},
    "seconds": 1.0,
    "retain_perplexity": 12.34,
}
STEP = {"step": 7, "loss": {"forget": -1.5, "kl": 0.25}}


@pytest.fixture
def plain(capsys):
    """What a run without a terminal writes: standard error of these lines."""

    def lines(*log, quiet=False, say=()):
        progress = RunProgress(quiet=quiet, num_rounds=40)
        for text in say:
            progress.say(text)
        for line in log:
            progress.line(line)
        progress.stop()
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()

    return lines


def test_without_a_terminal_a_round_is_one_line_and_a_step_none(plain):
    assert plain(STEP, ROUND, STEP, {**ROUND, "round": 4, "active": 0}) == [
        "  epoch 3: 12 active, EL_10 0.250, MA 0.500, kept text's perplexity 12.3",
        "  epoch 4: 0 active, EL_10 0.250, MA 0.500, kept text's perplexity 12.3",
    ]


def test_a_line_longer_than_80_characters_is_still_one(plain):
    long = {**ROUND, "round": 1000, "active": 10**9, "retain_perplexity": 123456789.0}
    (line,) = plain(long)
    assert len(line) > 80
    assert plain(say=["word " * 40 + "end"]) == ["word " * 40 + "end"]


def test_what_was_not_measured_is_not_shown(plain):
    (line,) = plain({**ROUND, "el_10": None, "retain_perplexity": None})
    assert line == "  epoch 3: 12 active, MA 0.500"


def test_an_epoch_of_finetuning_shows_its_goal_where_there_is_one(plain):
    assert plain(
        {"round": 1, "epochs": 5, "value": None}, {"round": 2, "epochs": 5, "value": 0.75}
    ) == ["  epoch 1 of 5", "  epoch 2 of 5, 0.7500"]


def test_quiet_shows_nothing(plain):
    assert plain(STEP, ROUND, quiet=True, say=["hello"]) == []


HOSTILE = "[red]x[/red] :warning: \x1b[2J\x1b]8;;http://evil\x07 \r[/]"
INERT = "[red]x[/red] :warning: \\x1b[2J\\x1b]8;;http://evil\\x07 [/]"


def test_markup_emoji_and_escape_codes_are_shown_not_obeyed(plain):
    assert plain(say=[HOSTILE]) == [INERT]


def on_a_terminal(*log, num_rounds=10):
    progress = RunProgress(quiet=False, num_rounds=num_rounds)
    screen = io.StringIO()
    progress.console = progress.bar.live.console = Console(
        file=screen, force_terminal=True, width=200, emoji=False
    )
    for line in log:
        progress.line(line)
    return progress, screen


def test_a_terminal_has_a_bar_of_the_rounds_with_the_terms_of_the_last_step():
    progress, screen = on_a_terminal(STEP, ROUND, {**STEP, "loss": {"forget": -2.0}})
    (task,) = progress.bar.tasks
    assert (task.completed, task.total) == (3, 10)
    assert task.description == "forget -2.000"
    assert task.fields["state"].startswith("epoch 3: 12 active")
    progress.stop()
    assert "epoch 3: 12 active" in screen.getvalue()


def test_stopping_twice_or_without_a_bar_is_no_fault():
    progress, _ = on_a_terminal(ROUND)
    progress.stop()
    progress.stop()
    RunProgress(quiet=False, num_rounds=1).stop()


def test_a_quiet_line_leaves_nothing_behind_without_a_terminal(capsys):
    RunProgress(quiet=False, num_rounds=1).quiet_line(ROUND)
    assert capsys.readouterr().err == ""
