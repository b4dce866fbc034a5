"""Decide which session is the first session of a profile."""

from typing import NamedTuple


class Claim(NamedTuple):
    """A session's claim to be the first of a profile. Claims compare by time, then by integrationId.

    *created* is in the snapshot's form, which sorts like the times. Python compares strings by code point, which is the
    order of their UTF-8 bytes.
    """

    created: str
    integration_id: str


class Decision(NamedTuple):
    """The answer to a claim: whether it is the first now, and the claim that it demoted (None: no claim)."""

    is_first: bool
    demoted: Claim | None


def decide(first: Claim | None, claim: Claim) -> Decision:
    """Compare *claim* with *first*, the smallest claim on the profile until now.

    >>> decide(None, Claim("2026-11-22T10:00:00.000Z", "s-1"))
    Decision(is_first=True, demoted=None)
    >>> decide(Claim("2026-11-22T10:00:00.000Z", "s-1"), Claim("2026-11-22T09:00:00.000Z", "s-2")).demoted
    Claim(created='2026-11-22T10:00:00.000Z', integration_id='s-1')
    """
    if first is None or claim == first:
        return Decision(True, None)
    return Decision(claim < first, first if claim < first else None)
