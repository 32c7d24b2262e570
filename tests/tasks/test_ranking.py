"""Metrics of rankings, against an independent library."""

import numpy as np
import pyarrow as pa
import pytest

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
