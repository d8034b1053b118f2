"""Other ways for a command to end badly, and inputs that only look wrong."""

import errno
import io
import json
import os
import signal
import sys

import pytest

from command_world import (
    FINETUNE,
    FORGET,
    FORGET_RUN,
    RETAIN,
    RUN,
    SHORT,
    TOWNS,
    json_lines,
    texts,
)
from conftest import tiny_tokenizer
from unlearner.cli.app import FAILED, INTERRUPTED, MET, NOT_MET, WRONG_INPUT, main
from unlearner.training.trainer import Trainer


def stop(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


def one_line(err):
    return err.startswith("unlearner: ") and err.endswith("\n") and err.count("\n") == 1


def half_saved(_, tokenizer, folder, *__):
    """What a full disk leaves: the tokenizer and a part of the weights."""
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(bytes(100))
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.safetensors"))


TRAINING_COMMANDS = {
    "forget": (RUN + SHORT, "unlearner.models.loading.save"),
    "finetune": (FINETUNE + "--quiet epochs=1", "unlearner.models.loading.save"),
}
training_commands = pytest.mark.parametrize("command", TRAINING_COMMANDS)


@training_commands
def test_a_full_disk_leaves_nothing_behind(command, call, monkeypatch):
    line, saving = TRAINING_COMMANDS[command]
    monkeypatch.setattr(saving, half_saved)
    status, _, err, left = call(line)
    assert status == FAILED
    assert one_line(err)
    assert "No space left on device" in err
    assert left == []


@training_commands
def test_ctrl_c_leaves_nothing_behind(command, call, monkeypatch):
    monkeypatch.setattr(Trainer, "step", stop(KeyboardInterrupt()))
    status, _, err, left = call(TRAINING_COMMANDS[command][0])
    assert status == INTERRUPTED
    assert one_line(err)
    assert "interrupted" in err
    assert "nothing was written" in err
    assert left == []


def test_a_stopped_job_cleans_up_like_ctrl_c(call, monkeypatch):
    """A batch system sends SIGTERM, which would end Python on the spot."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("unlearner.cli.app.run", lambda _: call(FINETUNE + "--quiet epochs=1"))
    ended = []
    monkeypatch.setattr(sys, "exit", ended.append)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, before)
    status, _, err, left = ended[0]
    assert status == INTERRUPTED
    assert one_line(err)
    assert left == []


@pytest.mark.parametrize("key", ["method.learning_rate=1e6", "learning_rate=1e6 epochs=9"])
def test_a_loss_that_is_no_number_ends_the_run_with_the_way_out(key, call):
    """The first step at such a rate throws the weights far off; the next loss is not finite."""
    command = RUN + SHORT.replace("max_epochs=1", "max_epochs=9") if "." in key else FINETUNE
    status, _, err, left = call(f"{command} --quiet {key}")
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "not a finite number" in err
    assert "lower learning rate" in err
    assert left == []


@training_commands
def test_parents_of_the_output_made_for_a_run_that_fails_go_too(command, call, monkeypatch):
    monkeypatch.setattr(Trainer, "step", stop(RuntimeError("a cable was pulled")))
    status, _, err, left = call(TRAINING_COMMANDS[command][0].replace("out/run", "a/b/c"))
    assert status == FAILED
    assert one_line(err)
    assert "a cable was pulled" in err
    assert left == []


def test_code_that_comes_with_a_model_is_not_run(call, model_folders):
    call("check $models/own-code --forget forget.jsonl")
    assert not (model_folders / "code-was-run").exists()


@pytest.mark.parametrize("key", ["short", "\u00e9" * 64], ids=["short", "not ASCII"])
def test_a_key_that_is_none_is_refused(key, call, tmp_path, monkeypatch):
    path = tmp_path / "my-key"
    path.write_text(key, encoding="utf-8")
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(path))
    status, _, err, left = call(RUN + "--quiet")
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "my-key" in err
    assert left == []


def test_control_characters_in_a_file_do_not_reach_the_terminal(call):
    """A column name with a colour and a carriage return is not shown at all, on one line."""
    name = "\x1b[31mred\rgreen\x07"
    status, _, err, _ = call(f"{FORGET_RUN} --forget f.jsonl", {"f.jsonl": json_lines({name: "a"})})
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "not shown" in err
    assert err.rstrip("\n").isprintable()


def test_ids_in_the_output_of_check_are_inert(call):
    row = {"id": "\x1b[2J[red]a\nb[/red]", "text": FORGET[0]}
    files = {"f.jsonl": json_lines(row)}
    status, out, _, _ = call("check $models/good --forget f.jsonl --retain f.jsonl", files)
    assert status == MET
    assert "\\x1b[2J[red]a b[/red]" in out
    assert "\x1b" not in out


def test_an_id_that_the_terminal_cannot_write_is_escaped(call, monkeypatch):
    """Standard output in ASCII, as in a container without a locale."""
    bytes_out, ended = io.BytesIO(), []
    command = "check $models/good --forget f.jsonl --retain f.jsonl"
    files = {"f.jsonl": json_lines({"id": "é", "text": FORGET[0]})}
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_out, encoding="ascii"))
    monkeypatch.setattr(sys, "exit", ended.append)
    monkeypatch.setattr("unlearner.cli.app.run", lambda _: call(command, files)[0])
    before = signal.getsignal(signal.SIGTERM)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.stdout.flush()
    assert ended == [MET]
    assert rb"\xe9 ~ \xe9" in bytes_out.getvalue()


@pytest.mark.parametrize("link", ["to an empty folder", "to nothing"])
def test_an_output_that_is_a_link_is_written_where_it_points(link, call, tmp_path):
    if link == "to an empty folder":
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    status, *_ = call(FINETUNE.replace("out/run", "link") + "--quiet epochs=1")
    assert status == MET
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.safetensors").is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_in_a_folder_that_may_not_be_written_is_refused(call, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    status, _, err, left = call(RUN.replace("out/run", "closed/run"))
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "--output closed/run" in err
    assert "writable" in err
    assert left == []


def test_nothing_memorised_is_an_answer_and_writes_nothing(call):
    """A random model knows none of the records: status 0 and a plain sentence."""
    command = RUN.replace("good", "blank") + "evaluation.resamples=20"
    status, out, err, left = call(command)
    assert status == MET
    assert "nothing to unlearn by these measures" in " ".join(out.split())
    assert "--force" in err
    assert left == []


def test_force_runs_though_nothing_is_memorised(call, tmp_path):
    status, out, err, _ = call(RUN.replace("good", "blank") + "--force" + SHORT)
    assert status in (MET, NOT_MET)
    assert "verdict" in out
    assert err == ""
    names = {path.name for path in (tmp_path / "out" / "run").iterdir()}
    assert names == {"model", "report.json", "report.html", "report.md", "run.yaml", "log.jsonl"}
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("pairs", ["fresh", "fixed"])
def test_a_forget_set_larger_than_the_pool_works(pairs, call, tmp_path):
    """Six records share two partners."""
    files = {"two.jsonl": texts(RETAIN[:2])}
    status, _, err, _ = call(RUN + f"--pool two.jsonl method.pairs={pairs}" + SHORT, files)
    assert err == ""
    assert status in (MET, NOT_MET)
    report = json.loads((tmp_path / "out" / "run" / "report.json").read_text("utf-8"))
    assert report["data"]["forget"]["records"] == 6
    assert report["data"]["analogous"]["records"] == 2


def test_records_too_few_to_tell_end_with_a_status_of_their_own_and_write_nothing(call):
    """A text that the model never saw, and one unseen: nobody can say whether it is memorised."""
    files = {"forget.jsonl": texts(["the sea is far from here"]), "one.jsonl": texts(["a b c d"])}
    command = RUN.replace("--holdout holdout.jsonl", "--holdout one.jsonl") + SHORT
    assert command != RUN + SHORT
    status, out, err, left = call(command, files)
    assert status == NOT_MET
    assert "too few records to tell" in out + err
    assert not [name for name in left if name.startswith("out")]


def test_a_record_longer_than_the_context_is_kept_whole(call, tmp_path):
    """Windows of 128 tokens overlap by one; the report counts every token once and none less."""
    long = " ".join(f"{town} has {i} mills," for i, town in enumerate(TOWNS * 9))
    num_tokens = len(tiny_tokenizer()(long)["input_ids"])
    assert num_tokens > 3 * 128
    status, _, err, _ = call(RUN + "--force" + SHORT, {"forget.jsonl": texts([long])})
    assert "Traceback" not in err
    assert status in (MET, NOT_MET)
    report = json.loads((tmp_path / "out" / "run" / "report.json").read_text("utf-8"))
    assert report["data"]["forget"]["tokens"] == num_tokens
