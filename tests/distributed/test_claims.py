"""Who makes which request of a bank."""

from tgt_ray.distributed.claims import VOID_S, Claims


def test_a_request_is_made_by_the_first_that_asks():
    claims = Claims()
    assert claims.claim("k", 3, "a") and not claims.claim("k", 3, "b") and claims.claim("k", 3, "a")
    assert claims.claim("k", 4, "b") and claims.claim("other", 3, "b")


def test_the_claims_of_the_lost_come_back():
    claims = Claims()
    assert claims.claim("k", 3, "a") and claims.claim("k", 4, "b")
    claims.release("a")
    assert claims.claim("k", 3, "b") and not claims.claim("k", 4, "a")


def test_a_claim_without_rows_is_void_after_a_while():
    now = [0.0]
    claims = Claims(lambda: now[0])
    assert claims.claim("k", 3, "a")
    now[0] = VOID_S - 1
    assert not claims.claim("k", 3, "b")
    now[0] = VOID_S
    assert claims.claim("k", 3, "b") and not claims.claim("k", 3, "a")
