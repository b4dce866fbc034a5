package peer;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.databind.JsonNode;
import java.math.BigDecimal;
import java.util.Map;

/** A line of the cart, as it comes and as it goes out. */
@JsonIgnoreProperties(ignoreUnknown = true)
@JsonInclude(JsonInclude.Include.NON_NULL)
record CartItem(
    String name,
    String sku,
    int quantity,
    int returnedQuantity,
    int remainingQuantity,
    BigDecimal price,
    String category,
    Map<String, JsonNode> product,
    BigDecimal weight,
    BigDecimal height,
    BigDecimal width,
    BigDecimal length,
    int position,
    Map<String, JsonNode> attributes,
    Map<String, Cost> additionalCosts) {

    CartItem placed(int position) {
        return new CartItem(name, sku, quantity, 0, quantity, price, category, product, weight, height, width, length,
            position, attributes, additionalCosts);
    }
}
