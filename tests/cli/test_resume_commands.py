"""Commands that were cut off: killed by the machine, stopped by the user, and given again."""

import datetime
import json
import os
import random
import shutil
import signal
from pathlib import Path
from string import Template

import pytest
from test_resume import lines

from command_world import FINETUNE, FORGET_RUN, SETS
from unlearner.cli.app import INTERRUPTED, NOT_MET, WRONG_INPUT, run
from unlearner.families import causal_lm_sets
from unlearner.training.log import Log

# 50 take a minute and a half.
KILLS = int(os.environ.get("UNLEARNER_KILLS", "6"))
RESUMABLE = " method.max_epochs=3 method.fresh_per_step=4 evaluation.resamples=20"
LAST = "--forget forget.jsonl --quiet training.checkpoint_every=2 method.batch_size=2" + RESUMABLE


def killed(arguments, step):
    """Run a command in a process of its own that is killed behind a step, as by a power cut."""
    child = os.fork()
    if child == 0:
        write = Log.write

        def die(self, line):
            write(self, line)
            if line.get("step") == step and not self.silent:
                os.kill(os.getpid(), signal.SIGKILL)

        Log.write = die
        os._exit(run(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def world(tmp_path, monkeypatch, model_folders):
    """A folder with the record sets, and a function that gives a command's arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(tmp_path / "key"))
    for name, content in SETS.items():
        (tmp_path / name).write_text(content)
    return lambda line, **names: Template(line).substitute(models=model_folders, **names).split()


def results(folder):
    """Everything a run left that does not tell the time."""
    report = json.loads((folder / "report.json").read_text())
    for line in report["rounds"]:
        del line["seconds"]
    del report["cost"], report["created"], report["relearning"]["seconds"]
    model = (folder / "model" / "model.safetensors").read_bytes()
    return report, model, lines(folder), sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_with_the_same_bytes(world):
    """Kills at random steps, over as many runs as it takes."""
    command = FORGET_RUN.replace("out/run", "$out") + LAST
    assert run(world(command, out="whole")) == NOT_MET
    expected, steps, draw, kills, number = results(Path("whole")), 9, random.Random(0), 0, 0
    while kills < KILLS:
        number += 1
        done, arguments = 0, world(command, out=f"run{number}")
        while done < steps:
            done = draw.randint(done + 1, steps + 1)
            status = killed(arguments, done)
            if status != -signal.SIGKILL:
                break
            kills += 1
            saved = any(Path(f"run{number}").glob("checkpoints/step-*"))
            done = done // 2 * 2 if saved else 0
            arguments = world(f"forget --output run{number} --quiet" + " --resume" * saved)
            arguments = arguments if saved else world(command, out=f"run{number}")
        else:
            status = run(arguments)
        assert status == NOT_MET
        assert results(Path(f"run{number}")) == expected
    assert not [path for path in Path().iterdir() if path.name.endswith(".partial")]


def test_a_folder_with_an_unfinished_run_is_not_overwritten(world, capsys):
    command = world(FORGET_RUN + LAST)
    assert killed(command, 3) == -signal.SIGKILL
    assert run(command) == WRONG_INPUT
    assert "holds an unfinished run; go on with --resume" in capsys.readouterr().err
    assert run([*command, "--resume", "method.max_epochs=7"]) == WRONG_INPUT
    assert "method.max_epochs is 7 and not 3, which the run in" in capsys.readouterr().err
    (Path("forget.jsonl")).write_text(SETS["holdout.jsonl"])
    assert run([*command, "--force", "--resume"]) == WRONG_INPUT
    (Path("forget.jsonl")).write_text(SETS["forget.jsonl"])
    assert run(world("forget --resume --quiet --output out/run")) == NOT_MET
    assert not Path("out/run/checkpoints").exists()


def test_without_an_unfinished_run_resume_is_one_line(world, capsys):
    for command in ("forget", "finetune"):
        assert run(world(f"{command} --resume --output out/none")) == WRONG_INPUT
        assert "--resume: out/none holds no unfinished run" in capsys.readouterr().err


def test_finetune_goes_on_and_not_as_another_command(world, capsys):
    settings = "--quiet epochs=2 batch_size=2 training.checkpoint_every=1"
    assert run(world(FINETUNE.replace("out/run", "whole") + settings)) == 0
    assert killed(world(FINETUNE + settings), 4) == -signal.SIGKILL
    assert run(world("forget --resume --output out/run")) == WRONG_INPUT
    assert "is one of `unlearner finetune`" in capsys.readouterr().err
    assert run(world("finetune --resume --quiet --output out/run")) == 0
    weights = [Path(name, "model.safetensors").read_bytes() for name in ("whole", "out/run")]
    assert weights[0] == weights[1]


def test_ctrl_c_saves_and_says_how_to_go_on(world, monkeypatch, capsys):
    write = Log.write

    def interrupt(self, line):
        write(self, line)
        if line.get("step") == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Log, "write", interrupt)
    assert run(world(FORGET_RUN + LAST)) == INTERRUPTED
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.endswith("interrupted after 2 steps; go on with --output out/run --resume")
    monkeypatch.setattr(Log, "write", write)
    assert run(world("forget --resume --quiet --output out/run")) == NOT_MET


def test_a_fine_tuning_that_goes_on_another_day_keeps_its_day(world, monkeypatch, model_folders):
    """The template writes the day into every record, so that other tokens would be trained on."""

    class Clock(datetime.datetime):
        day = datetime.datetime(2026, 11, 26, 23, 59)

        @classmethod
        def now(cls):
            return cls.day

    monkeypatch.setattr(causal_lm_sets.datetime, "datetime", Clock)
    shutil.copytree(model_folders / "good", "dated")
    template = "{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    Path("dated/chat_template.jinja").write_text(template)
    chats = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": t}]}
        for t in ("york", "bath")
    ]
    Path("chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    line = "finetune dated --records chats.jsonl --output $out --quiet epochs=3 batch_size=1 "
    line += "checkpoint_every=1"
    assert run(world(line, out="whole")) == 0
    assert killed(world(line, out="cut"), 3) == -signal.SIGKILL
    monkeypatch.setattr(Clock, "day", datetime.datetime(2026, 11, 27, 0, 1))
    assert run(world("finetune --output cut --resume --quiet")) == 0
    assert run(world(line, out="later")) == 0
    whole, cut, later = (
        Path(out, "model.safetensors").read_bytes() for out in ("whole", "cut", "later")
    )
    assert whole == cut != later
