"""The GPU benchmark's code on a processor and a tiny shape; no test asserts a time."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu
import gpu_round
from gpu_shapes import (
    FLASH,
    KERNELS,
    SHAPES,
    Combination,
    Load,
    Shape,
    attention_pairs,
    build,
    step_flops,
)
from unlearner.models.layerwise_casting import has_cast_layers
from unlearner.models.loading import num_parameters
from unlearner.models.offloading import has_offloaded_layers

SMALL = [
    "--shapes",
    "tiny",
    "--device",
    "cpu",
    "--tokens",
    "40",
    "--forget",
    "1",
    "--kept",
    "2",
    "--records",
    "2",
    "--repeats",
    "1",
    "--ways",
    "plain",
]
ONE = ["--ranks", "0", "--precision", "bfloat16", "--checkpointing", "off"]
LOAD = Load(tokens=24, forget=1, kept=2)
# One block of width 8 with two heads, 32 units inside, and 10 tokens.
ONE_LAYER = {
    "model_type": "gpt_neo",
    "vocab_size": 10,
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 2,
    "attention_types": [[["global"], 1]],
    "max_position_embeddings": 32,
    "bos_token_id": 9,
    "eos_token_id": 9,
}


def run(tmp_path, *options):
    """The page's tables, as lists of cells, and the figures."""
    output = tmp_path / "gpu.md"
    gpu.main([*SMALL, *options, "--output", str(output)])
    tables = [
        [
            [cell.strip() for cell in line[1:-1].split("|")]
            for line in part.splitlines()
            if line.startswith("|")
        ]
        for part in output.read_text("utf-8").split("\n## ")[1:]
    ]
    return tables, json.loads(output.with_suffix(".json").read_text("utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gpu"))


@pytest.fixture
def asked_before(whole, monkeypatch):
    """Where only steps are about: what asking gave in `whole`, which takes most of a run."""
    monkeypatch.setattr(gpu, "asking", lambda *_: json.loads(json.dumps(whole[1]["asking"])))


def test_every_combination_has_a_line_with_every_column(whole):
    """Two ranks, two precisions, checkpointing or not: 8 lines; two sets that are asked about."""
    (head, _, *lines), (asked_head, _, *asked) = whole[0]
    assert tuple(head) == gpu.STEP_COLUMNS
    assert tuple(asked_head) == gpu.ASKING_COLUMNS
    assert len({tuple(line[2:6]) for line in lines}) == len(lines) == 8
    assert [line[2] for line in asked] == ["memorised", "unseen"]
    assert all(len(line) == len(head) for line in lines)
    assert all(len(line) == len(asked_head) for line in asked)
    no_goal, not_asked = {10, 11}, {14}  # a tiny model has no goal; nothing was compiled
    for line in lines:
        assert {place for place, cell in enumerate(line) if cell in ("", "-")} == (
            no_goal | not_asked
        )
    assert not any(cell in ("", "-") for line in asked for cell in line)


def test_figures_are_positive_and_follow_from_each_other(whole):
    results = whole[1]
    rates = results["matrix_rates"]
    assert rates["bfloat16"] > 0 < rates["float32"]
    for row in results["steps"]:
        for name in (
            "step_seconds",
            "bare_seconds",
            "update_seconds",
            "peak_bytes",
            "expected_bytes",
            "flops",
        ):
            assert row[name] > 0, name
        assert row["tokens_per_second"] == pytest.approx(3 * 40 / row["step_seconds"])
        assert row["share"] == pytest.approx(row["flops"] / row["step_seconds"] / rates["bfloat16"])
        assert row["ratio"] == pytest.approx(row["step_seconds"] / row["bare_seconds"])
    for row in results["asking"]:
        assert row["seconds"] > 0 < row["definition_seconds"]
        assert row["peak_bytes"] > 0
        assert row["equal"] == 1  # a processor's kernels give the same tokens
        assert row["asked_lengths"] < row["all_lengths"] == 39
    memorised, unseen = results["asking"]
    assert memorised["ma"] == memorised["el_10"] == 1 > unseen["ma"]
    assert {"torch", "transformers", "python"} <= set(results["versions"])


def test_checkpointing_counts_as_no_more_useful_work(whole):
    flops = {(row["lora_rank"], row["checkpointing"]): row["flops"] for row in whole[1]["steps"]}
    assert flops[0, False] == flops[0, True]
    assert flops[16, False] == flops[16, True]


def test_adapters_of_a_large_model_take_about_two_thirds_of_the_operations():
    """4 of 6 for each weight, and what rank 16 adds to layers that are thousands wide."""
    model = build("llama-1b", "auto", "meta")
    shape, pairs = Shape.of(model), attention_pairs(model.config, 200)
    share = step_flops(shape, Load(), pairs, rank=16) / step_flops(shape, Load(), pairs)
    assert 2 / 3 < share < 0.7


def test_operations_of_one_block_by_hand(monkeypatch):
    """2 windows of 3 tokens: n = 6, l = 4, and 1 + 2 + 3 = 6 pairs in each window.

    N = 4 * 8 * 8 + 2 * 8 * 32 = 768 and V D = 80, so N n + V D l = 4608 + 320 = 4928. Attention:
    12 * 8 * 12 = 1152. All weights: 6 * 4928 + 1152 = 30720. Rank 2, E = 4 * 16 + 2 * 40 = 144:
    4 * 4928 + 6 * 2 * 144 * 6 + 1152 = 31232.
    """
    monkeypatch.setitem(SHAPES, "one", ONE_LAYER)
    model = build("one", "auto", "meta")
    pairs = attention_pairs(model.config, 3)
    assert pairs == 6
    load = Load(tokens=3, forget=1, kept=1)
    assert step_flops(Shape.of(model), load, pairs) == 30720
    assert step_flops(Shape.of(model), load, pairs, rank=2) == 31232


def test_local_attention_sees_the_last_positions_only():
    """Over 5 tokens a whole block has 15 pairs; one that sees 2 positions 1 + 2 + 2 + 2 + 2 = 9."""
    config = build("tiny", "auto", "meta").config
    config.window_size = 2
    assert attention_pairs(config, 5) == 15 + 9


@pytest.mark.parametrize(("rank", "checkpointing"), [(0, False), (0, True), (4, False)])
def test_torch_counts_the_operations_of_a_step(rank, checkpointing):
    """What is counted on top of the formula, each by hand, for D = 32, 2 blocks, V = 200.

    A kernel that masks scores computes all 24 * 24 pairs, of 3 windows and 2 blocks. The target's
    logits of 2 * 23 positions are made twice, forwards and backwards. Checkpointing computes the
    blocks again, but not their last product of 4 * 32 * 32, whose output no gradient needs.
    Adapters leave out the input gradient of the first block's three layers.
    """
    model = build("tiny", "auto", "meta")
    shape, pairs = Shape.of(model), attention_pairs(model.config, 24)
    one_round = gpu_round.Round(
        Combination("tiny", lora_rank=rank, checkpointing=checkpointing), LOAD, "cpu"
    )
    one_round.icu()
    with FlopCounterMode(display=False) as counter:
        one_round.icu()
    full_pairs, tokens = 2 * 24 * 24, 3 * 24
    found = step_flops(shape, LOAD, pairs, rank)
    found += 12 * 32 * (full_pairs - pairs) * 3
    found += 2 * 2 * 200 * 32 * (2 * 23)
    if checkpointing:
        again = shape.linear - shape.output - 2 * (4 * 32 * 32)
        found += 2 * again * tokens + 4 * 32 * full_pairs * 3
    if rank:
        found -= 3 * 2 * (32 * 32 + rank * 32) * tokens
    assert counter.get_total_flops() == found


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ("gpt-neo-125m", 125_198_592),
        ("gpt-neo-1.3b", 1_315_575_808),
        ("gpt-neo-2.7b", 2_651_307_520),
        ("smollm2-135m", 134_515_008),
        ("llama-1b", 1_235_814_400),
        ("llama-8b", 8_030_261_248),
    ],
)
def test_shapes_have_as_many_parameters_as_the_published_models(shape, count):
    assert num_parameters(build(shape, "auto", "meta")) == count


@pytest.mark.parametrize("shape", ["tiny", "tiny-llama"])
def test_kernels_are_those_that_transformers_has(shape):
    offered = KERNELS[SHAPES[shape]["model_type"]]
    for kernel in {"eager", "sdpa"} & set(offered):
        assert build(shape, kernel, "meta").config._attn_implementation == kernel
    for kernel in {"eager", "sdpa"} - set(offered):
        with pytest.raises(ValueError, match="does not support"):
            build(shape, kernel, "meta")
        assert "no sdpa kernel" in Combination(shape, kernel).unavailable


def test_a_kernel_that_is_not_there_is_left_out_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_shapes.is_flash_attn_2_available", lambda: True)
    assert Combination("tiny", FLASH, "bfloat16").unavailable is None
    assert "float32" in Combination("tiny", FLASH).unavailable
    monkeypatch.setattr("gpu_shapes.is_flash_attn_2_available", lambda: False)
    _, results = run(tmp_path, *ONE, "--attention", "sdpa", FLASH)
    assert results["steps"] == results["asking"] == []
    assert len(results["left_out"]) == 4  # two kernels, a step in bfloat16 and asking in float32
    assert "flash-attn is not installed" in (tmp_path / "gpu.md").read_text("utf-8")


def no_room(*_, **__):
    raise torch.OutOfMemoryError("none left")


@pytest.mark.usefixtures("asked_before")
def test_a_step_that_does_not_fit_has_a_line_and_the_next_goes_on(tmp_path, monkeypatch):
    """All weights do not fit, adapters do; the plan's expectation is told of both."""
    real = gpu_round.Round.icu

    def icu(self):
        return real(self) if self.combination.lora_rank else no_room()

    monkeypatch.setattr(gpu_round.Round, "icu", icu)
    ((_, _, full, adapters), _), results = run(tmp_path, *ONE, "--ranks", "0", "16")
    assert full[2:7] == ["all", "eager", "bfloat16", "off", "does not fit"]
    assert set(full[7:17]) == {"-", ""}
    assert float(full[17]) > 0
    assert "does not fit" not in adapters
    assert [row["fits"] for row in results["steps"]] == [False, True]
    assert "step_seconds" not in results["steps"][0]


@pytest.mark.usefixtures("asked_before")
def test_a_bare_step_that_does_not_fit_leaves_the_figures_of_icus(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_round.Round, "bare", no_room)
    ((_, _, line), _), results = run(tmp_path, *ONE)
    assert float(line[6]) > 0
    assert line[12:15] == ["does not fit", "-", "-"]
    assert results["steps"][0]["bare_seconds"] is None


def test_asking_that_does_not_fit_has_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_round, "ours", no_room)
    (_, (_, _, line)), _ = run(tmp_path, *ONE)
    assert line[:3] == ["tiny", "eager", "-"]
    assert line[6:] == ["does not fit", "-", "-", "-"]


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    def wrong(_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(gpu_round.Round, "icu", wrong)
    with pytest.raises(RuntimeError, match="a fault"):
        run(tmp_path, *ONE)
    assert json.loads((tmp_path / "gpu.json").read_text("utf-8"))["steps"] == []


@pytest.mark.usefixtures("asked_before")
def test_the_compiled_bare_step_is_the_same_step(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    ((_, _, line), _), results = run(tmp_path, *ONE, "--compile")
    assert len(compiled) == 1
    assert results["steps"][0]["compiled_seconds"] > 0
    assert float(line[14]) > 0


@pytest.mark.usefixtures("asked_before")
def test_compiled_layers_and_moments_of_8_bits_have_lines_of_their_own(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda some, **_: compiled.append(some) or some)
    ((_, _, *lines), _), results = run(tmp_path, *ONE, "--ways", "compiled", "adamw_8bit")
    assert [line[2] for line in lines] == ["all, compiled", "all, adamw_8bit"]
    assert len(compiled) > 1
    assert all(row["step_seconds"] > 0 for row in results["steps"])


@pytest.mark.usefixtures("asked_before")
@pytest.mark.parametrize("way", ["layerwise_casting", "offload"])
def test_layers_that_are_held_otherwise_are_for_adapters(tmp_path, way):
    wanted = ["--ranks", "0", "2", "--precision", "bfloat16", "--checkpointing", "off"]
    ((_, _, line), _), results = run(tmp_path, *wanted, "--ways", way)
    assert line[2] == f"LoRA rank 2, {way}"
    assert results["steps"][0]["step_seconds"] > 0
    made = gpu_round.Round(Combination("tiny", lora_rank=2, way=way), LOAD, "cpu")
    assert has_cast_layers(made.model)
    assert has_offloaded_layers(made.model) == (way == "offload")


def test_bare_step_is_the_mean_loss_of_icus_terms():
    """At the target: analogous twice the mean loss of 2 windows, forget minus that of 1, no KL."""
    one_round = gpu_round.Round(Combination("tiny"), LOAD, "cpu")
    terms = one_round.icu()
    assert terms["kl"] == pytest.approx(0, abs=1e-6)
    mean = (2 * terms["analogous"] / 2 - terms["forget"]) / 3
    assert mean == pytest.approx(one_round.bare(), rel=1e-5)


@pytest.mark.parametrize(
    ("share", "precision", "parameters", "cells"),
    [
        (0.5, "bfloat16", 1e9, ["at least 0.5", "reached"]),
        (0.49, "bfloat16", 1e9, ["at least 0.5", "**not reached**"]),
        (0.5, "float32", 1e9, ["-", ""]),
        (0.5, "bfloat16", 0.99e9, ["-", ""]),
    ],
)
def test_the_goal_is_for_large_models_in_bfloat16(whole, share, precision, parameters, cells):
    results = json.loads(json.dumps(whole[1]))
    row = results["steps"][0]
    row |= {"share": share, "precision": precision, "parameters": parameters}
    assert gpu._step_line(row)[10:12] == cells
    best = f"the best here is {share:.2f}" if cells[1] else "no such line was measured"
    assert best in gpu.render(results)


def test_without_a_device_the_way_out_is_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--shapes tiny --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--tokens", "39", "--tokens: 40 to 2048, got 39"),  # too short for prompts of EL_10
        ("--repeats", "0", "--repeats: a whole number from 1 on, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(option, value, said, capsys):
    with pytest.raises(SystemExit):
        gpu.main([*SMALL, option, value])
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("asked_before")
def test_on_a_processor_nothing_is_written_unless_asked_for(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "gpu.md")
    gpu.main([*SMALL, *ONE])
    assert list(tmp_path.iterdir()) == []
    assert "# One round of ICU" in capsys.readouterr().out


def rows(*options):
    """The order of rows of a run with a budget, on CUDA, in words."""
    given = gpu._parser().parse_args(["--seconds", "600", *options])
    return [row.words for row in gpu._rows(given)]


def test_with_a_budget_the_most_telling_rows_come_first():
    """The four that ten minutes are for are among the first six; every other one comes behind."""
    first, everything = rows()[: len(gpu.MOST_TELLING)], rows()
    assert first[0] == "gpt-neo-125m, auto attention, bfloat16, all weights, no checkpointing"
    assert first[1].startswith("llama-1b, auto attention, bfloat16, all weights")
    assert "smollm2-135m, looks" in first[:6]
    assert "llama-8b, auto attention, bfloat16, LoRA rank 16, checkpointing" in first[:6]
    given = gpu._parser().parse_args([])
    assert sorted(row.words for row in gpu._rows(given)) == sorted(everything)
    # Two ranks, precisions, checkpointing or not; plain, compiled, and 8 bits without adapters or
    # layers held in 16 bits with them.
    assert len(everything) == 6 * (2 * 2 * (3 + 4) + 1) + 1


def test_a_name_of_the_order_is_a_row_that_is_run():
    given = gpu._parser().parse_args(["--seconds", "600"])
    assert {row.rank for row in gpu._rows(given)} == set(range(len(gpu.MOST_TELLING) + 1))


@pytest.mark.usefixtures("asked_before")
def test_no_row_is_begun_that_would_not_end_within_the_budget(monkeypatch):
    """Steps of 4 seconds and 10 in all: two end at 8, a third would end at 12; asking is tried."""
    now, kept = [0.0], []
    real = gpu.steps

    def steps(*given, **options):
        now[0] += 4
        return real(*given, **options)

    monkeypatch.setattr(gpu, "steps", steps)
    options = gpu._parser().parse_args([*SMALL, "--seconds", "10", "--looks"])
    results = gpu.run(options, lambda found: kept.append(len(found["steps"])), lambda: now[0])
    assert len(results["steps"]) == 2
    assert len(results["asking"]) == 2  # both sets of one row
    assert [reason.partition(": ")[2] for reason in results["left_out"]] == [
        "no time was left of 10 s"
    ] * 6
    assert kept == [0, 1, 2, 2, 2]  # the page is written behind every row


def test_a_row_of_looks_has_measuring_a_look_and_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_rows", lambda _: [gpu.Row("looks", Combination("tiny-llama"))])
    (_, _, (head, _, line)), results = run(tmp_path, "--look-records", "2")
    assert tuple(head) == gpu.LOOK_COLUMNS
    assert line[:2] == ["tiny-llama", "2"]
    (row,) = results["looks"]
    assert 0.5 <= row["ma"] < 0.6  # one of two records is the model's own text
    assert all(row[f"{name}_seconds"] > 0 for name in ("measuring", "look", "steps"))
    assert row["measuring_busy"] is None
    assert line[6:9] == ["-", "-", "-"]


def test_looks_that_do_not_fit_have_a_line(monkeypatch):
    monkeypatch.setattr("gpu_looks.infer", no_room)
    found = gpu.looks("tiny", Load(tokens=40, forget=1, kept=1), 2, "cpu")
    assert gpu._look_line(found) == ["tiny", "2", "does not fit", *"-------"]
