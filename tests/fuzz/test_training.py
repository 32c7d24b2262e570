"""Good experiments of all kinds of tasks, objectives, explorers and students train to their end in this process."""

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.models import TIMM, bases
from tests.fuzz.runs import fuzzed, scratch
from tests.helpers import retrieval, text_runs
from tests.helpers.experiments import TINY, changed
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment

LABEL_LOSSES = st.one_of(
    st.fixed_dictionaries({"type": st.just("cross_entropy"), "cosine_head": st.booleans()}),
    st.fixed_dictionaries({"type": st.just("logit_adjusted"), "tau": st.floats(0, 2)}),
    st.fixed_dictionaries({"type": st.just("ldam"), "max_margin": st.floats(0, 1), "defer": st.floats(0, 1)}),
)
#: The share of labels is below 1, so that their loss counts.
DISTILLATION = st.fixed_dictionaries(
    {"type": st.just("distillation"), "alpha": st.floats(0, 0.9), "temperature": st.floats(0.5, 10)},
    optional={"label_loss": LABEL_LOSSES, "scale_by_t2": st.booleans(), "posthoc_adjustment": st.floats(0, 2)},
)
LELP = st.fixed_dictionaries(
    {"type": st.just("lelp"), "subclasses": st.integers(2, 4), "alpha": st.floats(0, 1)},
    optional={"null_space": st.booleans(), "directions": st.sampled_from(["principal", "random"])},
)
CONSISTENCY = st.fixed_dictionaries({"type": st.just("consistency"), "weight": st.floats(0, 2)})
TRAIN = st.fixed_dictionaries(
    {
        "steps": st.integers(2, 6),
        "eval_every": st.integers(1, 6),
        "batch_size": st.integers(4, 16),
        "synthetic_ratio": st.floats(0, 1),
        "learning_rate": st.floats(1e-4, 1e-2),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
        "warmup": st.floats(0, 0.9),
        "seed": st.integers(0, 2**32 - 1),
    },
    optional={"precision": st.sampled_from(["float32", "bfloat16"])},
)
OF_CLASSES = st.fixed_dictionaries(
    {"sampling": st.sampled_from(["natural", "square_root", "balanced"])},
    optional={
        "second_phase": st.fixed_dictionaries({"type": st.sampled_from(["crt", "lws"]), "share": st.floats(0.1, 0.6)})
    },
)
AUGMENT = st.fixed_dictionaries({"shift": st.integers(0, 2), "flip": st.booleans(), "mixup": st.sampled_from([0, 0.3])})
ANCHORS = st.sampled_from(["natural", "balanced"])
EXPLORERS = {
    "none": st.just({"type": "none"}),
    "identity": st.fixed_dictionaries({"type": st.just("identity"), "anchors": ANCHORS}),
    "random": st.fixed_dictionaries({"type": st.just("random"), "sigma": st.floats(0, 2), "anchors": ANCHORS}),
    "gradient": st.fixed_dictionaries({"type": st.just("gradient"), "steps": st.integers(1, 2), "anchors": ANCHORS}),
    "random-matched": st.fixed_dictionaries({"type": st.just("random-matched"), "anchors": ANCHORS}),
    "interpolation": st.fixed_dictionaries({"type": st.just("interpolation"), "anchors": ANCHORS}),
    "augment": st.fixed_dictionaries(
        {"type": st.just("augment"), "anchors": ANCHORS, "step_size": st.sampled_from([0, 0.3, 1])}
    ),
    "compose": st.fixed_dictionaries(
        {"type": st.just("compose"), "anchors": ANCHORS, "of": st.just({"type": "random", "sigma": 0.2})}
    ),
}
CHEAP = {"fit_check.rows": 8, "fit_check.minimum": 0, "fit_check.minimum_explored": 0, "pool.window": 2}


@functools.cache
def root() -> Path:
    return scratch("training")


@functools.cache
def sentences() -> Path:
    folder = root() / "sentences"
    folder.mkdir()
    text_runs.write_sentences(folder)
    return folder


@functools.cache
def things() -> tuple[Path, Path]:
    retrieval.save_encoder(root() / "encoder")
    return retrieval.write(root() / "things"), root() / "encoder"


def of_images(draw: Any) -> Experiment:
    student = draw(
        st.sampled_from(
            [
                {"type": "conv", "widths": [4, 8]},
                {"type": "conv", "widths": [4], "downsample": "stride", "grid": 2},
                {"type": "timm", "name": TIMM},
                {"type": "timm", "name": TIMM, "weights": str(bases()["timm student"].path), "img_size": 16},
            ]
        )
    )
    objective = draw(st.one_of(DISTILLATION, LELP, CONSISTENCY))
    train = draw(TRAIN) | draw(OF_CLASSES)
    if draw(st.booleans()):
        train["augment"] = draw(AUGMENT)
        if objective["type"] == "lelp":
            train["augment"]["mixup"] = 0
    if objective["type"] != "consistency" and draw(st.booleans()):
        train["batch_norm"] = "per_source"
    # Rare classes have too few rows to be split into subclasses.
    tails = [None, *([{"head": 30, "imbalance": 10, "seed": 0}] if objective["type"] != "lelp" else [])]
    tail = draw(st.sampled_from(tails))
    # The labeler gives each class some rows, which lelp needs.
    learnt = {"teacher.labeler.pretrain.steps": 150}
    values = {"task.long_tail": tail, "student": student, "objective": objective, **learnt}
    explorer = draw(st.sampled_from(sorted(EXPLORERS)))
    return changed(Experiment(), {**TINY, **CHEAP, **values, "explorer": draw(EXPLORERS[explorer])}, **_train(train))


def of_texts(draw: Any) -> Experiment:
    generator = draw(st.sampled_from(sorted(text_runs.GENERATORS)))
    student = draw(
        st.sampled_from(
            [
                {"type": "text_transformer", **text_runs.SIZE},
                {"type": "text_transformer", "layers": 0, "width": 8, "max_tokens": 16},
                {"type": "text_encoder", "path": str(bases()["bert"].path), "max_tokens": 24},
                {"type": "text_encoder", "path": str(bases()["distilbert classifier"].path), "max_tokens": 24},
            ]
        )
    )
    # Gradients need one vocabulary.
    kinds = ["none", "identity", "random", "random-matched", "augment", "compose"]
    kinds += ["gradient"] if student["type"] == "text_transformer" else []
    if student["type"] != "text_transformer":
        kinds.remove("random-matched")
    explorer = draw(EXPLORERS[draw(st.sampled_from(kinds))])
    objective = draw(st.one_of(DISTILLATION, LELP, CONSISTENCY))
    cheap = {"teacher.generator.pretrain.steps": 5}
    base = text_runs.experiment(sentences(), generator, data=draw(st.sampled_from([{}, {"pair_column": "hypothesis"}])))
    values = {**cheap, **CHEAP, "student": student, "explorer": explorer, "objective": objective}
    return changed(base, values, **_train(draw(TRAIN) | draw(OF_CLASSES)))


def of_queries(draw: Any) -> Experiment:
    beir, encoder = things()
    objective = {
        "type": "embed_distill",
        "alpha": draw(st.floats(0, 1)),
        "document_encoder": draw(st.sampled_from(["teacher", "student"])),
    }
    explorer = {"type": draw(st.sampled_from(["none", "random", "augment", "compose"]))}
    values = {**CHEAP, "teacher.generator.pretrain.steps": 3, "explorer": explorer, "objective": objective}
    if explorer["type"] in ("random", "compose") and draw(st.booleans()):
        values["teacher.generator"] = {"type": "spans"}
        values.pop("teacher.generator.pretrain.steps")
    return changed(retrieval.experiment(beir, encoder), values, **_train(draw(TRAIN)))


def _train(values: dict[str, Any]) -> dict[str, Any]:
    return {f"train.{key}": value for key, value in values.items()}


KINDS = {"images": of_images, "texts": of_texts, "queries": of_queries}


@fuzzed(few=8, many=200)
@given(st.sampled_from(["images", "images", "texts", "texts", "queries"]), st.data())
def test_a_good_experiment_trains_to_its_end(kind, data):
    config = KINDS[kind](data.draw)
    with tempfile.TemporaryDirectory() as folder:
        # Teachers are made once.
        for name in ("teachers", "teacher_cache", "fit_checks", "documents", "vocabularies"):
            (root() / "storage" / name).mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).symlink_to(root() / "storage" / name)
        result = api.run(config, storage=folder, name="a", local=True)
        last = result.record["result"]
        assert last["step"] == config.train.steps
        assert all(math.isfinite(value) for value in last.values() if isinstance(value, float)), last
        assert f"test_{config.task.metric_names[0]}" in last
        assert (Path(folder) / "a/student.safetensors").exists()
