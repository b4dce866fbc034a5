"""Stock Faust: one agent, one table in memory, a send for every record: `python -m bench.peers.stock_faust host:port`.

The default is at-least-once, which is also Faust's fastest mode; `--guarantee exactly_once` selects exactly-once.
"""

import tempfile

import click
import faust

from bench.peers.session import fold

GROUP = "stock-faust"


def app(kafka: str, folder: str, guarantee: str, partitions: int) -> faust.App:
    """Return the app of a typical author of Faust."""
    made = faust.App(
        GROUP,
        broker=f"aiokafka://{kafka}",
        store="memory://",
        value_serializer="json",
        processing_guarantee=guarantee,
        topic_partitions=partitions,  # of the changelog; a table has the partitions of its agent's topic
        topic_disable_leader=True,
        producer_linger=0.005,
        producer_max_batch_size=128 << 10,
        stream_buffer_maxsize=16_384,
        web_enabled=False,
        datadir=folder,
    )
    updates = made.topic("session-updates", key_type=str)
    snapshots = made.topic("customer-sessions", key_type=str)
    sessions = made.Table("sessions", key_type=str, partitions=partitions)

    @made.agent(updates)
    async def follow(stream: faust.Stream) -> None:
        async for event in stream.events():
            at = event.message
            session = fold(
                sessions.get(event.key),
                event.value,
                partition=at.partition,
                offset=at.offset,
                milliseconds=round(at.timestamp * 1000),
            )
            sessions[event.key] = session
            await snapshots.send(key=event.key, value=session)

    return made


@click.command()
@click.argument("kafka")
@click.option("--guarantee", type=click.Choice(["at_least_once", "exactly_once"]), default="at_least_once")
@click.option("--partitions", default=8)
def main(kafka: str, guarantee: str, partitions: int) -> None:
    """Run the app until SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        faust.Worker(app(kafka, folder, guarantee, partitions), loglevel="info").execute_from_commandline()


if __name__ == "__main__":
    main()
