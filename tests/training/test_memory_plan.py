"""What a run takes, with numbers worked by hand, and against what autograd really keeps."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from classifier_world import SEQUENCE, tiny_classifier
from conftest import ARCHITECTURES, VOCAB, tiny_model
from unlearner.config import RunConfig
from unlearner.models.ensemble import make_ensemble
from unlearner.settings import TrainingSettings
from unlearner.training.memory import (
    PHASES,
    Shape,
    Step,
    activation_bytes,
    block_bytes,
    evaluation_bytes,
    forwards_per_step,
    largest_draw,
    logits_bytes,
    memory,
    trained_numbers,
    working_bytes,
)

# 2 blocks of width 8: attention 8 wide in 2 heads, 32 inside, gelu, two LayerNorms, V = 50.
SHAPE = Shape(
    parameters=1000,
    linear=600,
    adapter_ends=100,
    layers=2,
    hidden=8,
    heads=2,
    attention=8,
    keys=4,
    inner=32,
    inner_kept=2,
    norms=2,
    norm_kept=2,
    readers=4,
    vocabulary=50,
    embedding=400,
    plain_scores=0,
    drops_scores=False,
    shares_prefix=True,
    has_logits=True,
)
# 3 windows of 10 tokens, all labels but the first.
STEP = Step(tokens=30, square=300, labels=27, longest=10, asked=100)
PLAIN = TrainingSettings()


def shape(**changes):
    return Shape(**{**vars(SHAPE), **changes})


def step(**changes):
    return Step(**{**vars(STEP), **changes})


def config(**sections):
    return RunConfig.from_sections(sections)


# Activations


def test_a_block_keeps_norms_attention_and_what_is_inside():
    """A token: 2 norms * 8 * 2 + 4 * 8 of attention + 32 * 2 inside = 128 floats, 512 bytes.

    30 * 512 = 15,360, and the mask of 300 pairs in float32 1,200.
    """
    assert block_bytes(SHAPE, STEP, PLAIN, cpu=True) == 15_360 + 1_200


def test_in_bfloat16_products_are_half_as_wide_and_each_reader_keeps_a_copy():
    """A token: float32 2 * 8 = 16 of the stream; half: 4 * 8 + 64 + 4 readers * 8 = 128.

    30 * (64 + 256) = 9,600, and the mask 600.
    """
    lower = TrainingSettings(precision="bfloat16")
    assert block_bytes(SHAPE, STEP, lower, cpu=True) == 9_600 + 600


def test_without_a_fused_kernel_every_head_keeps_its_softmax():
    """300 pairs * 2 heads * 4 bytes; in bfloat16 a half-wide copy beside it."""
    plain = shape(plain_scores=1)
    assert block_bytes(plain, STEP, PLAIN, cpu=True) == 15_360 + 2_400
    lower = TrainingSettings(precision="bfloat16")
    assert block_bytes(plain, STEP, lower, cpu=True) == 9_600 + 3_600


def test_dropout_keeps_masks_and_on_the_cpu_three_tensors_of_scores():
    """30 tokens * 2 * 8 floats more; 300 pairs * 2 heads * 3 * 4 bytes in place of the mask."""
    dropping, some = shape(drops_scores=True), step(dropout=True)
    assert block_bytes(dropping, some, PLAIN, cpu=True) == 15_360 + 1_920 + 7_200
    assert block_bytes(dropping, some, PLAIN, cpu=False) == 15_360 + 1_920 + 1_200


def test_checkpointing_keeps_the_stream_between_blocks_and_one_block():
    """The stream is 30 * 8 * 4 = 960: twice outside the blocks, and once per block."""
    block = 15_360 + 1_200
    checkpointing = TrainingSettings(gradient_checkpointing=True)
    assert activation_bytes(SHAPE, STEP, PLAIN, cpu=True) == 2 * block + 2 * 960
    assert activation_bytes(SHAPE, STEP, checkpointing, cpu=True) == block + 4 * 960


def test_in_bfloat16_the_weights_that_products_read_are_there_a_second_time():
    """600 numbers of 2 bytes."""
    lower = TrainingSettings(precision="bfloat16")
    assert activation_bytes(SHAPE, STEP, lower, cpu=True) == 2 * 10_200 + 2 * 960 + 1_200


def test_work_inside_a_block_is_of_one_block():
    """30 * (3 * 32 + 2 * 8) floats; without a fused kernel 3 * 2 heads * 300 pairs more.

    With adapters four outputs of a layer more: 30 * 4 * 32.
    """
    assert working_bytes(SHAPE, STEP, cpu=True) == 4 * 3_360
    assert working_bytes(SHAPE, STEP, cpu=True, adapters=True) == 4 * 7_200
    assert working_bytes(shape(plain_scores=1), STEP, cpu=True) == 4 * (3_360 + 1_800)


# Logits, adapters, draws


def test_logits_are_one_buffer_and_four_chunks_of_the_target():
    """27 * 50 * 4 = 5,400; chunks of min(64, 27) rows: 4 * 27 * 50 * 4 = 21,600."""
    assert logits_bytes(SHAPE, STEP, PLAIN) == 5_400
    assert logits_bytes(SHAPE, step(outputs=1), PLAIN) == 5_400 + 21_600
    assert logits_bytes(SHAPE, STEP, TrainingSettings(precision="bfloat16")) == 5_400 * 3 // 2


def test_only_adapters_are_trained_where_there_are_some():
    """Rank 4: 4 * 100, of every layer's (in + out)."""
    assert trained_numbers(SHAPE, PLAIN) == 1000
    assert trained_numbers(SHAPE, TrainingSettings(lora_rank=4)) == 400


def test_checkpointing_computes_the_forward_pass_once_more():
    assert forwards_per_step(PLAIN) == 3
    assert forwards_per_step(TrainingSettings(gradient_checkpointing=True)) == 4


def test_a_large_draw_is_three_deviations_above_the_mean_and_no_more_than_the_longest():
    """100 of 10 and 100 of 20: of 4 the sum has mean 60 and deviation 5 * 2: 90, at most 80.

    Of 100 mean 1,500 and deviation 50: 1,650.
    """
    lengths = [10, 20] * 100
    assert largest_draw(lengths, 4) == 80
    assert largest_draw(lengths, 100) == 1_650
    assert largest_draw(lengths, 0) == 0
    assert largest_draw([5, 5], 9) == 10


# Asking


def test_asking_holds_a_cache_and_rows_behind_the_shortest_prompt():
    """100 tokens of 2 * 4 * 2 blocks * 4 = 64 bytes: 6,400.

    10 windows of 10; from prompt 5 on 5 prompts each and one from the text's prefix 1: a row holds
    9 positions. 10 * 6 * 9 * 64 = 34,560, twice; logits of 100 positions 20,000, twice. A block at
    work: 100 * (3 * 32 + 2 * 8 + 3 * 8) floats, 54,400.
    """
    some = config(evaluation={"prompt_start": 0.5})
    assert evaluation_bytes(SHAPE, STEP, some) == 6_400 + 2 * 34_560 + 2 * 20_000 + 54_400


def test_rows_have_the_room_that_is_set():
    some = config(evaluation={"prompt_start": 0.5, "memory_bytes": 10_000})
    assert evaluation_bytes(SHAPE, STEP, some) == 6_400 + 20_000 + 2 * 20_000 + 54_400


def test_a_batch_is_no_larger_than_is_set():
    """20 tokens are 2 windows: a fifth of everything."""
    some = config(evaluation={"prompt_start": 0.5, "batch_tokens": 20})
    assert evaluation_bytes(SHAPE, STEP, some) == (6_400 + 2 * 34_560 + 2 * 20_000 + 54_400) // 5


def test_a_classifier_has_no_cache():
    found = evaluation_bytes(shape(has_logits=False), STEP, config())
    assert found == 54_400  # as above, a block at work


# The whole


def test_parts_of_a_run_by_hand():
    """1000 numbers are 4,000 bytes; an output layer 50 * 8 * 4 = 1,600; 7 states of 8 floats."""
    some = step(keeps_best=True, outputs=2, states=7)
    found = memory(SHAPE, some, config(), device="cpu").parts
    expected = {
        "parameters": 4_000,
        "gradients": 4_000,
        "optimiser moments": 8_000,
        "best weights": 4_000,
        "reference outputs": 3_200,
        "reference states": 224,
        "further models": 0,
        "embedding gradient": 1_600,
        "checkpoint": 12_000,
        "saved model": 4_000,
    }
    assert {name: found[name] for name in expected} == expected


def test_with_adapters_only_they_have_gradients_moments_and_copies():
    """Rank 1: 100 numbers, 400 bytes; the embeddings have no gradient."""
    some = config(training={"lora_rank": 1})
    found = memory(SHAPE, step(keeps_best=True), some, device="cpu").parts
    expected = {
        "parameters": 4_400,
        "gradients": 400,
        "optimiser moments": 800,
        "best weights": 400,
        "embedding gradient": 0,
        "checkpoint": 1_200,
        "saved model": 4_000,
    }
    assert {name: found[name] for name in expected} == expected


def test_the_peak_is_the_largest_phase_and_not_the_sum_of_all():
    found = memory(SHAPE, step(copies=1), config(), device="cpu")
    sums = {phase: sum(parts.values()) for phase, parts in found.phases.items()}
    assert found.peak_bytes == max(sums.values()) == sums[found.phase]
    assert found.peak_bytes < sum(found.parts.values())
    assert set(sums) == set(PHASES)


def test_gaps_in_the_heap_are_left_by_blocks_and_by_asking():
    """1.5 * (16,560 of a block + 13,440 of work in it) = 45,000; 0.9 * 169,920 of asking."""
    found = memory(SHAPE, STEP, config(evaluation={"prompt_start": 0.5}), device="cpu").parts
    assert found["gaps in the heap"] == 45_000 + 152_928
    assert "gaps in the heap" not in memory(SHAPE, STEP, config(), device="cuda").parts


def test_no_checkpoint_takes_nothing():
    found = memory(SHAPE, STEP, config(training={"checkpoint_every": "never"}), device="cpu")
    assert found.parts["checkpoint"] == 0


def test_beside_an_accelerator_the_machine_keeps_weights_states_and_what_is_written():
    """Best weights 4,000, states 224, and the larger of checkpoint 12,000 and saved model 4,000."""
    some = step(keeps_best=True, states=7)
    found = memory(SHAPE, some, config(), device="cuda")
    assert found.host_bytes == 4_000 + 224 + 12_000
    assert all("best weights" not in parts for parts in found.phases.values())
    assert memory(SHAPE, some, config(), device="cpu").host_bytes == 0


# Against autograd

TOKENS = 64
CLASSIFIERS = {
    "bert": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 64},
}


def kept_bytes(model, forward):
    """Bytes of all tensors that autograd keeps for the backward pass, weights apart."""
    own = {some.untyped_storage().data_ptr() for some in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive: no address twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(number for number, _ in kept.values())


def kept_by_body(architecture, precision, *, checkpointing):
    """What the body of a tiny model keeps of 4 windows, one of them padded; and its shape."""
    model = tiny_model(architecture)
    ids, mask = torch.randint(2, VOCAB, (4, TOKENS)), torch.ones(4, TOKENS, dtype=torch.long)
    mask[0, -3:] = 0
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)

    return kept_bytes(model, forward), Shape.of(model)


BODY_STEP = Step(4 * TOKENS, 4 * TOKENS**2, 0, TOKENS, 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_activations_are_those_that_autograd_keeps(architecture, precision):
    found, own = kept_by_body(architecture, precision, checkpointing=False)
    expected = activation_bytes(own, BODY_STEP, TrainingSettings(precision=precision), cpu=True)
    assert expected == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_with_checkpointing_autograd_keeps_the_stream_and_little_else(architecture):
    """The block that is computed again is not there yet; what stands behind the last differs."""
    found, own = kept_by_body(architecture, "float32", checkpointing=True)
    training = TrainingSettings(gradient_checkpointing=True)
    expected = activation_bytes(own, BODY_STEP, training, cpu=True)
    expected -= block_bytes(own, BODY_STEP, training, cpu=True)
    stream = 4 * BODY_STEP.tokens * own.hidden
    assert expected == pytest.approx(found, abs=1.2 * stream)


@pytest.mark.parametrize("kind", sorted(CLASSIFIERS))
def test_activations_of_a_classifier_with_dropout(kind):
    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB, num_hidden_layers=2, n_layers=2, pad_token_id=0, **CLASSIFIERS[kind]
    )
    model = AutoModelForSequenceClassification.from_config(config).train()
    ids = torch.randint(2, VOCAB, (4, TOKENS))
    found = kept_bytes(model, lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    some = Step(4 * TOKENS, 4 * TOKENS**2, 4, TOKENS, 0, dropout=True)
    expected = activation_bytes(Shape.of(model), some, PLAIN, cpu=True)
    assert expected == pytest.approx(found, rel=0.15)


def test_a_shape_is_read_from_a_grouped_and_gated_model():
    """Llama: 4 heads of 8, 2 of keys; gate, up and down of width 64; RMSNorm keeps three."""
    found = Shape.of(tiny_model("llama"))
    assert (found.attention, found.keys, found.inner, found.inner_kept) == (32, 16, 64, 4)
    assert (found.norms, found.norm_kept, found.readers) == (2, 3, 5)
    # q and o 64, k and v 48, gate, up and down 96 in and out together; two blocks
    assert found.adapter_ends == 2 * (2 * 64 + 2 * 48 + 3 * 96)
    assert found.has_logits


def test_transposed_weights_count_as_what_they_are():
    """GPT-2: 32 -> 96, 32 -> 32, 32 -> 128, 128 -> 32 in each of two blocks."""
    found = Shape.of(
        AutoModelForCausalLM.from_config(
            AutoConfig.for_model("gpt2", vocab_size=VOCAB, **ARCHITECTURES["gpt2"])
        )
    )
    assert found.adapter_ends == 2 * (128 + 64 + 160 + 160)
    assert (found.inner, found.readers, found.plain_scores) == (128, 2, 0)


def test_shards_count_as_blocks_one_behind_the_other():
    """Two shards of two blocks each."""
    shards = [tiny_classifier() for _ in range(2)]
    one, both = Shape.of(shards[0]), Shape.of(make_ensemble(shards, SEQUENCE))
    assert both.parameters == 2 * one.parameters
    assert (both.layers, both.adapter_ends) == (2 * one.layers, 2 * one.adapter_ends)
    assert both.hidden == one.hidden


def test_a_model_without_attention_has_a_shape():
    """Mamba: the mixer's width inside is twice the hidden one, and there are no heads."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "mamba", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4
        )
    )
    found = Shape.of(model)
    assert (found.heads, found.inner, found.layers) == (1, 64, 2)
    assert memory(found, STEP, config(), device="cpu").peak_bytes > 16 * found.parameters
