"""Models of timm saved in files, and experiments with a teacher from elsewhere."""

import safetensors.torch
import timm
import torch

from tests.helpers.experiments import changed
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.training.local import prepare_local

NAME = "test_byobnet"  # timm's smallest, made for tests


def timm_file(folder, num_classes, name=NAME):
    torch.manual_seed(num_classes)
    model = timm.create_model(name, num_classes=num_classes).eval()
    file = folder / f"{name}-{num_classes}.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    return file, model


def config(**values) -> Experiment:
    quick = {"teacher.generator.pretrain.steps": 5, "train.steps": 4, "train.eval_every": 2, "train.batch_size": 8}
    return changed(Experiment(), quick, **values)


def labeler(folder, digits, **values):
    experiment = config(teacher__labeler=values)
    storage = Storage(folder)
    prepared = prepare_local(experiment, digits, storage)
    return prepared, storage, experiment
