package peer;

import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

/** The same job in Kafka Streams, exactly once; every argument is a system property. */
public final class Main {
    public static void main(String[] args) {
        var streams = new KafkaStreams(topology(System.getProperty("store", "rocksdb")), settings());
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                System.out.println("RUNNING");
            } else if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1); // the cause is in the log
            }
        });
        streams.setGlobalStateRestoreListener(new Restored());
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(
            CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP)
                .withTimeout(Duration.ofSeconds(20)))));
        streams.start();
    }

    static Topology topology(String store) {
        var builder = new StreamsBuilder();
        var supplier = switch (store) {
            case "rocksdb" -> Stores.persistentKeyValueStore(SessionProcessor.STORE);
            case "memory" -> Stores.inMemoryKeyValueStore(SessionProcessor.STORE);
            default -> throw new IllegalArgumentException("store is memory or rocksdb, not " + store);
        };
        builder.addStateStore(
            Stores.keyValueStoreBuilder(supplier, Serdes.String(), Serdes.ByteArray()).withCachingDisabled());
        builder.stream("session-updates", Consumed.with(Serdes.String(), Serdes.ByteArray()))
            .processValues(SessionProcessor::new, SessionProcessor.STORE)
            .to("customer-sessions", Produced.with(Serdes.String(), Serdes.ByteArray()));
        return builder.build();
    }

    static Properties settings() {
        var settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getProperty("bootstrap.servers", "localhost:9092"));
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getProperty("application.id", "kafka-streams"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getProperty("state.dir", "state"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, System.getProperty("threads", "1"));
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, System.getProperty("commit.interval.ms", "100"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 128 * 1024);
        return settings;
    }
}
