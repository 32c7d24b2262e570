"""Who makes which request of a bank."""

from tgt_ray.distributed.claims import VOID_S, Claims

A, B = ("run a", 0), ("run b", 0)


def test_a_request_is_made_by_the_first_that_asks():
    claims = Claims()
    assert claims.claim("k", 3, A) and not claims.claim("k", 3, B) and claims.claim("k", 3, A)
    assert claims.claim("k", 4, B) and claims.claim("other", 3, B)


def test_the_claims_of_the_lost_come_back():
    claims = Claims()
    assert claims.claim("k", 3, A) and claims.claim("k", 4, B)
    claims.release(A)
    assert claims.claim("k", 3, B) and not claims.claim("k", 4, A)


def test_a_claim_without_rows_is_void_after_a_while():
    now = [0.0]
    claims = Claims(lambda: now[0])
    assert claims.claim("k", 3, A)
    now[0] = VOID_S - 1
    assert not claims.claim("k", 3, B)
    now[0] = VOID_S
    assert claims.claim("k", 3, B) and not claims.claim("k", 3, A)


def test_all_workers_of_a_run_give_back_at_once():
    claims = Claims()
    assert claims.claim("k", 3, ("run", 0)) and claims.claim("k", 4, ("run", 1)) and claims.claim("k", 5, B)
    claims.release_run("run")
    assert claims.claim("k", 3, A) and claims.claim("k", 4, A) and not claims.claim("k", 5, A)
