"""Distillation of embeddings, against plain numpy."""

import numpy as np
import pytest
import torch

from tests.helpers.numerics import log_softmax
from tgt_ray.core.signals.values import Ragged
from tgt_ray.objectives.criteria.embed_distill import EmbedDistillCriterion


def said_of(embedding, documents, answers=None):
    """What the criterion gets of the teacher; without `answers` each query has its document alone."""
    lists = [[each] for each in documents.tolist()] if answers is None else answers
    values, lengths = torch.tensor([d for each in lists for d in each]), torch.tensor([len(each) for each in lists])
    return {"embedding": embedding, "document": documents, "answers": Ragged(values, lengths)}


def test_one_document_without_length_does_not_make_all_of_any_length():
    documents = np.eye(4, dtype=np.float32)
    documents[1] = 0
    assert EmbedDistillCriterion(3, documents, 1.0, 0.1, 0.2, 1.0, 1.0).unit
    assert not EmbedDistillCriterion(3, 2 * documents, 1.0, 0.1, 0.2, 1.0, 1.0).unit


def test_the_criterion_is_its_formula():
    """Against plain numpy, with rows of both kinds and a document that comes twice."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((20, 6)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(4, documents, 0.3, 0.1, 0.2, 0.7, 1.3)
    embedding, teacher = rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((5, 6)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    of_rows = np.array([3, 7, 3, 11, 7])
    said = said_of(torch.from_numpy(teacher), torch.from_numpy(of_rows))
    got = criterion(torch.from_numpy(embedding), torch.from_numpy(of_rows[:3]), said, {})
    student = embedding @ criterion.head.weight.detach().numpy().T + criterion.head.bias.detach().numpy()
    student /= np.linalg.norm(student, axis=1, keepdims=True)
    candidates = [3, 7, 11]

    own, its = student @ documents[candidates].T, teacher @ documents[candidates].T
    log_p, log_q = log_softmax(its / 0.1), log_softmax(own / 0.1)
    taught = 0.7 * np.linalg.norm(teacher - student, axis=1) + 1.3 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    ce = -log_softmax(own / 0.2)[np.arange(3), [0, 1, 0]]
    wanted = (0.7 * ce.sum() + 0.3 * taught[:3].sum() + taught[3:].sum()) / 5
    assert float(got.value.detach()) == pytest.approx(wanted, rel=1e-5)
    scores = criterion.scores(torch.from_numpy(embedding)).detach().numpy()
    np.testing.assert_allclose(scores, student @ documents.T / 0.1, rtol=1e-4, atol=1e-4)


def test_other_answers_of_a_query_are_no_negatives():
    """Against a softmax that is written out; the last row is synthetic, and its document is another query's answer."""
    rng = np.random.default_rng(2)
    documents = rng.standard_normal((20, 6)).astype(np.float32)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(6, documents, 0.0, 0.1, 0.5, 0.7, 1.3)
    with torch.no_grad():
        criterion.head.weight.copy_(torch.eye(6))
        criterion.head.bias.zero_()
    rows = torch.from_numpy(rng.standard_normal((5, 6)).astype(np.float32))
    of_rows = torch.tensor([3, 7, 3, 11, 7])
    # 3 and 11 answer the first, 7 and 15 the second (15 is no candidate), 3 the third, and all the fourth.
    answers = [[3, 11], [7, 15], [3], [11, 3, 7], [7]]
    teacher = torch.from_numpy(documents[of_rows])
    got = criterion(rows, of_rows[:4], said_of(teacher, of_rows, answers), {})
    candidates = {0: [3, 7], 1: [3, 7, 11], 2: [3, 7, 11], 3: [11]}
    ce = 0.0
    for row, those in candidates.items():
        scores = {d: float(np.exp(rows[row].numpy() @ documents[d] / 0.5)) for d in those}
        ce -= np.log(scores[int(of_rows[row])] / sum(scores.values()))
    assert float(got.parts["ce"]) == pytest.approx(ce / 4, rel=1e-4)
    # What the teacher says of all candidates stays.
    alone = criterion(rows, of_rows[:4], said_of(teacher, of_rows), {})
    assert alone.parts["kl_real"] == got.parts["kl_real"] and alone.parts["ce"] > got.parts["ce"]


def test_a_student_that_embeds_documents_is_taught_them_too():
    """Against plain numpy; the last three embeddings are of a batch's documents."""
    rng = np.random.default_rng(1)
    documents = rng.standard_normal((20, 6)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(4, documents, 0.25, 0.1, 0.2, 0.7, 1.3, own_documents=True)
    embedding, teacher = rng.standard_normal((4 + 3, 4)).astype(np.float32), documents[[5, 6, 7, 8]]
    of_rows, candidates = np.array([9, 2, 9, 4]), [2, 4, 9]
    said = said_of(torch.from_numpy(teacher), torch.from_numpy(of_rows))
    rows, further = torch.from_numpy(embedding).split([4, 3])
    got = criterion(rows, torch.from_numpy(of_rows[:2]), said, {"documents": further})
    out = embedding @ criterion.head.weight.detach().numpy().T + criterion.head.bias.detach().numpy()
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    student, own = out[:4], out[4:]

    log_p, log_q = log_softmax(teacher @ documents[candidates].T / 0.1), log_softmax(student @ own.T / 0.1)
    taught = 0.7 * np.linalg.norm(teacher - student, axis=1) + 1.3 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    ce = -log_softmax(student @ own.T / 0.2)[np.arange(2), [2, 0]]
    apart = np.linalg.norm(documents[candidates] - own, axis=1).mean()
    wanted = (0.75 * ce.sum() + 0.25 * taught[:2].sum() + taught[2:].sum()) / 4 + 0.7 * apart * (0.25 * 2 + 2) / 4
    assert float(got.value.detach()) == pytest.approx(wanted, rel=1e-5)
    assert float(got.parts["distance_documents"]) == pytest.approx(apart, rel=1e-5)


def test_half_precision_ranks_as_full_does():
    documents = torch.nn.functional.normalize(torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(5, documents.numpy(), 1.0, 0.05, 0.05, 1.0, 1.0)
    rows = torch.randn(3, 5)
    with torch.no_grad():
        wanted = criterion.scores(rows)
        with torch.autocast("cpu", torch.bfloat16):
            got = criterion.scores(rows)
            said = said_of(documents[:3], torch.arange(3))
            loss = criterion(rows, torch.arange(3), said, {}).value
    assert got.dtype == loss.dtype == torch.float32
    assert torch.equal(got, wanted)


def test_documents_are_not_sent_around_and_move_with_the_module():
    criterion = EmbedDistillCriterion(5, np.eye(4, dtype=np.float32), 1.0, 0.05, 0.05, 1.0, 1.0)
    assert not list(criterion.buffers())
    assert criterion.to(torch.float64).documents.dtype == torch.float64


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    documents = torch.nn.functional.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    criterion = EmbedDistillCriterion(5, documents.numpy(), 1.0, 0.05, 0.05, 1.0, 1.0)
    with torch.no_grad():
        criterion.head.weight.copy_(torch.eye(5))
        criterion.head.bias.zero_()
    rows = documents[:4] + 0.0
    loss = criterion(rows, torch.arange(4), said_of(rows, torch.arange(4)), {})
    assert float(loss.value.detach()) == pytest.approx(0, abs=1e-6)
