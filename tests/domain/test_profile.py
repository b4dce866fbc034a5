"""The smallest claim is the first, in every order of arrival."""

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.instants import instant
from worker.domain.profile import Claim, decide

unhurried = settings(deadline=None)
IDS = st.text(min_size=1, max_size=3)
CLAIMS = st.builds(Claim, st.integers(0, 5).map(instant), IDS)


def test_the_first_claim_on_a_profile_is_first_and_demotes_nobody():
    assert decide(None, Claim(instant(0), "s-1")) == (True, None)


def test_the_same_claim_again_is_still_first():
    claim = Claim(instant(0), "s-1")
    assert decide(claim, claim) == (True, None)


def test_a_later_claim_is_not_first_and_an_earlier_one_demotes():
    early, late = Claim(instant(0), "s-2"), Claim(instant(1), "s-1")
    assert decide(early, late) == (False, None)
    assert decide(late, early) == (True, late)


def test_at_the_same_time_the_smaller_id_is_first():
    one, ten = Claim(instant(0), "s-1"), Claim(instant(0), "s-10")
    assert decide(ten, one) == (True, ten)
    assert decide(one, ten) == (False, None)


@unhurried
@given(CLAIMS, CLAIMS)
def test_claims_compare_by_time_and_then_by_the_bytes_of_the_id(first, claim):
    def order(of: Claim) -> tuple[str, bytes]:
        return of.created, of.integration_id.encode("utf-8", "surrogatepass")

    decision = decide(first, claim)
    assert decision.is_first == (order(claim) <= order(first))
    assert decision.demoted == (first if order(claim) < order(first) else None)


@unhurried
@given(
    st.lists(CLAIMS, min_size=1, max_size=12).flatmap(
        lambda claims: st.tuples(st.just(claims), st.permutations(claims))
    )
)
def test_every_order_of_claims_ends_with_the_same_first_and_nobody_else_believes_to_be_it(drawn):
    claims, other_order = drawn
    for order in (claims, other_order):
        first: Claim | None = None
        believers: set[Claim] = set()
        for claim in order:
            decision = decide(first, claim)
            if decision.demoted is not None:
                believers.remove(decision.demoted)
            if decision.is_first:
                first = claim
                believers.add(claim)
        assert first == min(claims)
        assert believers == {first}
