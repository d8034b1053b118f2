"""Does it fit? What is available, what is said, and the refusal with its ways out."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_memory_plan import SHAPE, STEP, config, step

from unlearner.errors import UserError
from unlearner.training import memory as memory_module
from unlearner.training.memory import (
    Plan,
    announce,
    available_bytes,
    changed,
    duration,
    in_words,
    memory,
    size,
)

GIB = 1 << 30
BIG = replace(SHAPE, parameters=GIB // 4, layers=24, hidden=1024, inner=4096, attention=1024)


def plan(some, *, shape=SHAPE, device="cpu", largest=STEP):
    """The plan of a run with this shape, whose step grows with the batch size."""

    def again(other):
        share = other.method.batch_size / 8
        grown = replace(largest, tokens=int(largest.tokens * share))
        return memory(shape, grown, other, device=device)

    return Plan(30.0, 40, again(some), again)


def refusal(monkeypatch, available, **sections):
    monkeypatch.setattr(memory_module, "available_bytes", lambda: available)
    some = config(**sections)
    with pytest.raises(UserError) as caught:
        announce(plan(some, shape=BIG, largest=step(tokens=4096)), some, lambda _: None)
    return str(caught.value)


# What is said


def test_the_plan_in_one_line():
    """40 epochs of 30 s are 20 minutes."""
    some = config(training={"checkpoint_every": "never"})
    found = plan(some)
    assert in_words(found) == (
        f"a run takes about 30.0 s an epoch, at most 40 epochs (20 min), and up to "
        f"{size(found.memory.peak_bytes)} of memory (when {found.memory.phase})"
    )


def test_a_run_that_fits_says_its_plan_and_no_more(monkeypatch):
    monkeypatch.setattr(memory_module, "available_bytes", lambda: GIB)
    said, some = [], config()
    announce(plan(some), some, said.append)
    assert said == [in_words(plan(some))]


def test_sizes_and_durations_are_for_people():
    assert [size(n) for n in (2048, 3 << 20, 5 * GIB // 2)] == ["2 KiB", "3.0 MiB", "2.5 GiB"]
    assert [duration(s) for s in (2.25, 600, 7200)] == ["2.2 s", "10 min", "2.0 h"]


# The refusal


def test_what_does_not_fit_is_refused_in_one_line_with_its_largest_parts(monkeypatch):
    told = refusal(monkeypatch, GIB)
    assert "\n" not in told
    assert told.startswith("training: the run is expected to need ")
    assert "optimiser moments 2.0 GiB" in told
    assert told.endswith("or set training.ignore_memory_plan=true to go on anyway")


def test_advice_is_what_the_same_plan_comes_to_with_each_setting(monkeypatch):
    told = refusal(monkeypatch, GIB)
    for setting, value in (
        ("training.lora_rank", 16),
        ("training.gradient_checkpointing", True),
        ("training.checkpoint_every", "never"),
        ("method.batch_size", 4),
    ):
        other = changed(config(), [(setting, value)])
        peak = plan(other, shape=BIG, largest=step(tokens=4096)).memory.peak_bytes
        if peak < plan(config(), shape=BIG, largest=step(tokens=4096)).memory.peak_bytes:
            assert f"{setting}={str(value).lower()} ({size(peak)}" in told
    assert "training.lora_rank=16 (" in told
    assert "all of these (" in told


def test_a_setting_that_is_not_enough_alone_says_so(monkeypatch):
    """All that is there is the weights' 1 GiB and a little: adapters alone are not enough."""
    told = refusal(monkeypatch, 1 << 20)
    _, found, behind = told.partition("training.lora_rank=16 (")
    assert found
    assert behind.partition(")")[0].endswith(", still too much")


def test_what_is_set_already_is_not_advised(monkeypatch):
    told = refusal(monkeypatch, 1 << 20, training={"lora_rank": 16, "precision": "bfloat16"})
    assert "lora_rank" not in told
    assert "precision" not in told


def test_adapters_are_not_advised_to_a_method_that_makes_its_model_anew():
    settings = [name for name, _ in memory_module._candidates(config(method={"name": "sisa"}))]
    assert "training.gradient_checkpointing" in settings
    assert "training.lora_rank" not in settings
    assert "training.lora_rank" in [name for name, _ in memory_module._candidates(config())]


def test_weights_that_are_loaded_are_not_asked_for_twice(monkeypatch):
    """Available is the peak less the weights: it just fits; a byte less does not."""
    some = config()
    found = plan(some)
    there = found.memory.peak_bytes - found.memory.parts["parameters"]
    monkeypatch.setattr(memory_module, "available_bytes", lambda: there)
    announce(found, some, lambda _: None)
    monkeypatch.setattr(memory_module, "available_bytes", lambda: there - 1)
    with pytest.raises(UserError):
        announce(found, some, lambda _: None)


def test_the_plan_can_be_ignored(monkeypatch):
    monkeypatch.setattr(memory_module, "available_bytes", lambda: 0)
    some, said = config(training={"ignore_memory_plan": True}), []
    announce(plan(some), some, said.append)
    assert "more memory than is available" in said[1]


def test_a_run_without_a_place_for_checkpoints_has_none(monkeypatch):
    """Three copies of 400 MB make its peak, which is more than there is; the plan is ignored."""
    monkeypatch.setattr(memory_module, "available_bytes", lambda: GIB)
    big, said = replace(SHAPE, parameters=10**8), []
    ignored = {"ignore_memory_plan": True}
    some = config(training=ignored)
    without = config(training=ignored | {"checkpoint_every": "never"})
    announce(plan(some, shape=big), some, said.append)
    announce(plan(some, shape=big), some, said.append, checkpoints=False)
    assert "a checkpoint is saved" in said[0]
    assert in_words(plan(without, shape=big)) in said
    assert "a checkpoint is saved" not in in_words(plan(without, shape=big))


def test_processes_of_one_machine_share_what_is_available(monkeypatch):
    some = config()
    found = plan(some)
    there = found.memory.peak_bytes - found.memory.parts["parameters"]
    monkeypatch.setattr(memory_module, "available_bytes", lambda: 2 * there)
    monkeypatch.setattr(memory_module.processes, "count", lambda: 2)
    monkeypatch.setattr(memory_module.processes, "from_main", lambda value: value)
    announce(found, some, lambda _: None)
    monkeypatch.setattr(memory_module.processes, "count", lambda: 3)
    with pytest.raises(UserError):
        announce(found, some, lambda _: None)


def test_on_an_accelerator_both_memories_have_to_do(monkeypatch):
    """The device has room, the machine has not; and the other way round."""
    some = config(training={"device": "cuda"})
    found = plan(some, device="cuda", largest=step(keeps_best=True))
    monkeypatch.setattr(memory_module, "available_on_cuda", lambda: GIB)
    monkeypatch.setattr(memory_module, "available_bytes", lambda: 10)
    with pytest.raises(UserError, match="beside the accelerator's memory"):
        announce(found, some, lambda _: None)
    monkeypatch.setattr(memory_module, "available_on_cuda", lambda: 10)
    monkeypatch.setattr(memory_module, "available_bytes", lambda: GIB)
    with pytest.raises(UserError, match="of the accelerator's memory"):
        announce(found, some, lambda _: None)


# What is available


def group(root, place, files, line):
    """A control group's folder and the line that names it."""
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(line)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 1000 bytes to spare."""
    there = SimpleNamespace(available=1000)
    monkeypatch.setattr(memory_module.psutil, "virtual_memory", lambda: there)


def test_without_control_groups_the_machine_is_the_limit(tmp_path):
    assert available_bytes(tmp_path) == 1000


def test_a_control_group_leaves_its_limit_less_what_is_used_and_not_cache(tmp_path):
    """500 - 400 + 50 of files that can be read again."""
    files = {
        "memory.max": "500\n",
        "memory.current": "400\n",
        "memory.stat": "anon 350\ninactive_file 50\n",
    }
    group(tmp_path, "sys/fs/cgroup/job", files, "0::/job\n")
    assert available_bytes(tmp_path) == 150


def test_a_limit_of_a_group_above_holds_too(tmp_path):
    files = {"memory.max": "max\n", "memory.current": "400\n", "memory.stat": "inactive_file 0\n"}
    group(tmp_path, "sys/fs/cgroup/job/step", files, "0::/job/step\n")
    group(tmp_path, "sys/fs/cgroup/job", files | {"memory.max": "700\n"}, "0::/job/step\n")
    assert available_bytes(tmp_path) == 300


def test_groups_of_the_first_version_are_read(tmp_path):
    files = {
        "memory.limit_in_bytes": "600\n",
        "memory.usage_in_bytes": "500\n",
        "memory.stat": "total_inactive_file 20\n",
    }
    group(tmp_path, "sys/fs/cgroup/memory/job", files, "4:cpu,cpuacct:/\n3:memory:/job\n")
    assert available_bytes(tmp_path) == 120
