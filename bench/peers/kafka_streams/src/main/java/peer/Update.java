package peer;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.JsonNode;
import java.util.List;
import java.util.Map;

/** An update record; what it leaves out is null. */
@JsonIgnoreProperties(ignoreUnknown = true)
record Update(String integrationId, CustomerSession customerSession) {
    @JsonIgnoreProperties(ignoreUnknown = true)
    record CustomerSession(
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
        Map<String, JsonNode> attributes) {}
}
