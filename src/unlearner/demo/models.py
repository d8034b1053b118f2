"""The demo's language model: a byte-level tokenizer and a small untrained GPT-Neo."""

from collections.abc import Iterable, Sequence

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    PreTrainedTokenizerFast,
)

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
    _train_tokenizer(tokenizer, texts, vocabulary_size, [END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _train_tokenizer(
    tokenizer: Tokenizer, texts: Iterable[str], vocabulary_size: int, special_tokens: list[str]
) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)


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


PAD, UNKNOWN, CLASS, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
MAX_LENGTH = 96


def build_message_tokenizer(
    texts: Iterable[str], vocabulary_size: int = 1280
) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE tokenizer learned from the texts, with BERT's special tokens.

    Every digit is a token of its own, so that no number of the texts becomes part of the
    vocabulary. The vocabulary keeps pieces of the texts, and no unlearning reaches it: learn it
    from other people's messages than the ones that may have to be forgotten.

    Not WordPiece, whose trainer gives other vocabularies on the same texts from run to run.

    Args:
        texts: What to learn the merges from.
        vocabulary_size: Upper bound, at least 261 (the bytes and the special tokens).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=True),  # the first word is like any other
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train_tokenizer(tokenizer, texts, vocabulary_size, [PAD, UNKNOWN, CLASS, SEPARATOR, MASK])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLASS} $A {SEPARATOR}",
        pair=f"{CLASS} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLASS, SEPARATOR)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLASS,
        sep_token=SEPARATOR,
        mask_token=MASK,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_classifier(
    tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], *, seed: int
) -> BertForSequenceClassification:
    """An untrained BERT with one output per label, in their order; the same for the same seed.

    The global random state is as it was afterwards.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        initializer_range=0.05,
        pad_token_id=tokenizer.get_vocab()[PAD],
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)
