"""Feeds for the driver: the simulator's traffic over several partitions, some of it astray."""

import random

from worker.local.simulator.day import simulate
from worker.pipeline.partitioner import partition_of
from worker.testing import Update


def feed(count: int, seed: int, partitions: int) -> list[Update]:
    """Take *count* simulated update records; a tenth of the sessions come through one wrong partition, some unkeyed.

    All records of a session are strays or none is, so that their order is the same in every interleaving.
    """
    chance = random.Random(seed)
    updates = []
    astray: dict[str, int] = {}
    for line in simulate(count, seed):
        key, value = line["key"], line["value"]
        raw = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        headers = tuple((name, text.encode()) for name, text in line.get("headers", {}).items())
        integration_id = (raw.get("integrationId") if isinstance(raw, dict) else None) or key
        if not isinstance(integration_id, str):
            updates.append(Update(raw, key, 0, line["timestamp"], headers))
            continue
        home = partition_of(integration_id.encode(), partitions)
        if integration_id not in astray:
            astray[integration_id] = chance.randrange(1, 2 * partitions) if chance.random() < 0.1 else 0
        if astray[integration_id] % partitions == 0:
            updates.append(Update(raw, key, home, line["timestamp"], headers))
            continue
        if astray[integration_id] > partitions and isinstance(raw, dict):
            raw, key = {**raw, "integrationId": integration_id}, None
        partition = (home + astray[integration_id]) % partitions
        updates.append(Update(raw, key, partition, line["timestamp"], headers))
    return updates
