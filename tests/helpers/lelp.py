"""Experiments with LELP."""

from tests.helpers.experiments import short
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives.embeddings import CLASS_DIRECTIONS, EmbeddingStatistics


def statistics_of(facts) -> EmbeddingStatistics:
    return facts.fits[CLASS_DIRECTIONS.name]


def lelp(base: Experiment, **values) -> Experiment:
    return short(base, {"objective.type": "lelp"}, **values)
