"""What every number in a report is called and what its direction means.

The readers are people who answer for personal data, not people who train models, so every measure
has a sentence without jargon. A measure that is not listed here is shown under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """How one metric is shown.

    Attributes:
        label: Short name for tables and plots.
        meaning: What is measured, in everyday words.
        reading: Which direction means what.
        percent: True for shares between 0 and 1, which are shown as percentages.
    """

    label: str
    meaning: str
    reading: str
    percent: bool = True


_LEVEL = (
    "Forgotten records should score like text the model has never seen. Higher: still "
    "remembered. Far lower: over-unlearned, which betrays that the records were treated."
)

_CONTINUATION = "Lower on forgotten records is better; it should not fall on text to be kept."

_CORRECT = "Higher is better on text to be kept; forgotten records should score like unseen text."

_MEMBERSHIP = (
    "0.5 means the two cannot be told apart. Towards 1: the records are recognised as known. "
    "Towards 0: they are recognised as treated, a failure as well."
)


def _attack(score: str) -> str:
    return f"How well {score} tells the forgotten records from text the model has never seen."


MEASURES = {
    "loss": Measure(
        "Loss",
        "How surprised the model is by the text, in nats per token.",
        "On text to be kept it should stay where it was. Lower means better predicted.",
        percent=False,
    ),
    "perplexity": Measure(
        "Perplexity",
        "Among how many equally likely next tokens the model seems to waver while reading.",
        "On text to be kept it should stay where it was; 1 means known by heart. In the "
        "thousands: the model breaks down on such text.",
        percent=False,
    ),
    "ma": Measure(
        "MA",
        "Memorisation accuracy: how often the model's first guess for the next token of a record "
        "is right.",
        _LEVEL,
    ),
    "el_3": Measure(
        "EL₃",
        "Extraction likelihood, short runs: as EL₁₀, counting runs of three tokens.",
        _LEVEL,
    ),
    "el_10": Measure(
        "EL₁₀",
        "Extraction likelihood: the model continues a record from every possible beginning; EL₁₀ "
        "is the share of ten-token runs that match the true rest word for word.",
        _LEVEL,
    ),
    "es": Measure(
        "ES",
        "Extraction strength: how much of a record the model can complete without an error once "
        "it has read the part before.",
        _LEVEL,
    ),
    "bleu": Measure(
        "BLEU", "Overlap in short runs of words between continuation and truth.", _CONTINUATION
    ),
    "rouge_l": Measure(
        "ROUGE-L",
        "Longest sequence of words, in order, that continuation and truth share.",
        _CONTINUATION,
    ),
    "bertscore_f1": Measure(
        "BERTScore F1",
        "Similarity in meaning between continuation and truth, judged by another model.",
        _CONTINUATION,
        percent=False,
    ),
    "accuracy": Measure("Accuracy", "Share of labels predicted correctly.", _CORRECT),
    "f1_micro": Measure("F1 (micro)", "Correct labels, each prediction counting alike.", _CORRECT),
    "f1_macro": Measure("F1 (macro)", "Correct labels, each class counting alike.", _CORRECT),
    "f1_entity": Measure("F1 (entities)", "Names and other spans found exactly.", _CORRECT),
    "js_to_retrained": Measure(
        "Distance to retrained (JS)",
        "Jensen-Shannon divergence: how far the probabilities that the model gives to the labels "
        "are from those of a model retrained without the records.",
        "In nats: 0 means the same answers everywhere, 0.69 (ln 2) nothing in common. Lower is "
        "better on every kind of records.",
        percent=False,
    ),
    "mia_loss_auc": Measure(
        "MIA loss (AUC)", _attack("the model's loss alone"), _MEMBERSHIP, percent=False
    ),
    "mia_entropy_auc": Measure(
        "MIA entropy (AUC)",
        _attack("how sure the model is, whichever label it gives,"),
        _MEMBERSHIP,
        percent=False,
    ),
    "mia_modified_entropy_auc": Measure(
        "MIA modified entropy (AUC)",
        _attack("how sure the model is of the record’s own label"),
        _MEMBERSHIP,
        percent=False,
    ),
    "mia_zlib_auc": Measure(
        "MIA zlib (AUC)",
        _attack("loss divided by how well the text compresses"),
        _MEMBERSHIP,
        percent=False,
    ),
    "mia_min_k_auc": Measure(
        "MIA Min-K % (AUC)", _attack("the least expected tokens"), _MEMBERSHIP, percent=False
    ),
    "mia_min_k_plus_plus_auc": Measure(
        "MIA Min-K %++ (AUC)",
        _attack("the least expected tokens, standardised,"),
        _MEMBERSHIP,
        percent=False,
    ),
    "degenerate": Measure(
        "Degenerate output",
        "Share of continuations that only repeat themselves.",
        "Lower is better everywhere: gibberish is not forgetting.",
    ),
    "kl_to_target": Measure(
        "Drift (KL)",
        "How far next-token predictions have moved from those before, in nats per token.",
        "0 means unchanged. Lower is better on text to be kept.",
        percent=False,
    ),
}

# What classifiers mean by a name that language models use as well; their loss comes last.
CLASSIFIER_MEASURES = {
    **{name: known for name, known in MEASURES.items() if name != "loss"},
    "loss": Measure(
        "Loss",
        "How surprised the model is by the right label, in nats per label.",
        "On records to be kept and on test records it should stay where it was; on forgotten "
        "records it should come to that of unseen ones.",
        percent=False,
    ),
}

# How the model arranges the records in its latent space, the numbers its last layer reads. For all
# of them the aim is where the retrained model has them.
GEOMETRY = {
    "own_centroid_cosine": Measure(
        "Closeness to own class",
        "Cosine between a record and the mean of the kept records of its class.",
        "1 is the same direction. Below the retrained model’s: driven out of their class.",
        percent=False,
    ),
    "nearest_other_centroid_cosine": Measure(
        "Closeness to next class",
        "Cosine between a record and the mean of the nearest class that is not its own.",
        "Above the retrained model’s: pushed into another class.",
        percent=False,
    ),
    "silhouette": Measure(
        "Silhouette",
        "How much nearer a record lies to its own class than to the next one, from −1 to 1.",
        "0 is between two classes, below 0 in another one.",
        percent=False,
    ),
    "knn_purity": Measure(
        "Neighbours of own class",
        "Among the kept records nearest to a record, the share with its label.",
        "Near 0 none of the neighbours shares its label.",
    ),
    "linear_probe": Measure(
        "Labels found by a probe",
        "How often a simple classifier, trained on the latent space, finds the label of a record.",
        "Far above the model’s own score: the labels are still there for whoever looks beneath "
        "the answers.",
    ),
}

# How far a model is from one retrained without the records.
DISTANCE = {
    "tug_of_war": Measure(
        "Tug-of-war score",
        "Closeness to the retrained model in the scores on forgotten, kept and test records at "
        "once.",
        "1 means the same scores as the retrained model on all of them; higher is better.",
        percent=False,
    ),
    "f1_gap": Measure(
        "F1 minus the retrained model’s",
        "By how much the model scores better or worse than the retrained one.",
        "0 means the same; above 0 on forgotten records: more is remembered than retraining "
        "would leave.",
        percent=False,
    ),
    "mia_auc_gap": Measure(
        "Membership AUC minus the retrained model’s",
        "By how much the records stand out more, or less, than after retraining.",
        "0 means the same; above 0: more can be recognised than retraining would leave.",
        percent=False,
    ),
}


def measure(metric: str) -> Measure:
    """The entry for a metric; one made from its own name if it has none."""
    known = MEASURES.get(metric) or GEOMETRY.get(metric) or DISTANCE.get(metric)
    return known or Measure(metric, "No description is known.", "", percent=False)
