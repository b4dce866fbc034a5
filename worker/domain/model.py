"""The nouns of the contract as TypedDicts with their limits.

pydantic validates update records with these types. `structs` derives its fast decoders from these types, and `schemas/`
is generated from these types, so each limit is written once. The order of the fields is the order in a snapshot.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, Required

from msgspec import Meta, Raw, Struct
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    GetPydanticSchema,
    Strict,
    WithJsonSchema,
    with_config,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict, get_type_hints  # pydantic requires these before Python 3.12

from worker.domain.instants import to_instant
from worker.domain.limits import AMOUNT_LIMIT, INTEGER_MAX, INTEGER_MIN, MAX_ITEMS, MAX_TEXT, MAX_UNITS

State = Literal["open", "closed", "cancelled", "partially_returned"]
Kind = Literal["update", "return", "reopen"]


def _integer(minimum: int = INTEGER_MIN) -> GetPydanticSchema:
    """Return a schema that accepts `2`, `2.0` and `2e0` as the integer 2, and refuses `"2"` and `true`."""
    limits: dict[str, Any] = {"ge": minimum, "le": INTEGER_MAX}

    def schema(_source: Any, _handler: Any) -> CoreSchema:
        whole_float = core_schema.chain_schema(
            [core_schema.float_schema(strict=True, allow_inf_nan=False), core_schema.int_schema(**limits)]
        )
        return core_schema.union_schema(
            [core_schema.int_schema(strict=True, **limits), whole_float],
            mode="left_to_right",
            custom_error_type="integer",
            custom_error_message="an integer from {minimum}",
            custom_error_context={"minimum": minimum},
        )

    return GetPydanticSchema(schema)


_JSON_INTEGER: dict[str, Any] = {"type": "integer", "minimum": INTEGER_MIN, "maximum": INTEGER_MAX}
Integer = Annotated[int, _integer(), Meta(ge=INTEGER_MIN, le=INTEGER_MAX), WithJsonSchema(_JSON_INTEGER)]
NaturalNumber = Annotated[
    int, _integer(minimum=0), Meta(ge=0, le=INTEGER_MAX), WithJsonSchema({**_JSON_INTEGER, "minimum": 0})
]
_Positive = Annotated[int, _integer(minimum=1), Meta(ge=1, le=INTEGER_MAX)]
Quantity = Annotated[_Positive, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_UNITS})]
Text = Annotated[str, Strict()]
Text100 = Annotated[str, Strict(), Field(max_length=100)]
Text1000 = Annotated[str, Strict(), Field(max_length=MAX_TEXT)]
Sku = Annotated[str, Strict(), Field(min_length=1)]
Flag = Annotated[bool, Strict()]
_DIGITS = "Read as the shortest decimal that denotes the same double; digits beyond the 18th decimal place are rounded."
Amount = Annotated[float, Strict(), Field(allow_inf_nan=False, gt=-AMOUNT_LIMIT, lt=AMOUNT_LIMIT, description=_DIGITS)]
Dimension = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=0, lt=AMOUNT_LIMIT)]
_RFC_3339 = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
Instant = Annotated[
    str,
    Strict(),
    Field(pattern=_RFC_3339),
    AfterValidator(to_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _RFC_3339}),
]
Attributes = Annotated[
    dict[str, Any],
    Field(
        description="Free-form. An integer fits 64 bits, or a double keeps all its digits. Any other number is a double."
    ),
]


class EmptyArray:
    """Mark an object that may arrive as an empty array: PHP writes empty objects as `[]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read `[]` as `{}`."""
        return core_schema.no_info_before_validator_function(_as_object, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return a schema of both forms."""
        return {"anyOf": [handler(schema), {"type": "array", "maxItems": 0}]}


def _as_object(value: Any) -> Any:
    return {} if type(value) is list and not value else value


_FORBID = ConfigDict(extra="forbid")
_IGNORED = Field(description="Accepted and ignored.", json_schema_extra={"readOnly": True})


# -------------------------------------------------------------------------------------------- what an update record has


@with_config(_FORBID)
class AdditionalCost(TypedDict):
    price: Amount


AdditionalCosts = Annotated[dict[str, AdditionalCost], EmptyArray()]
GivenAttributes = Annotated[Attributes, EmptyArray()]


@with_config(_FORBID)
class Product(TypedDict):
    name: Text


@with_config(_FORBID)
class CartItem(TypedDict, total=False):
    """A cart item of an update record."""

    name: Text | None
    sku: Required[Sku]
    quantity: Required[Quantity]
    returnedQuantity: Annotated[Any, _IGNORED]
    remainingQuantity: Annotated[Any, _IGNORED]
    price: Required[Amount]
    category: Text | None
    product: Product | None
    weight: Dimension | None
    height: Dimension | None
    width: Dimension | None
    length: Dimension | None
    position: Annotated[Any, _IGNORED]
    attributes: GivenAttributes | None
    additionalCosts: AdditionalCosts | None
    catalogItemID: Annotated[Any, _IGNORED]
    selectedPriceType: Annotated[Any, _IGNORED]
    adjustmentReferenceId: Annotated[Any, _IGNORED]
    adjustmentEffectiveFrom: Annotated[Any, _IGNORED]
    adjustmentEffectiveUntil: Annotated[Any, _IGNORED]
    prices: Annotated[Any, _IGNORED]


DIMENSIONS = ("weight", "height", "width", "length")
IGNORED_ITEM_FIELDS = frozenset(
    {
        "catalogItemID",
        "selectedPriceType",
        "adjustmentReferenceId",
        "adjustmentEffectiveFrom",
        "adjustmentEffectiveUntil",
        "prices",
    }
)


@with_config(_FORBID)
class ExperimentVariantAllocation(TypedDict):
    experimentID: Integer
    variantID: Integer


class Changes(TypedDict, total=False):
    """The fields of a session that an update can set."""

    profileId: Text1000 | None
    storeIntegrationId: Annotated[Text1000, Field(min_length=1)] | None
    evaluableCampaignIds: Annotated[list[Integer], Field(fail_fast=True)] | None
    experimentVariantAllocations: Annotated[list[ExperimentVariantAllocation], Field(fail_fast=True)] | None
    couponCodes: Annotated[list[Text100], Field(fail_fast=True)] | None
    referralCode: Text100 | None
    loyaltyCards: Annotated[list[Text], Field(max_length=1)] | None
    state: State | None
    cartItems: Annotated[list[CartItem], Field(fail_fast=True, json_schema_extra={"maxItems": MAX_ITEMS})] | None
    additionalCosts: AdditionalCosts | None
    identifiers: Annotated[list[Text], Field(max_length=5)] | None
    attributes: Annotated[GivenAttributes, Field(description="Merged key by key; null removes a key.")] | None
    coupon: (
        Annotated[Text100, Field(description="The v1 name of the first couponCode; an empty string removes all codes.")]
        | None
    )
    referral: Annotated[Text100, Field(description="The v1 name of referralCode.")] | None


class _Echoed(Changes, total=False):
    """The fields that an update can set, and the fields that a client echoes from a snapshot."""

    id: Annotated[Any, _IGNORED]
    created: Annotated[Any, _IGNORED]
    firstSession: Annotated[Any, _IGNORED]
    updateCount: Annotated[Any, _IGNORED]
    total: Annotated[Any, _IGNORED]
    cartItemTotal: Annotated[Any, _IGNORED]
    additionalCostTotal: Annotated[Any, _IGNORED]
    cartItemAdditionalCostTotal: Annotated[Any, _IGNORED]
    updated: Annotated[Any, _IGNORED]
    closurePrediction: Annotated[Any, _IGNORED]
    discounts: Annotated[Any, _IGNORED]


@with_config(_FORBID)
class CustomerSession(_Echoed, total=False):
    """The changes of an update to a session; a field that is omitted or null keeps its value."""

    integrationId: Annotated[Any, _IGNORED]
    applicationId: Annotated[Any, _IGNORED]


SESSION_FIELDS = frozenset(get_type_hints(Changes))
"""The names of the fields that an update can set. An object with one of these names is a bare body."""
IGNORED_SESSION_FIELDS = frozenset(get_type_hints(CustomerSession)) - SESSION_FIELDS


@with_config(_FORBID)
class ReturnedCartItem(TypedDict, total=False):
    """A cart item that is returned, by `position` or by `sku`; without `quantity`, all remaining units."""

    position: NaturalNumber | None
    sku: Sku | None
    quantity: Annotated[_Positive, WithJsonSchema({**_JSON_INTEGER, "minimum": 1})] | None


@with_config(_FORBID)
class Return(TypedDict):
    returnedCartItems: Annotated[list[ReturnedCartItem], Field(fail_fast=True, json_schema_extra={"minItems": 1})]


_SESSION_KEY = Field(json_schema_extra={"minLength": 1}, description="Default: the Kafka key. This field overrides it.")
_EVENT_ID = "Makes the record idempotent among the last 32 accepted eventIds of its session."
_ReturnField = TypedDict("_ReturnField", {"return": Return | None}, total=False)
_NoReturnField = TypedDict("_NoReturnField", {"return": None}, total=False)
"""TypedDicts in functional form: `return` is a keyword of Python and cannot be a class attribute."""


class Head(TypedDict, total=False):
    """The fields beside the body of every update record."""

    integrationId: Annotated[Text1000, _SESSION_KEY] | None
    eventId: Annotated[Text, Field(min_length=1, max_length=255, description=_EVENT_ID)] | None
    occurredAt: Annotated[Instant, Field(description="Default: the record's Kafka timestamp.")] | None
    applicationId: Annotated[Integer, Field(description="Must be the applicationId of the worker.")] | None
    dry: (
        Annotated[Flag, Field(description="Evaluate the update record and change nothing; not allowed in a reopen.")]
        | None
    )
    responseContent: Annotated[Any, Field(description="Accepted and ignored.")]


@with_config(_FORBID)
class UpdateRecord(Head, _ReturnField, total=False):
    """The value of an update record. A Kafka record with a key and without a value deletes the session of the key."""

    type: Annotated[Kind, Field(description="Optional if the record has customerSession or return.")] | None
    customerSession: CustomerSession | None


class PlainUpdateRecord(Head, _ReturnField, total=False):
    """An update record without the ignored fields of a customerSession, for decoding in one pass."""

    type: Kind | None
    customerSession: Changes | None


@with_config(_FORBID)
class BareBody(Head, _Echoed, _NoReturnField, total=False):
    """A session as the value of an update record: the fields of customerSession and of the record in one object."""

    type: None
    customerSession: None


# -------------------------------------------------------------------------------------------------- what a snapshot has

Time = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$", description="UTC, milliseconds.")]
Total = Annotated[float, Field(description="An exact decimal of at most 15 significant digits.")]


@with_config(_FORBID)
class SnapshotItem(TypedDict):
    """A cart item of a session: the units sold, the units returned, and the units that remain."""

    name: NotRequired[str]
    sku: Sku
    quantity: Quantity
    returnedQuantity: NaturalNumber
    remainingQuantity: NaturalNumber
    price: Amount
    category: NotRequired[str]
    product: NotRequired[Product]
    weight: NotRequired[Dimension]
    height: NotRequired[Dimension]
    width: NotRequired[Dimension]
    length: NotRequired[Dimension]
    position: NaturalNumber
    attributes: NotRequired[Attributes]
    additionalCosts: NotRequired[dict[str, AdditionalCost]]


@with_config(_FORBID)
class Snapshot(TypedDict):
    """CustomerSessionV2: the state of a session after an update record. Totals exclude discounts and ignore returns."""

    id: Annotated[
        int, Field(gt=0, lt=2**53, description="partition * 2^40 + offset + 1 of the record that created the session.")
    ]
    created: Time
    integrationId: Annotated[Text1000, Field(min_length=1)]
    applicationId: int
    profileId: Text1000
    storeIntegrationId: NotRequired[Annotated[Text1000, Field(min_length=1)]]
    evaluableCampaignIds: NotRequired[Annotated[list[Integer], Field(min_length=1)]]
    experimentVariantAllocations: NotRequired[Annotated[list[ExperimentVariantAllocation], Field(min_length=1)]]
    couponCodes: NotRequired[Annotated[list[Text100], Field(min_length=1)]]
    referralCode: NotRequired[Annotated[Text100, Field(min_length=1)]]
    loyaltyCards: NotRequired[Annotated[list[str], Field(min_length=1, max_length=1)]]
    state: State
    cartItems: Annotated[list[SnapshotItem], Field(max_length=MAX_ITEMS)]
    additionalCosts: NotRequired[Annotated[dict[str, AdditionalCost], Field(min_length=1)]]
    identifiers: NotRequired[Annotated[list[str], Field(min_length=1, max_length=5)]]
    attributes: Attributes
    firstSession: bool
    updateCount: Annotated[int, Field(ge=1)]
    total: Total
    cartItemTotal: Total
    additionalCostTotal: Total
    cartItemAdditionalCostTotal: Total
    updated: Time
    closurePrediction: NotRequired[Annotated[float, Field(ge=0, le=1)]]


@with_config(_FORBID)
class SnapshotV1(TypedDict):
    """CustomerSession v1: the same session in the older form, for consumers that still read v1."""

    integrationId: Annotated[Text1000, Field(min_length=1)]
    created: Time
    applicationId: int
    profileId: Text1000
    coupon: Text100
    referral: Text100
    state: State
    cartItems: Annotated[list[SnapshotItem], Field(max_length=MAX_ITEMS)]
    identifiers: Annotated[list[str], Field(max_length=5)]
    total: Total
    attributes: Attributes
    firstSession: bool
    updateCount: Annotated[int, Field(ge=1)]
    discounts: Annotated[dict[str, float], Field(max_length=0, description="This worker evaluates no campaigns.")]
    updated: Time


class Session(Struct, kw_only=True, omit_defaults=True, gc=False):
    """The state of a session: the fields of a Snapshot in the same order. A field that is None is not written.

    The cart stays encoded: an update replaces or keeps the whole cart, and only a return decodes it.
    """

    id: int
    created: str
    integrationId: str
    applicationId: int
    profileId: str
    storeIntegrationId: str | None = None
    evaluableCampaignIds: list[int] | None = None
    experimentVariantAllocations: list[Any] | None = None
    couponCodes: list[str] | None = None
    referralCode: str | None = None
    loyaltyCards: list[str] | None = None
    state: State
    cartItems: Raw
    additionalCosts: dict[str, Any] | None = None
    identifiers: list[str] | None = None
    attributes: dict[str, Any]
    firstSession: bool
    updateCount: int
    total: float
    cartItemTotal: float
    additionalCostTotal: float
    cartItemAdditionalCostTotal: float
    updated: str
    closurePrediction: float | None = None


# ---------------------------------------------------------------------------------------------------------- the request


class Cart(Struct, frozen=True, gc=False):
    """An encoded cart, and its totals in billionths of the currency's unit, each rounded once."""

    items: Raw
    item_total: int
    cost_total: int


class Request(Struct, gc=False):
    """An update record that passed all rules which need no session.

    *occurred_at* is in the snapshot's form. *changes* are the fields that an update sets, without cartItems; *cart* holds
    the cartItems. *cost_total* is the sum of the additionalCosts in billionths, rounded once. *returned* are the entries
    of a return. *places* maps the pointers of the contract's table to the pointers of a record in another form.
    """

    kind: Kind | Literal["delete"]
    integration_id: str
    occurred_at: str
    event_id: str | None = None
    dry: bool = False
    changes: dict[str, Any] = {}
    cart: Cart | None = None
    cost_total: int | None = None
    returned: Sequence[ReturnedCartItem] = ()
    places: dict[str, str] = {}
