"""Metrics of rankings, against an independent library."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from tgt_ray.tasks.metrics import ranking


def test_rankings_are_measured_as_trec_eval_does():
    import ir_measures
    from ir_measures import RR, R, nDCG

    rng = np.random.default_rng(0)
    documents, size = 300, 40
    ranked = np.stack([rng.permutation(documents)[:100] for _ in range(size)])
    relevant = [rng.choice(documents, rng.integers(1, 15), replace=False) for _ in range(size)]
    grades = [rng.integers(1, 4, len(each)).astype(float) for each in relevant]
    found = ranking.measure(ranked, pa.chunked_array([relevant]), pa.chunked_array([grades]))
    qrels = [
        ir_measures.Qrel(str(q), str(d), int(g))
        for q in range(size)
        for d, g in zip(relevant[q], grades[q], strict=True)
    ]
    run = [ir_measures.ScoredDoc(str(q), str(d), -float(r)) for q in range(size) for r, d in enumerate(ranked[q])]
    wanted = {"ndcg_at_10": nDCG @ 10, "mrr_at_10": RR @ 10, **{f"recall_at_{k}": R @ k for k in (1, 5, 20, 100)}}
    oracle = ir_measures.calc_aggregate(list(wanted.values()), qrels, run)
    assert set(found) == set(ranking.NAMES) == set(wanted)
    for name, measure in wanted.items():
        assert found[name] == pytest.approx(100 * oracle[measure], abs=1e-6), name


IDS = ("d9", "d10", "D2", "doc-a", "doc_a", "ä1", "z", "10", "9", "e\u0301", "é", "🂡", "\uffee")


def run_of(scores, ids):
    """What a file of trec_eval has: no line for a document that was not ranked, and scores in any order."""
    import ir_measures

    return [
        ir_measures.ScoredDoc(str(q), ids[d], float(score))
        for q, row in enumerate(scores)
        for d, score in enumerate(row)
    ]


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("documents", [13, 150])
def test_documents_of_the_same_score_are_ranked_as_trec_eval_ranks_them(levels, documents):
    """Also where more documents share a score than are looked at, and where an answer is not among these."""
    import ir_measures
    from ir_measures import RR, R, nDCG

    rng = np.random.default_rng(levels)
    ids = [*IDS, *(f"d{number}" for number in range(100, 100 + documents - len(IDS)))]
    ids = [ids[number] for number in rng.permutation(documents)]
    scores = rng.integers(0, levels, (60, documents)).astype(np.float32) / 8
    relevant = [rng.choice(documents, rng.integers(1, 7), replace=False) for _ in scores]
    grades = [rng.integers(1, 4, len(each)).astype(float) for each in relevant]
    ranked = ranking.best(torch.from_numpy(scores), ranking.places(ids)).numpy()
    assert ranked.shape == (60, min(100, documents))
    by_hand = [sorted(range(documents), key=lambda d: (row[d], ids[d].encode()), reverse=True) for row in scores]
    assert ranked.tolist() == [row[:100] for row in by_hand]
    qrels = [
        ir_measures.Qrel(str(q), ids[d], int(g)) for q, row in enumerate(relevant)
        for d, g in zip(row, grades[q], strict=True)
    ]  # fmt: skip
    found = ranking.measure(ranked, pa.chunked_array([relevant]), pa.chunked_array([grades]))
    wanted = {"ndcg_at_10": nDCG @ 10, **{f"recall_at_{k}": R @ k for k in (1, 5, 20, 100)}}
    oracle = ir_measures.calc_aggregate(list(wanted.values()), qrels, run_of(scores, ids))
    for name, measure in wanted.items():
        assert found[name] == pytest.approx(100 * oracle[measure], abs=1e-6), name
    # With a cutoff another program than trec_eval gives the reciprocal rank, which breaks ties otherwise.
    whole = [each.value for each in ir_measures.iter_calc([RR], qrels, run_of(scores, ids))]
    assert found["mrr_at_10"] == pytest.approx(100 * np.mean([value * (value >= 0.1) for value in whole]), abs=1e-6)


def test_answers_that_are_not_ranked_count_as_missed():
    import ir_measures
    from ir_measures import RR, R, nDCG

    ranked, relevant = np.array([[3, 1, 0]]), [np.array([1, 7, 9])]
    found = ranking.measure(ranked, pa.chunked_array([relevant]), pa.chunked_array([[[2.0, 3.0, 1.0]]]))
    qrels = [ir_measures.Qrel("q", f"d{d}", g) for d, g in ((1, 2), (7, 3), (9, 1))]
    run = [ir_measures.ScoredDoc("q", f"d{d}", 9.0 - place) for place, d in enumerate(ranked[0])]
    for name, measure in {"ndcg_at_10": nDCG @ 10, "mrr_at_10": RR @ 10, "recall_at_100": R @ 100}.items():
        assert found[name] == pytest.approx(100 * ir_measures.calc_aggregate([measure], qrels, run)[measure]), name


def test_the_first_relevant_document_has_its_rank():
    ranked = np.array([[4, 2, 0], [1, 3, 2], [0, 1, 2]])
    relevant = pa.chunked_array([[[0, 2], [1], [3, 4]]])
    grades = pa.chunked_array([[[1.0, 1.0], [1.0], [1.0, 1.0]]])
    assert ranking.first_hits(ranked, relevant, grades).tolist() == [2, 1, 0]
    of_each = ranking.of_each(ranked, relevant, grades)
    assert of_each["mrr_at_10"].tolist() == [50.0, 100.0, 0.0]
    assert of_each["recall_at_5"].tolist() == [100.0, 100.0, 0.0]


def test_a_perfect_ranking_of_few_documents_is_perfect():
    found = ranking.measure(np.array([[2, 0, 1]]), pa.chunked_array([[[2]]]), pa.chunked_array([[[1.0]]]))
    assert found == dict.fromkeys(ranking.NAMES, 100.0)
