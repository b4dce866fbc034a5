"""The vendor's own Python client reads what the worker publishes, and the worker folds what the client writes."""

import orjson
import pytest
from talon_one import (
    AdditionalCost,
    CartItem,
    CustomerSession,
    CustomerSessionV2,
    IntegrationRequest,
    NewCustomerSessionV2,
    NewReturn,
    ReturnedCartItem,
    ReturnIntegrationRequest,
)

from worker.codec.records import ConsumerRecord
from worker.domain.limits import Rules
from worker.local.simulator.day import simulate
from worker.pipeline.replay import Replay

V1 = "sessions-v1"
SENT = 1_795_372_800_000


class Shop:
    """Folds one value after another, as `session-worker replay` does."""

    def __init__(self):
        self.replay = Replay(Rules(), V1)
        self.offset = 0

    def fold(self, value, key=b"s-1"):
        """Fold a value; return the session after it. A rejection fails the test."""
        published = self.replay.fold(0, ConsumerRecord(self.offset, SENT + self.offset, key, orjson.dumps(value)))
        self.offset += 1
        assert [record.topic for record in published] == ["customer-sessions", V1], published
        return orjson.loads(published[0].value or b"null")


@pytest.fixture(scope="module")
def day():
    """Return what the worker publishes of a simulated day, by topic."""
    published: dict[str, list[bytes]] = {"customer-sessions": [], V1: []}
    replay = Replay(Rules(), V1)
    for records in replay.lines(orjson.dumps(line) for line in simulate(8_000, 3)):
        for record in records:
            if record.topic in published and record.value is not None:
                published[record.topic].append(record.value)
    assert min(map(len, published.values())) > 7_000
    return published


def test_client_reads_every_snapshot_of_a_day(day):
    for value in day["customer-sessions"]:
        session = CustomerSessionV2.from_json(value.decode())
        sent = orjson.loads(value)
        assert (session.integration_id, session.update_count) == (sent["integrationId"], sent["updateCount"])
        assert (session.id, session.total, session.state) == (sent["id"], sent["total"], sent["state"])
        assert [item.price for item in session.cart_items] == [item["price"] for item in sent["cartItems"]]


def test_client_reads_every_v1_snapshot_of_a_day(day):
    for value in day[V1]:
        session = CustomerSession.from_json(value.decode())
        sent = orjson.loads(value)
        assert (session.integration_id, session.update_count) == (sent["integrationId"], sent["updateCount"])
        assert (session.total, session.state, session.discounts) == (sent["total"], sent["state"], {})


CART = [
    CartItem(sku="cup", quantity=3, price=0.1, name="Tasse", category="tableware", weight=0.25),
    CartItem(sku="tea", quantity=1, price=4.99, attributes={"organic": True}, additionalCosts={"tax": {"price": 0.35}}),
]
SESSION = NewCustomerSessionV2(
    profileId="ada",
    storeIntegrationId="store-8",
    couponCodes=["SPRING"],
    referralCode="BOB-4",
    loyaltyCards=["LC-1"],
    cartItems=CART,
    additionalCosts={"shipping": AdditionalCost(price=4.9)},
    identifiers=["till-3"],
    attributes={"channel": "web"},
)


@pytest.mark.parametrize(
    "body",
    [IntegrationRequest(customerSession=SESSION, responseContent=["customerSession"]), SESSION],
    ids=["request", "bare session"],
)
def test_body_made_with_the_client_is_folded(body):
    session = Shop().fold(orjson.loads(body.to_json()))
    assert (session["profileId"], session["couponCodes"], session["total"]) == ("ada", ["SPRING"], 10.54)
    assert session["cartItems"][1]["additionalCosts"] == {"tax": {"price": 0.35}}


def test_session_that_the_client_read_and_sends_back_is_folded():
    shop = Shop()
    first = shop.fold(orjson.loads(SESSION.to_json()))
    echoed = CustomerSessionV2.from_dict(first).to_dict()
    second = shop.fold(orjson.loads(orjson.dumps(echoed)))
    assert second == {**first, "updateCount": 2, "updated": second["updated"]}


def test_v1_session_that_the_client_read_and_sends_back_is_folded():
    shop = Shop()
    first = shop.fold({"customerSession": {"couponCodes": ["A", "B"], "cartItems": [CART[0].to_dict()]}})
    v1 = CustomerSession.from_dict(
        {name: first[name] for name in ("integrationId", "created", "applicationId", "firstSession", "updateCount")}
        | {"coupon": "A", "referral": "", "discounts": {}, "state": "open", "updated": first["updated"]}
        | {"cartItems": first["cartItems"], "total": first["total"]}
    )
    second = shop.fold(orjson.loads(orjson.dumps(v1.to_dict())))
    assert second == {**first, "updateCount": 2, "updated": second["updated"]}


def test_return_made_with_the_client_is_folded():
    shop = Shop()
    shop.fold({"customerSession": {"state": "closed", "cartItems": [item.to_dict() for item in CART]}})
    returned = NewReturn(returnedCartItems=[ReturnedCartItem(position=0, quantity=2)])
    session = shop.fold(orjson.loads(ReturnIntegrationRequest.from_dict({"return": returned.to_dict()}).to_json()))
    assert session["state"] == "partially_returned"
    assert [item["remainingQuantity"] for item in session["cartItems"]] == [1, 1]
