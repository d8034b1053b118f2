"""What every number in a report is called and what its direction means.

What is said of a metric stands in its own file; here is what belongs to no single metric. A number
that is described nowhere is shown under its own name.
"""

from functools import cache

from unlearner import registry
from unlearner.metrics.base import Measure

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
    "margin_kl": Measure(
        "KL of margins to the retrained model’s",
        "How far the spread of the model’s certainty about the own labels of all records is from "
        "that of the retrained one.",
        "In nats: 0 means the same mean and spread; lower is better.",
        percent=False,
    ),
    "f1_gap": Measure(
        "F1 minus the retrained model’s",
        "By how much the model scores better or worse than the retrained one.",
        "0 means the same; above 0 on forgotten records: more is remembered than retraining "
        "would leave.",
        percent=False,
    ),
    "token_loss_ks": Measure(
        "KS distance of token losses to the retrained model’s",
        "How far the model’s spread of surprise over the tokens of all records, few surprising "
        "ones or many, is from that of the retrained one.",
        "0 means as many tokens as easy and as hard, 1 nothing in common; lower is better.",
        percent=False,
    ),
    "mia_auc_gap": Measure(
        "Membership AUC minus the retrained model’s",
        "By how much the records stand out more, or less, than after retraining.",
        "0 means the same; above 0: more can be recognised than retraining would leave.",
        percent=False,
    ),
}


@cache
def measures(*, of_labels: bool = False) -> dict[str, Measure]:
    """Every metric's, in the order of tables.

    Args:
        of_labels: What classifiers mean by a name that language models use as well.
    """
    found = {}
    for name in registry.names("metrics"):
        metric = registry.load("metrics", name).metric
        shown = (of_labels and metric.shown_of_labels) or metric.shown
        if shown is not None:
            found[name] = shown
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def measure(metric: str) -> Measure:
    """The entry for a metric; one made from its own name if it has none."""
    known = measures().get(metric) or GEOMETRY.get(metric) or DISTANCE.get(metric)
    return known or Measure(metric, "No description is known.", "", percent=False)
