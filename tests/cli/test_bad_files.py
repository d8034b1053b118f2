"""Files that are no files, disks that are full, folders that others work in, values without end."""

import errno
import json
import logging
import os
import resource
import stat

import pytest
from test_bad_endings import one_line, stop
from test_bad_input import Wrong, check_refusal, setting

from command_world import FINETUNE, FORGET_RUN, RUN, SHORT
from unlearner.cli.app import FAILED, MET, NOT_MET, WRONG_INPUT, run
from unlearner.errors import Interrupted
from unlearner.output import alone_in
from unlearner.training.checkpoints import Checkpoints
from unlearner.training.trainer import Trainer

BOMB = "a: &a {x: y}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{x: [*{chr(97 + i)}, *{chr(97 + i)}]}}\n" for i in range(20)
)
LIMITS = ("out of range", "1000000")

VALUES = [
    setting("evaluation.resamples=100000000000", "evaluation.resamples", "up to 100000", "got 1"),
    setting("evaluation.batch_tokens=1" + "0" * 30, "evaluation.batch_tokens", "up to"),
    setting("evaluation.memory_bytes=1" + "0" * 30, "evaluation.memory_bytes", "up to"),
    setting("evaluation.max_records=1" + "0" * 12, "evaluation.max_records", *LIMITS),
    setting("evaluation.prompt_start=.inf", "evaluation.prompt_start", "finite"),
    setting("method.max_epochs=1000000000", "method.max_epochs", *LIMITS),
    setting("method.batch_size=99999999999", "method.batch_size", *LIMITS),
    setting("method.num_beams=1001", "method.num_beams", "up to 1000", "1001"),
    setting("method.kl_weight=1" + "0" * 300 + ".0", "method.kl_weight", *LIMITS),
    setting("method.bertscore_below=-.inf", "method.bertscore_below", "finite"),
    setting("training.lora_rank=1000000", "training.lora_rank", "up to 65536"),
    setting("training.lora_alpha=.nan", "training.lora_alpha", "finite"),
    setting("training.checkpoint_every=99999999999", "training.checkpoint_every", *LIMITS),
    setting("search.trials=1000000", "search.trials", "up to 10000"),
    setting("search.seconds=.inf", "search.seconds", "finite"),
    setting("criteria.perplexity_ratio=1e308", "criteria.perplexity_ratio"),
    setting("data.max_length=99999999999", "data.max_length", "up to 10000000"),
    setting("data.max_length=" + "9" * 6000, "data.max_length", "..."),
    setting("data.max_length=" + "[" * 9999, "data.max_length", "..."),
    setting("training.seed=2024-13-45", "training.seed", "'2024-13-45'"),
    setting("x" * 5000 + "=1", "is not a setting", "..."),
    setting("method." + "x" * 5000 + "=1", "unknown key", "..."),
    Wrong("epochs without end", FINETUNE + "epochs=99999999999", ("finetune.epochs", *LIMITS)),
    Wrong("decay without end", FINETUNE + "weight_decay=.inf", ("finetune.weight_decay", "finite")),
]


def run_file(id, content, *words):
    return Wrong(id, RUN + "--config r.yaml", ("r.yaml", *words), {"r.yaml": content})


RUN_FILES = [
    run_file("nested aliases", BOMB, "YAML", "alias"),
    run_file("nested too deep", "a: " + "[" * 100_000, "YAML", "too deep"),
    run_file("too large", "a: {b: " + "c" * 2**20 + "}", "bytes", "at most"),
    run_file("a tag", "a: !!python/object:os.system {}", "YAML"),
    run_file("a value without end", f"data: {{max_length: {'9' * 6000}}}".replace("r.yaml", "")),
]
RUN_FILES[-1] = Wrong(
    RUN_FILES[-1].id, RUN_FILES[-1].command, ("data.max_length", "..."), RUN_FILES[-1].files
)

OUTPUTS = [
    Wrong("a name of 300 letters", RUN.replace("out/run", "o" * 300), ("--output", "too long")),
    *(
        Wrong(f"a name too long in {line}", line.replace("LONG", "n" * 300), ("too long", "nnn"))
        for line in (
            RUN.replace("$models/good", "LONG"),
            RUN + "model.original=LONG",
            RUN + "--retrained LONG",
            FORGET_RUN + "--forget LONG.jsonl",
            RUN + "--config LONG",
            "report LONG",
            "strength LONG",
            "run LONG",
        )
    ),
    Wrong(
        "output in the model's folder",
        RUN.replace("out/run", "m/out"),
        ("--output m/out", "inside the model"),
        {"m/config.json": "{}", "m/model.safetensors": ""},
    ),
    Wrong(
        "output that is the folder of the records",
        RUN.replace("out/run", "."),
        ("--output .", "not empty"),
    ),
]


@pytest.mark.parametrize(
    "case", [*VALUES, *RUN_FILES, *OUTPUTS], ids=lambda case: case.id[:60].replace(" ", "-")
)
def test_what_has_no_end_is_refused_in_a_line_that_has_one(case, call):
    check_refusal(case, call)


@pytest.mark.parametrize("text", ["2024-13-45", "2024-05-01T99:99:99", "9" * 6000, "&a[*a]"])
def test_a_text_that_yaml_chokes_on_stays_text(text, call, tmp_path):
    line = RUN.replace("good", "blank") + f"--force data.request_id={text}"
    status, _, err, _ = call(line + SHORT)
    assert status in (MET, NOT_MET), err
    report = json.loads((tmp_path / "out/run/report.json").read_text("utf-8"))
    assert report["request"]["id"] == text


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[31mb", "a\u202eb"])
def test_an_output_without_a_name_that_can_be_shown_is_refused(name, capsys):
    status = run(["finetune", "m", "--records", "forget.jsonl", "--output", name])
    err = capsys.readouterr().err
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "--output" in err
    assert err.rstrip("\n").isprintable()


def test_an_output_that_is_a_circle_of_links_is_refused(call, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    status, _, err, _ = call(RUN.replace("out/run", "a"))
    assert status == WRONG_INPUT
    assert one_line(err)


def test_the_folder_that_one_is_in_can_be_the_output(call, tmp_path, monkeypatch):
    call("list methods")  # writes the record files
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = (tmp_path / "here").stat().st_ino
    line = FINETUNE.replace("out/run", ".").replace("forget.jsonl", "../forget.jsonl")
    status, _, err, _ = call(line + "--quiet epochs=1")
    assert status == MET, err
    assert (tmp_path / "here" / "model.safetensors").is_file()
    assert (tmp_path / "here").stat().st_ino == before


def test_two_runs_into_one_folder_the_second_is_told(call, tmp_path):
    with alone_in(tmp_path / "here"):
        status, _, err, left = call(FINETUNE.replace("out/run", "here"))
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "--output here: another run is working there" in err
    assert "--resume" not in err
    assert left == []


def test_a_run_that_was_killed_locks_nobody_out(call, tmp_path):
    child = os.fork()
    if child == 0:
        with alone_in(tmp_path / "here"):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert list(tmp_path.glob(".here.*.lock"))
    status, *_ = call(FINETUNE.replace("out/run", "here") + "--quiet epochs=1")
    assert status == MET
    assert not list(tmp_path.glob(".here.*"))


def spoil(path, how):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if how == "a pipe":
        os.mkfifo(path)
    elif how == "a device":
        path.symlink_to("/dev/zero")
    elif how == "without end":
        with path.open("wb") as file:
            file.truncate(10**11)
    else:
        path.mkdir()


PLACES = {
    "records": (FORGET_RUN + "--forget x.jsonl", "x.jsonl"),
    "labelled records": (FINETUNE.replace("forget.jsonl", "x.conll"), "x.conll"),
    "run file": (RUN + "--config x.yaml", "x.yaml"),
    "benchmark": ("run x.yaml", "x.yaml"),
    "report": ("report x", "x/report.json"),
    "configuration": ("check x --forget forget.jsonl", "x/config.json"),
    "unfinished run": ("forget --resume --output x", "x/checkpoints/run.json"),
}


@pytest.mark.parametrize("how", ["a pipe", "a device", "a folder"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_not_waited_for(place, how, call, tmp_path):
    command, name = PLACES[place]
    spoil(tmp_path / name, how)
    status, _, err, _ = call(command)
    assert status == WRONG_INPUT
    assert one_line(err)
    assert name.split("/")[0] in err


@pytest.mark.parametrize("place", ["run file", "benchmark", "report", "configuration"])
def test_a_small_file_without_end_is_not_read(place, call, tmp_path):
    """A hundred gigabytes, none of which is written."""
    command, name = PLACES[place]
    spoil(tmp_path / name, "without end")
    status, _, err, _ = call(command)
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "100,000,000,000 bytes" in err


@pytest.mark.parametrize("how", ["a pipe", "a device"])
def test_a_key_that_is_no_file_is_refused(how, call, tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(tmp_path / "key"))
    spoil(tmp_path / "key", how)
    status, _, err, _ = call(RUN + "--quiet")
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "key" in err


def test_a_full_disk_leaves_no_empty_key(call, tmp_path, monkeypatch):
    key = tmp_path / "own" / "key"
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(key))
    full = stop(OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr("unlearner.files.os.fsync", full)
        status, _, err, _ = call(RUN + "--quiet")
    assert status == WRONG_INPUT
    assert one_line(err)
    assert list(key.parent.iterdir()) == []
    status, *_ = call(FINETUNE + "--quiet epochs=1")
    assert status == MET
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_key_that_others_can_read_is_told(call, tmp_path, monkeypatch, caplog):
    key = tmp_path / "open-key"
    key.write_text("k" * 64)
    key.chmod(0o644)
    monkeypatch.setenv("UNLEARNER_KEY_FILE", str(key))
    with caplog.at_level(logging.WARNING, "unlearner"):
        call(FINETUNE + "--quiet epochs=1")
    assert "open-key: the key of the record digests is readable by others" in caplog.text
    assert "chmod 600" in caplog.text


def test_a_checkpoint_without_room_is_told_once_and_the_run_goes_on(
    call, tmp_path, monkeypatch, caplog
):
    tries = []

    def full(_self, place, _state, _log):
        tries.append(place)
        place.with_name(place.name + ".partial").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_write", full)
    with caplog.at_level(logging.WARNING, "unlearner"):
        status, *_ = call(FINETUNE + "--quiet epochs=2 training.checkpoint_every=1")
    assert status == MET
    assert len(tries) > 1
    assert caplog.text.count("a checkpoint could not be saved") == 1
    assert "No space left" in caplog.text
    assert (tmp_path / "out" / "run" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "run" / "checkpoints").exists()


def test_a_checkpoint_leaves_room_for_the_result(call, monkeypatch, caplog):
    monkeypatch.setattr("unlearner.training.checkpoints.free_bytes", lambda _: 200_000)
    with caplog.at_level(logging.WARNING, "unlearner"):
        status, *_ = call(FINETUNE + "--quiet epochs=1 training.checkpoint_every=1")
    assert status == MET
    assert "it and the result take" in caplog.text


def test_a_result_without_room_is_refused_before_it_is_trained(call, monkeypatch):
    monkeypatch.setattr("unlearner.training.memory.free_bytes", lambda _: 1000)
    monkeypatch.setattr("unlearner.training.trainer.Trainer.step", stop(AssertionError("trained")))
    for command in (RUN + SHORT, FINETUNE + "--quiet epochs=1"):
        status, _, err, left = call(command)
        assert status == WRONG_INPUT
        assert one_line(err)
        assert "the result takes" in err
        assert "1000 bytes are free" in err
        assert left == []


def test_a_result_that_cannot_be_saved_names_the_folder_and_the_room(call):
    """No file may be longer than 20 kB; no error of the library's comes out."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        status, _, err, left = call(FINETUNE + "--quiet epochs=1 training.checkpoint_every=never")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == FAILED
    assert one_line(err)
    assert "out/run: the model could not be saved" in err
    assert "it takes" in err
    assert "are free there" in err
    assert "SafetensorError" not in err
    assert left == []


def test_a_setting_that_changed_since_the_run_began_is_named(call, tmp_path, monkeypatch):
    take = Trainer.step

    def cut(self, loss, private=()):
        found = take(self, loss, private)
        if self.steps == 2:
            raise Interrupted("cut off")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", cut)
        call(FINETUNE + "--quiet epochs=3 batch_size=2 training.checkpoint_every=1")
    assert (tmp_path / "out/run/checkpoints").is_dir()
    status, _, err, _ = call("finetune --output out/run --resume --quiet epochs=4")
    assert status == WRONG_INPUT
    assert one_line(err)
    assert "finetune.epochs is 4 and not 3, which the run in out/run/checkpoints began" in err
    status, _, err, _ = call("finetune --output out/run --resume --quiet finetune.epochs=3")
    assert status == MET, err
