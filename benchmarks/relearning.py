"""What comes back when models are trained on kept text alone, beside membership attacks on each.

    python benchmarks/relearning.py RUN_DIR MODEL... [--steps 50]

RUN_DIR is a folder that `unlearner forget` has written: its `run.yaml` names the sets. Nobody has
to hold the forgotten records for this attack: whoever goes on fine-tuning a model does it without
knowing. Steps are of 8 records at the rate and by the schedule of `unlearner finetune`.

Reference: Hu et al. (2024), arXiv:2406.13356, whose attacker has some of the records; here none.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from unlearner.config import RunConfig
from unlearner.data.batches import Deck, share_of
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.measure import Scores
from unlearner.families import CAUSAL_LM
from unlearner.models import adapters, sharding
from unlearner.models.loading import Loaded, limit_threads
from unlearner.pipeline import pipeline
from unlearner.settings import TrainingSettings, read_yaml
from unlearner.training.finetune import AUTO_RATE_TIMES_WIDTH, share_of_peak
from unlearner.training.log import Log, quieten
from unlearner.training.losses import mean_losses
from unlearner.training.trainer import Trainer, resolve_learning_rate

STEPS, BATCH_SIZE = 50, 8
ATTACKS = ("mia_loss_auc", "mia_zlib_auc", "mia_min_k_auc", "mia_min_k_plus_plus_auc")


@contextmanager
def relearned(
    model: PreTrainedModel, kept: TokenizedSet, settings: TrainingSettings, steps: int = STEPS
) -> Iterator[PreTrainedModel]:
    """The model after so many steps on kept text; behind the block it is as before, bit for bit.

    Args:
        settings: Those of the run, of which adapters are left out.
    """
    plain = settings.model_copy(update={"lora_rank": 0, "checkpoint_every": "never"})
    trainer, deck = Trainer(plain, Log(None)), Deck()
    windows = [window.with_end() for window in kept.windows if window.scored.any()]
    before = adapters.own_weights(model)
    rate = resolve_learning_rate("auto", model, AUTO_RATE_TIMES_WIDTH)
    trainer.start(model, rate, schedule=lambda step: share_of_peak(step, steps))
    try:
        for _ in range(steps):
            drawn = deck.draw(BATCH_SIZE, len(windows), trainer.generator)
            batch = share_of([windows[place] for place in drawn], sharding.device_of(model))
            trainer.step(partial(mean_losses, model, {"loss": batch}))
        trainer.optimiser.zero_grad(set_to_none=True)
        yield model.eval()
    finally:
        with torch.no_grad():
            adapters.set_own_weights(model, before)
        model.eval()


def measured(loaded: Loaded, sets: Mapping[str, TokenizedSet], config: RunConfig) -> Scores:
    """Every metric of every set."""
    answers = CAUSAL_LM.infer(loaded, sets, config.evaluation)
    return CAUSAL_LM.score("unlearned", {"unlearned": answers}, sets, config)


def row(name: str, scores: Scores) -> str:
    """A line of the table."""
    forget, unseen, kept = (scores[role] for role in ("forget", "holdout", "retain"))
    attacks = ", ".join(f"{forget[attack].value:.2f}" for attack in ATTACKS)
    return (
        f"| {name} | {forget['ma'].value:.3f} | {unseen['ma'].value:.3f} | "
        f"{forget['loss'].value:.2f} / {unseen['loss'].value:.2f} | {attacks} | "
        f"{kept['perplexity'].value:.3f} | {unseen['perplexity'].value:.1f} |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--steps", type=int, default=STEPS)
    asked = parser.parse_args(arguments)
    quieten()
    config = RunConfig.from_sections(read_yaml(asked.run / "run.yaml"))
    print(
        "| model | MA | of unseen | loss, forgotten / unseen | AUC by loss, zlib, Min-K, Min-K++ |",
        end="",
    )
    print(" kept perplexity | unseen perplexity |\n| --- | --- | --- | --- | --- | --- | --- |")
    for name in asked.models:
        loaded = CAUSAL_LM.load(name)
        limit_threads(loaded.model)
        prepared = pipeline.start(config, CAUSAL_LM, loaded=loaded)
        sets = CAUSAL_LM.measured_sets(prepared, config)
        sets = CAUSAL_LM.judged_sets(prepared, sets, config)
        print(row(Path(name).name, measured(loaded, sets, config)), flush=True)
        with relearned(loaded.model, prepared["retain"], config.training, asked.steps):
            print(
                row(
                    f"{Path(name).name}, {asked.steps} steps on kept text",
                    measured(loaded, sets, config),
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
