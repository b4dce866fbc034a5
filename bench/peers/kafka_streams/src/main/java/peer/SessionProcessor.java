package peer;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.module.blackbird.BlackbirdModule;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.invoke.MethodHandles;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;

/** Folds update records into snapshots; a snapshot is encoded once, for the store and the topic. */
final class SessionProcessor implements FixedKeyProcessor<String, byte[], byte[]> {
    static final String STORE = "sessions";

    private static final JsonMapper JSON = JsonMapper.builder()
        .addModule(new BlackbirdModule(MethodHandles::lookup))
        .enable(StreamReadFeature.USE_FAST_BIG_NUMBER_PARSER)
        .enable(JsonGenerator.Feature.WRITE_BIGDECIMAL_AS_PLAIN)
        .build();
    private static final ObjectReader UPDATE = JSON.readerFor(Update.class);
    private static final ObjectReader SESSION = JSON.readerFor(Session.class);
    private static final ObjectWriter SNAPSHOT = JSON.writerFor(Session.class);

    private FixedKeyProcessorContext<String, byte[]> context;
    private KeyValueStore<String, byte[]> sessions;

    @Override
    public void init(FixedKeyProcessorContext<String, byte[]> context) {
        this.context = context;
        sessions = context.getStateStore(STORE);
    }

    @Override
    public void process(FixedKeyRecord<String, byte[]> record) {
        try {
            Update update = UPDATE.readValue(record.value());
            byte[] stored = sessions.get(record.key());
            Session session = stored == null ? created(update, record.timestamp()) : SESSION.readValue(stored);
            byte[] snapshot = SNAPSHOT.writeValueAsBytes(session.with(update.customerSession(), record.timestamp()));
            sessions.put(record.key(), snapshot);
            context.forward(record.withValue(snapshot));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private Session created(Update update, long timestamp) {
        var origin = context.recordMetadata().orElseThrow();
        return Session.created(((long) origin.partition() << 40) + origin.offset() + 1, update.integrationId(), timestamp);
    }
}
