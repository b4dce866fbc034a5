"""Decides which session is a profile's first."""

from typing import NamedTuple


class Claim(NamedTuple):
    """A session's claim on a profile. Claims compare by time, then by integrationId.

    *created* is in the snapshot's form, which sorts as the times do; strings of Python compare by code point, which is
    the order of their UTF-8 bytes.
    """

    created: str
    integration_id: str


class Decision(NamedTuple):
    """Whether the claim is the profile's first now, and whom it demoted (None: nobody)."""

    is_first: bool
    demoted: Claim | None


def decide(first: Claim | None, claim: Claim) -> Decision:
    """Hold *claim* against the smallest that was ever made on the profile.

    >>> decide(None, Claim("2026-11-22T10:00:00.000Z", "s-1"))
    Decision(is_first=True, demoted=None)
    >>> decide(Claim("2026-11-22T10:00:00.000Z", "s-1"), Claim("2026-11-22T09:00:00.000Z", "s-2")).demoted
    Claim(created='2026-11-22T10:00:00.000Z', integration_id='s-1')
    """
    if first is None or claim == first:
        return Decision(True, None)
    return Decision(claim < first, first if claim < first else None)
