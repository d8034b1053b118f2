"""What comes back when models are trained on kept text alone, beside membership attacks on each.

    python benchmarks/relearning.py RUN_DIR MODEL... [--steps 50]

RUN_DIR is a folder that `unlearner forget` has written: its `run.yaml` names the sets. Nobody has
to hold the forgotten records for this attack: whoever goes on fine-tuning a model does it without
knowing. Steps are of 8 records at the rate and by the schedule of `unlearner finetune`.

Reference: Hu et al. (2024), arXiv:2406.13356, whose attacker has some of the records; here none.
"""

import argparse
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from unlearner.config import RunConfig
from unlearner.data.windows import TokenizedSet
from unlearner.evaluation.measure import Scores
from unlearner.families import CAUSAL_LM
from unlearner.models.loading import Loaded, limit_threads
from unlearner.pipeline import pipeline
from unlearner.training.log import quieten
from unlearner.training.relearning import STEPS, relearned
from unlearner.yaml_values import read_yaml

ATTACKS = ("mia_loss_auc", "mia_zlib_auc", "mia_min_k_auc", "mia_min_k_plus_plus_auc")


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
        plain = config.training.model_copy(update={"lora_rank": 0})
        with relearned(plain, loaded.model, prepared["retain"], asked.steps) as steps:
            deque(steps, maxlen=0)
            print(
                row(
                    f"{Path(name).name}, {asked.steps} steps on kept text",
                    measured(loaded, sets, config),
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
