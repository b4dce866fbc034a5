"""The nouns of the contract as TypedDicts with their limits.

pydantic judges update records by these types, `structs` derives from them what reads records fast, and `schemas/` is
generated from them, so a limit stands here and nowhere else. Fields are declared in the order in which a snapshot has them.
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
from typing_extensions import TypedDict, get_type_hints  # pydantic wants these before Python 3.12

from worker.domain.instants import to_instant
from worker.domain.limits import AMOUNT_LIMIT, INTEGER_MAX, INTEGER_MIN, MAX_ITEMS, MAX_TEXT, MAX_UNITS

State = Literal["open", "closed", "cancelled", "partially_returned"]
Kind = Literal["update", "return", "reopen"]


def _integer(minimum: int = INTEGER_MIN) -> GetPydanticSchema:
    """Take `2`, `2.0` and `2e0` for the integer 2, but neither `"2"` nor `true`."""
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
        description="Free-form; an integer has 64 bits, or a double keeps all its digits; any other number is a double."
    ),
]


class EmptyArray:
    """Marks an object that may arrive as an empty array, because PHP writes empty objects that way."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read `[]` as `{}`."""
        return core_schema.no_info_before_validator_function(_as_object, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe both forms."""
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
    """A line of the cart as it arrives."""

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
    """What an update may ask of a session."""

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
        Annotated[Text100, Field(description="The v1 name: one couponCode, or none when empty; the first one is kept.")]
        | None
    )
    referral: Annotated[Text100, Field(description="The v1 name of referralCode.")] | None


class _Echoed(Changes, total=False):
    """And what a client sends back that received a session."""

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
    """What an update asks of a session; omitted or null keeps what the session has."""

    integrationId: Annotated[Any, _IGNORED]
    applicationId: Annotated[Any, _IGNORED]


SESSION_FIELDS = frozenset(get_type_hints(Changes))
"""What an update may ask of a session. One of these makes an object a bare body."""
IGNORED_SESSION_FIELDS = frozenset(get_type_hints(CustomerSession)) - SESSION_FIELDS


@with_config(_FORBID)
class ReturnedCartItem(TypedDict, total=False):
    """Names a line by `position` or by `sku`; without `quantity`, all that remains of it."""

    position: NaturalNumber | None
    sku: Sku | None
    quantity: Annotated[_Positive, WithJsonSchema({**_JSON_INTEGER, "minimum": 1})] | None


@with_config(_FORBID)
class Return(TypedDict):
    returnedCartItems: Annotated[list[ReturnedCartItem], Field(fail_fast=True, json_schema_extra={"minItems": 1})]


_SESSION_KEY = Field(json_schema_extra={"minLength": 1}, description="Left out: the Kafka key. It wins over the key.")
_EVENT_ID = "Makes the record idempotent among the last 32 accepted of its session."
_ReturnField = TypedDict("_ReturnField", {"return": Return | None}, total=False)
_NoReturnField = TypedDict("_NoReturnField", {"return": None}, total=False)
"""A field named by a keyword of Python can only be declared this way."""


class Head(TypedDict, total=False):
    """What stands beside the body of every update record."""

    integrationId: Annotated[Text1000, _SESSION_KEY] | None
    eventId: Annotated[Text, Field(min_length=1, max_length=255, description=_EVENT_ID)] | None
    occurredAt: Annotated[Instant, Field(description="Left out: the record's Kafka timestamp.")] | None
    applicationId: Annotated[Integer, Field(description="Must be the worker's own.")] | None
    dry: Annotated[Flag, Field(description="Evaluate and change nothing; not on a reopen.")] | None
    responseContent: Annotated[Any, Field(description="Accepted and ignored.")]


@with_config(_FORBID)
class UpdateRecord(Head, _ReturnField, total=False):
    """The value of an update record; a Kafka record without a value deletes the session of its key."""

    type: Annotated[Kind, Field(description="May be left out when customerSession or return tells it.")] | None
    customerSession: CustomerSession | None


class PlainUpdateRecord(Head, _ReturnField, total=False):
    """An update record without what is accepted and ignored in a customerSession: what is read in one go."""

    type: Kind | None
    customerSession: Changes | None


@with_config(_FORBID)
class BareBody(Head, _Echoed, _NoReturnField, total=False):
    """A session as the value of an update record: what would be inside customerSession, and the record's own fields."""

    type: None
    customerSession: None


# -------------------------------------------------------------------------------------------------- what a snapshot has

Time = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$", description="UTC, milliseconds.")]
Total = Annotated[float, Field(description="An exact decimal of at most 15 significant digits.")]


@with_config(_FORBID)
class SnapshotItem(TypedDict):
    """A line of a session's cart: what was sold, what was returned of it, what remains."""

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
    """CustomerSessionV2: the state of a session after an update record, totals before discounts and as sold."""

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
    """CustomerSession v1: the same session in the older form, for readers that have not moved on."""

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
    """The fold's state: a Snapshot, field by field in its order; one that is None is not written.

    The cart stays as it is written: an update replaces it or keeps it, and only a return looks at it.
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
    """A whole cart as a snapshot writes it, with its totals in billionths of the currency's unit, each rounded once."""

    items: Raw
    item_total: int
    cost_total: int


class Request(Struct, gc=False):
    """An update record that no rule without the session's state refuses.

    *occurred_at* is in the snapshot's form. *changes* is what an update gives, without cartItems, which *cart* holds; *cost_total* is the sum of its additionalCosts in billionths, rounded once. *returned* are a return's entries. *places*
    is where the record has its fields, if it arrived in another form than the contract's table.
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
