"""Does it fit? What is available, what is said, and the refusal with its ways out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conftest import tiny_model
from unlearner.config import RunConfig
from unlearner.errors import UserError
from unlearner.models.loading import Loaded
from unlearner.models.number_format import NumberFormat
from unlearner.settings import TrainingSettings
from unlearner.training import memory
from unlearner.training.memory import (
    CHECKPOINT,
    SAVED,
    STEP,
    ResourcePlan,
    announce,
    measure_step,
    measuring,
)

MIB, GIB = 1 << 20, 1 << 30
PARTS = {
    "held already": GIB,
    "gradients": GIB // 2,
    "optimiser moments": GIB,
    STEP: 2 * GIB,
    CHECKPOINT: GIB // 4,
    SAVED: GIB // 2,
}


def plan(**changes):
    """40 epochs of 30 s; 4.5 GiB at the peak, of which one is held already."""
    ways = {
        STEP: ["training.lora_rank=16", "method.batch_size=4"],
        CHECKPOINT: ["training.checkpoint_every=never"],
        SAVED: [],
    }
    found = ResourcePlan(30.0, 40, PARTS, torch.device("cpu"), ways, ignored=False)
    return replace(found, **changes)


def told(some, monkeypatch, available, **options):
    """What is said when so much is available, and the refusal, if there is one."""
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    said = []
    try:
        announce(some, said.append, **options)
    except UserError as error:
        return said, str(error)
    return said, None


# What is said


def test_the_plan_in_one_line():
    """40 epochs of 30 s are 20 minutes."""
    assert plan().sentence() == (
        "a run takes about 30 s an epoch, at most 40 epochs (20 min), and up to 4.50 GiB of memory "
        "(when the largest step is taken)"
    )


def test_micro_batches_are_said():
    assert plan(micro_batch=3).sentence().endswith("taken), in micro-batches of 3 windows")


def test_what_does_not_fit_has_no_time():
    assert plan(seconds_per_epoch=math.nan).sentence() == (
        "a run takes more than 4.50 GiB of memory (when the largest step is taken), which is not "
        "there"
    )


def test_a_run_that_fits_says_its_plan_and_no_more(monkeypatch):
    assert told(plan(), monkeypatch, 4 * GIB) == ([plan().sentence()], None)


# The refusal


def test_what_does_not_fit_is_refused_in_one_line_with_its_largest_parts(monkeypatch):
    """3.5 GiB are needed beside the one that is held; 3 are there."""
    _, refusal = told(plan(), monkeypatch, 3 * GIB)
    assert refusal == (
        "training: the run is expected to need 4.50 GiB of the machine's memory when the largest "
        "step is taken (largest step 2.00 GiB, held already 1.00 GiB, optimiser moments 1.00 GiB), "
        "and 4.00 GiB is there for it; set training.lora_rank=16, method.batch_size=4; or set "
        "training.ignore_memory_plan=true to go on anyway"
    )


def test_what_is_held_is_not_asked_for_twice(monkeypatch):
    """It just fits; a byte less does not."""
    needed = 7 * GIB // 2
    assert told(plan(), monkeypatch, needed)[1] is None
    assert told(plan(), monkeypatch, needed - 1)[1] is not None


def test_advice_is_what_helps_at_that_moment(monkeypatch):
    large = {CHECKPOINT: 9 * GIB}
    _, refusal = told(plan(parts=PARTS | large), monkeypatch, GIB)
    assert "set training.checkpoint_every=never; or set" in refusal
    assert "batch_size" not in refusal
    _, refusal = told(plan(parts=PARTS | {SAVED: 9 * GIB}), monkeypatch, GIB)
    assert "is there for it; set training.ignore_memory_plan=true to go on anyway" in refusal


def test_a_step_that_could_not_be_run_is_refused_whatever_is_free_now(monkeypatch):
    _, refusal = told(plan(seconds_per_epoch=math.nan), monkeypatch, 99 * GIB)
    assert "the run is expected to need more than 4.50 GiB" in refusal
    assert "training.lora_rank=16" in refusal


def test_the_plan_can_be_ignored(monkeypatch):
    said, refusal = told(plan(ignored=True), monkeypatch, 0)
    assert refusal is None
    assert "more memory than is available" in said[1]


def test_a_run_without_a_place_for_checkpoints_has_none(monkeypatch):
    some = plan(parts=PARTS | {CHECKPOINT: 9 * GIB})
    assert "a checkpoint is saved" in told(some, monkeypatch, 99 * GIB)[0][0]
    assert told(some, monkeypatch, 99 * GIB, checkpoints=False)[0] == [plan().sentence()]


def test_processes_of_one_machine_share_what_is_available(monkeypatch):
    needed = 7 * GIB // 2
    monkeypatch.setattr(memory.processes, "from_main", lambda value: value)
    monkeypatch.setattr(memory.processes, "count", lambda: 2)
    assert told(plan(), monkeypatch, 2 * needed)[1] is None
    monkeypatch.setattr(memory.processes, "count", lambda: 3)
    assert told(plan(), monkeypatch, 2 * needed)[1] is not None


def test_on_an_accelerator_its_own_memory_counts(monkeypatch):
    """Free, and what torch holds there without using it: 3 + 2 - 1 GiB; the machine has none."""
    for name, value in (
        ("mem_get_info", (3 * GIB, 80 * GIB)),
        ("memory_reserved", 2 * GIB),
        ("memory_allocated", GIB),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    some = plan(device=torch.device("cuda"))
    assert told(some, monkeypatch, 0)[1] is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * GIB, 80 * GIB))
    assert "4.50 GiB of the accelerator's memory" in told(some, monkeypatch, 0)[1]


@pytest.fixture(autouse=True)
def packaged(monkeypatch):
    """As where the package for moments of 8 bits is there."""
    monkeypatch.setattr(memory, "find_spec", lambda name: name)


def ways(training=None, stored=torch.float32, kind="cpu", **method):
    config = RunConfig.from_sections({"method": method, "training": training or {}})
    model = nn.Linear(1, 1)
    model.device = torch.device(kind)
    loaded = Loaded(model, None, "", NumberFormat(stored))
    return memory._ways_out(loaded, config.method, config.training)


def test_ways_out_of_a_step_that_is_too_large():
    assert ways(name="icu", batch_size=6, fresh_per_step=1)[STEP] == [
        "training.lora_rank=16",
        "training.optimiser=adamw_8bit",
        "training.gradient_checkpointing=true",
        "method.batch_size=3",
        "a smaller data.max_length",
    ]


def test_what_is_set_already_is_not_advised():
    set_already = {"lora_rank": 16, "gradient_checkpointing": True}
    found = ways(set_already, name="icu", batch_size=1, fresh_per_step=8)
    assert found[STEP] == ["method.fresh_per_step=4", "a smaller data.max_length"]
    assert found[SAVED] == []


def test_holding_layers_as_they_are_stored_is_advised_beside_adapters_on_them():
    found = ways({"lora_rank": 16}, torch.bfloat16, name="icu")
    assert found[STEP][0] == "model.layerwise_casting=true"
    assert found[SAVED] == ["model.layerwise_casting=true"]
    assert ways({}, torch.bfloat16, name="icu") == ways(name="icu")


def test_layers_are_advised_to_wait_beside_adapters_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(memory, "inner_layers", lambda model: [model])
    found = ways({"lora_rank": 16}, kind="cuda", name="icu")
    assert found[STEP][0] == "model.offload=true"
    assert found[SAVED] == ["model.offload=true"]
    assert ways({}, kind="cuda", name="icu") == ways(name="icu")
    assert "model.offload=true" not in ways({"lora_rank": 16}, name="icu")[STEP]
    monkeypatch.setattr(memory, "inner_layers", lambda _: [])  # as of GPT-2, which has no such ones
    assert "model.offload=true" not in ways({"lora_rank": 16}, kind="cuda", name="icu")[STEP]


def test_what_needs_a_package_that_is_not_there_is_not_advised(monkeypatch):
    monkeypatch.setattr(memory, "find_spec", lambda _: None)
    assert "training.optimiser=adamw_8bit" not in ways(name="icu")[STEP]


def test_adapters_are_not_advised_to_a_method_that_makes_its_model_anew():
    assert "training.lora_rank=16" not in ways(name="retrain")[STEP]


# A step without room


@pytest.mark.skipif("sys.platform != 'linux'", reason="the limit is Linux's")
def test_a_step_that_asks_for_more_than_there_is_fails_before_the_system_is_out_of_it(monkeypatch):
    """A gibibyte where there are 64 MiB: refused by this process, which goes on as before."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 64 * MIB)
    limits = memory.resource.getrlimit(memory.resource.RLIMIT_DATA)
    loaded = Loaded(tiny_model("gpt2"), None, "")
    found = measure_step(loaded, lambda: torch.ones(1 << 28).sum(), TrainingSettings())
    assert found.bytes == 64 * MIB
    assert math.isnan(found.seconds)
    assert memory.resource.getrlimit(memory.resource.RLIMIT_DATA) == limits
    assert torch.ones(1 << 25).sum() == 1 << 25


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_errors_of_memory_are_told_as_what_does_not_fit(error, monkeypatch):
    def loss():
        raise error

    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    found = measure_step(Loaded(tiny_model("gpt2"), None, ""), loss, TrainingSettings())
    assert found.bytes == 1000
    assert math.isnan(found.seconds)


def test_cuda_counts_itself(monkeypatch):
    """300 held, at most 1000 in the step."""
    calls = []
    for name, value in (
        ("memory_allocated", 300),
        ("max_memory_allocated", 1000),
        ("reset_peak_memory_stats", None),
    ):
        monkeypatch.setattr(
            torch.cuda, name, lambda _, name=name, value=value: calls.append(name) or value
        )
    with measuring(torch.device("cuda"), 1) as found:
        calls.append("step")
    assert found.bytes == 700
    assert calls.index("reset_peak_memory_stats") < calls.index("step")
    assert calls.index("step") < calls.index("max_memory_allocated")


# What is available


def group(root, place, files, line):
    """A control group's folder and the line that names it."""
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(line)


@pytest.fixture
def available(monkeypatch):
    """On a machine with 1000 bytes to spare."""
    there = SimpleNamespace(available=1000)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: there)
    return memory.available_bytes


def test_without_control_groups_the_machine_is_the_limit(tmp_path, available):
    assert available(tmp_path) == 1000


def test_a_control_group_leaves_its_limit_less_what_is_used_and_not_cache(tmp_path, available):
    """500 - 400 + 50 of files that can be read again."""
    files = {
        "memory.max": "500\n",
        "memory.current": "400\n",
        "memory.stat": "anon 350\ninactive_file 50\n",
    }
    group(tmp_path, "sys/fs/cgroup/job", files, "0::/job\n")
    assert available(tmp_path) == 150


def test_a_limit_of_a_group_above_holds_too(tmp_path, available):
    files = {"memory.max": "max\n", "memory.current": "400\n", "memory.stat": "inactive_file 0\n"}
    group(tmp_path, "sys/fs/cgroup/job/step", files, "0::/job/step\n")
    group(tmp_path, "sys/fs/cgroup/job", files | {"memory.max": "700\n"}, "0::/job/step\n")
    assert available(tmp_path) == 300


def test_groups_of_the_first_version_are_read(tmp_path, available):
    files = {
        "memory.limit_in_bytes": "600\n",
        "memory.usage_in_bytes": "500\n",
        "memory.stat": "total_inactive_file 20\n",
    }
    group(tmp_path, "sys/fs/cgroup/memory/job", files, "4:cpu,cpuacct:/\n3:memory:/job\n")
    assert available(tmp_path) == 120
