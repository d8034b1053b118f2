"""One metric a file. The folder is the registry: a file's name is the metric's name."""

from unlearner.metrics.base import Metric as Metric
