"""Search with plain PyTorch in an Optuna loop, as a user would write it instead of a sweep of tgt-ray.

python benchmarks/plain_optuna.py SWEEP.yaml --storage DIR --out FILE.json [--threads N] [--bank DIR] [--processes N]

With --bank it keeps synthetic rows in files, and a trial takes those that an earlier one with the same settings of the
explorer has made, also where they were explored for the earlier trial's student.

It is what `python -m tgt_ray.sweep` is compared with. The training loop, loss, generation and search are its own. So
that both do the same work, they share the data, the teacher's weights and its cached outputs for the real rows, the
student's architecture, the space and the settings.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.config import validate
from tgt_ray.core.loading import load_yaml
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.space import from_optuna, to_optuna
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.local import prepare_local


class Shared:
    """Hold what trials have in common, as tensors in memory: rows, the teacher's outputs for them, and the teacher.

    - bank: folder for synthetic rows; None: each trial makes its own
    """

    def __init__(self, experiment: Experiment, storage: Storage, bank: Path | None = None):
        self.bank, self.kept = bank, {}
        data = experiment.task.load(storage)
        self.spec, self.shape, self.classes = data.spec, data.input_shape, data.num_classes
        splits = ("train", "validation", "test")
        self.inputs = {name: experiment.task.inputs(data.tables[name], self.shape) for name in splits}
        self.labels = {name: torch.from_numpy(data.labels(name).copy()) for name in splits}
        prepared = prepare_local(experiment, data, storage)  # stored before timing starts
        self.teacher = load_teacher(experiment.teacher, prepared.teacher, self.spec, self.classes, storage)
        self.logits = torch.from_numpy(prepared.student.columns["logits"])
        self.latents = torch.from_numpy(prepared.anchors.latents)
        self.scale = self.latents.std(dim=0)


def kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute KL(teacher || student) of each row."""
    log_q = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, F.log_softmax(teacher / temperature, dim=1), reduction="none", log_target=True).sum(dim=1)


def generate(shared: Shared, student: nn.Module, experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Make one batch of synthetic rows near random anchors, with the teacher's logits for them."""
    explorer, teacher = experiment.explorer, shared.teacher
    weights = torch.from_numpy(explorer.anchor_probabilities(shared.labels["train"].numpy()))
    anchors = shared.latents[torch.multinomial(weights, experiment.pool.rows_per_request, replacement=True)]
    latents = anchors + explorer.sigma * shared.scale * torch.randn_like(anchors)
    if explorer.type == "gradient":
        student.eval().requires_grad_(False)
        for _ in range(explorer.steps):
            latents.requires_grad_()
            rows = teacher.generator.decode(latents)
            (slope,) = torch.autograd.grad(kl(teacher.labeler(rows).logits, student(rows)).sum(), latents)
            unit = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
            latents = (latents + explorer.step_size * latents.shape[1] ** 0.5 * shared.scale * unit).detach()
        student.train().requires_grad_(True)
    with torch.no_grad():
        rows = teacher.generator.decode(latents)
        return rows, teacher.labeler(rows).logits


def request(shared: Shared, student: nn.Module, experiment: Experiment, number: int) -> tuple[Tensor, Tensor]:
    """Give the rows of a trial's request: those in the bank, if there is one and they are there."""
    if shared.bank is None:
        return generate(shared, student, experiment)
    settings = "-".join(f"{key}={value}" for key, value in sorted(experiment.explorer.model_dump().items()))
    file = shared.bank / settings / f"{number}.pt"
    if file not in shared.kept and file.exists():
        shared.kept[file] = torch.load(file, weights_only=True)
    if file not in shared.kept:
        rows, logits = generate(shared, student, experiment)
        shared.kept[file] = (rows * 255).round().to(torch.uint8), logits
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        torch.save(shared.kept[file], draft)
        draft.rename(file)
    rows, logits = shared.kept[file]
    return rows.float() / 255, logits


@torch.no_grad()
def evaluate(student: nn.Module, shared: Shared, split: str) -> float:
    """Compute the student's balanced accuracy on a split, in percent."""
    student.eval()
    predicted = torch.cat([student(rows).argmax(dim=1) for rows in shared.inputs[split].split(1024)])
    student.train()
    return 100 * float(balanced_accuracy_score(shared.labels[split], predicted))


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Compute the factor of a linear warm-up followed by cosine decay to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    experiment: Experiment, shared: Shared, trial: optuna.Trial, spent: dict[str, float]
) -> tuple[nn.Module, dict[str, float]]:
    """Train one student.

    - spent: seconds by what they were spent on, which this adds to
    - returns: the student, and its balanced accuracy on validation and test
    - raises optuna.TrialPruned: where the study's pruner stops the trial
    """
    how, objective = experiment.train, experiment.objective
    torch.manual_seed(how.seed)
    backbone = experiment.student.build(shared.spec)
    experiment.student.load_weights(backbone)
    student = nn.Sequential(backbone, nn.Linear(backbone.dim, shared.classes)).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    warmup = round(how.warmup * how.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, how.steps, warmup))
    synthetic = round(how.batch_size * how.synthetic_ratio)
    real, order, used = how.batch_size - synthetic, torch.empty(0, dtype=torch.long), 0
    rows, rows_logits, requests = torch.empty(0, *shared.shape), torch.empty(0, shared.classes), 0
    for step in range(1, how.steps + 1):
        if len(order) < real:
            order = torch.cat([order, torch.randperm(len(shared.logits))])
        batch, order = order[:real], order[real:]
        while used + synthetic > len(rows):
            started = time.perf_counter()
            fresh, fresh_logits = request(shared, student, experiment, requests)
            requests += 1
            rows, rows_logits = torch.cat([rows[used:], fresh]), torch.cat([rows_logits[used:], fresh_logits])
            used = 0
            spent["generate_s"] += time.perf_counter() - started
        inputs = torch.cat([shared.inputs["train"][batch], rows[used : used + synthetic]])
        targets = torch.cat([shared.logits[batch], rows_logits[used : used + synthetic]])
        used += synthetic
        scores = student(inputs)
        soft = objective.temperature**2 * kl(targets, scores, objective.temperature)
        hard = F.cross_entropy(scores[:real], shared.labels["train"][batch], reduction="sum")
        soft_real = objective.alpha * soft[:real].sum() + soft[real:].sum()
        loss = ((1 - objective.alpha) * hard + soft_real) / how.batch_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % how.eval_every == 0 or step == how.steps:
            started = time.perf_counter()
            score = evaluate(student, shared, "validation")
            spent["evaluate_s"] += time.perf_counter() - started
            trial.report(score, step)
            if trial.should_prune():
                raise optuna.TrialPruned()
    return student, {"validation": score, "test": evaluate(student, shared, "test")}


def search(
    sweep: SweepConfig, shared: Shared, journal: Path | None = None, first: bool = True
) -> tuple[list[dict[str, Any]], nn.Module | None]:
    """Run the Optuna loop.

    - journal: file of a study that several processes share; None: this is the only one
    - first: whether this process gives the study its first points
    - returns: a row for each trial, and the best student; None where no trial finished
    """
    how, space = sweep.search, {key: distribution.to_optuna() for key, distribution in sweep.space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if how.scheduler == "asha":
        grace = how.grace_evaluations * sweep.experiment.train.eval_every
        pruner = optuna.pruners.SuccessiveHalvingPruner(grace, reduction_factor=round(how.reduction_factor))
    parallel = journal is not None
    sampler = optuna.samplers.TPESampler(
        seed=how.seed if first else how.seed + 1, n_startup_trials=how.startup_trials, constant_liar=parallel
    )
    files = optuna.storages.journal
    storage = optuna.storages.JournalStorage(files.JournalFileBackend(str(journal))) if parallel else None
    study = optuna.create_study(
        study_name="plain", storage=storage, load_if_exists=True, direction="maximize", sampler=sampler, pruner=pruner
    )
    for point in sweep.first_points() if first else ():
        study.enqueue_trial(to_optuna(sweep.space, point))
    table, best, best_score = [], None, -math.inf
    while True:
        started, trial = time.perf_counter(), study.ask(space)
        if trial.number >= how.trials:
            break
        values = from_optuna(sweep.space, trial.params)
        row: dict[str, Any] = {**values, "status": "finished"}
        spent = {"generate_s": 0.0, "evaluate_s": 0.0}
        try:
            student, result = train(sweep.trial_experiment(values), shared, trial, spent)
            study.tell(trial, result["validation"])
            row |= result
            if result["validation"] > best_score:
                best, best_score = copy.deepcopy(student), result["validation"]
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            row["status"] = "stopped early"
        table.append({**row, **spent, "seconds": time.perf_counter() - started})
        print(f"plain trial {trial.number}: {table[-1]}", flush=True)
    return table, best


def work(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Run one process's part of the search, and give its table and how long it loaded."""
    started = time.perf_counter()
    torch.set_num_threads(args.threads)
    sweep = validate(SweepConfig, load_yaml(args.sweep), args.sweep)
    shared = Shared(sweep.experiment, Storage(args.storage), Path(args.bank) if args.bank else None)
    loaded = time.perf_counter() - started
    journal = Path(args.out).with_suffix(".journal") if args.processes > 1 else None
    table, best = search(sweep, shared, journal, first=number == 0)
    if best is not None:
        torch.save(best.state_dict(), Path(args.out).with_suffix(f".{number}.pt"))
    return {"load_s": loaded, "trials": table}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep")
    parser.add_argument("--storage", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--bank", metavar="DIR", help="folder for synthetic rows that trials share")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the study")
    args = parser.parse_args()
    if args.processes == 1:
        parts = [work(args, 0)]
    else:
        with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
            parts = pool.starmap(work, [(args, number) for number in range(args.processes)])
    told = {
        "load_s": max(each["load_s"] for each in parts),
        "trials": [row for each in parts for row in each["trials"]],
    }
    Path(args.out).write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
