"""The limits of the contract, and the rules that an operator can set."""

from dataclasses import dataclass
from typing import Literal

MAX_ITEMS = 1000
MAX_UNITS = 10_000
MAX_TEXT = 1000
"""Upper bound in characters of an integrationId, a profileId and a storeIntegrationId."""
MAX_DEPTH = 64
MAX_REMEMBERED_EVENTS = 32
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
AMOUNT_LIMIT = 10**12
"""Exclusive upper bound of the magnitude of prices and item dimensions."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the contract that an operator can set; sizes are in bytes."""

    application_id: int = 1
    other_applications: Literal["reject", "skip"] = "reject"
    unknown_fields: Literal["reject", "ignore"] = "reject"
    cloudevents: bool = False
    max_record_bytes: int = 1 << 20
    max_snapshot_bytes: int = 1 << 20
