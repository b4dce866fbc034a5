package peer;

import java.math.BigDecimal;
import java.util.Map;

/** An additional cost, of a cart item or of the session. */
record Cost(BigDecimal price) {
    static BigDecimal sum(Map<String, Cost> costs) {
        var sum = BigDecimal.ZERO;
        if (costs != null) {
            for (Cost cost : costs.values()) {
                sum = sum.add(cost.price());
            }
        }
        return sum;
    }
}
