package peer;

import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.databind.JsonNode;
import java.math.BigDecimal;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A snapshot, which is also the state. */
@JsonInclude(JsonInclude.Include.NON_NULL)
record Session(
    long id,
    String created,
    String integrationId,
    long applicationId,
    String profileId,
    String storeIntegrationId,
    List<Long> evaluableCampaignIds,
    List<JsonNode> experimentVariantAllocations,
    List<String> couponCodes,
    String referralCode,
    List<String> loyaltyCards,
    String state,
    List<CartItem> cartItems,
    Map<String, Cost> additionalCosts,
    List<String> identifiers,
    Map<String, JsonNode> attributes,
    int updateCount,
    BigDecimal total,
    BigDecimal cartItemTotal,
    BigDecimal additionalCostTotal,
    BigDecimal cartItemAdditionalCostTotal,
    String updated) {

    private static final DateTimeFormatter TIME =
        DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'").withZone(ZoneOffset.UTC);

    static Session created(long id, String integrationId, long timestamp) {
        String at = TIME.format(Instant.ofEpochMilli(timestamp));
        BigDecimal zero = BigDecimal.ZERO;
        return new Session(id, at, integrationId, 1, "", null, null, null, null, null, null, "open", List.of(), null,
            null, Map.of(), 0, zero, zero, zero, zero, at);
    }

    /** Apply what is given; null keeps what the session has. */
    Session with(Update.CustomerSession given, long timestamp) {
        String at = TIME.format(Instant.ofEpochMilli(timestamp));
        var items = given.cartItems() == null ? cartItems : placed(given.cartItems());
        var costs = or(given.additionalCosts(), additionalCosts);
        var itemTotal = BigDecimal.ZERO;
        var itemCostTotal = BigDecimal.ZERO;
        for (CartItem item : items) {
            var quantity = BigDecimal.valueOf(item.quantity());
            itemTotal = itemTotal.add(item.price().multiply(quantity));
            if (item.additionalCosts() != null) {
                itemCostTotal = itemCostTotal.add(Cost.sum(item.additionalCosts()).multiply(quantity));
            }
        }
        var costTotal = Cost.sum(costs);
        return new Session(
            id,
            created,
            integrationId,
            applicationId,
            or(given.profileId(), profileId),
            or(given.storeIntegrationId(), storeIntegrationId),
            or(given.evaluableCampaignIds(), evaluableCampaignIds),
            or(given.experimentVariantAllocations(), experimentVariantAllocations),
            or(given.couponCodes(), couponCodes),
            or(given.referralCode(), referralCode),
            or(given.loyaltyCards(), loyaltyCards),
            or(given.state(), state),
            items,
            costs,
            or(given.identifiers(), identifiers),
            given.attributes() == null ? attributes : merged(given.attributes()),
            updateCount + 1,
            itemTotal.add(costTotal).add(itemCostTotal),
            itemTotal,
            costTotal,
            itemCostTotal,
            at.compareTo(updated) > 0 ? at : updated);
    }

    private static <T> T or(T given, T kept) {
        return given == null ? kept : given;
    }

    private static List<CartItem> placed(List<CartItem> given) {
        var items = new ArrayList<CartItem>(given.size());
        for (CartItem item : given) {
            items.add(item.placed(items.size()));
        }
        return items;
    }

    private Map<String, JsonNode> merged(Map<String, JsonNode> given) {
        var merged = new LinkedHashMap<>(attributes);
        merged.putAll(given);
        merged.values().removeIf(JsonNode::isNull);
        return merged;
    }
}
