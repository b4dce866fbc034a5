package peer;

import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.streams.processor.StateRestoreListener;

/** Tells what was restored so far, each time that a partition is done. */
final class Restored implements StateRestoreListener {
    private long began;
    private long records;

    @Override
    public synchronized void onRestoreStart(TopicPartition partition, String store, long first, long end) {
        if (began == 0) {
            began = System.nanoTime();
        }
    }

    @Override
    public void onBatchRestored(TopicPartition partition, String store, long end, long count) {
    }

    @Override
    public synchronized void onRestoreEnd(TopicPartition partition, String store, long count) {
        records += count;
        System.out.printf("Restored %d records in %.2f s%n", records, (System.nanoTime() - began) / 1e9);
    }
}
