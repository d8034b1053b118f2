"""The demo's language model: a byte-level tokenizer and a small untrained GPT-Neo."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
CONTEXT_LENGTH = 256


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = 768) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from the texts; any text comes back exactly.

    Every digit is a token of its own, so that a number is as many guesses as it has digits.
    The vocabulary keeps pieces of the texts, and no unlearning reaches it: learn it from other
    people's dossiers than the ones that may have to be forgotten.

    Args:
        texts: What to learn the merges from.
        vocabulary_size: Upper bound, at least 257 (the bytes and the end-of-text token).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> GPTNeoForCausalLM:
    """An untrained GPT-Neo for the tokenizer's vocabulary, the same for the same seed.

    The global random state is as it was afterwards.
    """
    end_of_text = tokenizer.get_vocab()[END_OF_TEXT]
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_size=128,
        num_layers=4,
        attention_types=[[["global", "local"], 2]],
        num_heads=8,
        window_size=CONTEXT_LENGTH,
        activation_function="gelu_pytorch_tanh",  # GPT-Neo's gelu_new as one fused operation
        initializer_range=0.05,  # memorises in fewer epochs than the usual 0.02
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoForCausalLM(config)
