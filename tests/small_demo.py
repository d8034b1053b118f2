"""The demo with a tenth of its people and messages, and a model of a tenth of the width."""

import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from unlearner.cli import demo
from unlearner.training.finetune import ClassifierFinetuneSettings, FinetuneSettings

NUM_FORGET, NUM_HOLDOUT, NUM_PEOPLE = 4, 6, 18


def shorten(monkeypatch):
    """Set the sizes that the demo is made with."""
    for name, value in {
        "NUM_PEOPLE": NUM_PEOPLE,
        "NUM_FORGET": NUM_FORGET,
        "NUM_HOLDOUT": NUM_HOLDOUT,
        "NUM_OTHER_PEOPLE": 60,
        "build_model": small_model,
        "LEARNING": FinetuneSettings(epochs=1),
        "NUM_MESSAGES": 160,
        "NUM_CUSTOMERS": {"num_forget": 4, "num_holdout": 12, "num_test": 24},
        "NUM_OTHER_MESSAGES": 100,
        "CLASSIFIER_LEARNING": ClassifierFinetuneSettings(epochs=2, batch_size=16),
    }.items():
        monkeypatch.setattr(demo, name, value)


def small_model(tokenizer, *, seed):
    torch.manual_seed(seed)
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        hidden_size=16,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoForCausalLM(config)
