"""`make chaos`: a long run, and its table; exit status 1 when the verifier finds a flaw."""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import FAULTS, schedule
from tests.chaos.suite import run

_MANY = 10_000
"""More faults than there are minutes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, help="faults; 100 by default, or as many as the minutes allow")
    parser.add_argument("--minutes", type=float, help="begin no fault after so many minutes")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--only", action="append", help="a kind of fault; all by default")
    parser.add_argument("--logs", type=Path, help="a new folder for what workers and brokers write")
    given = parser.parse_args()
    if given.logs and given.logs.exists() and any(given.logs.iterdir()):
        parser.error(f"--logs {given.logs}: the folder is not empty; name a new one")
    for name in ("aiokafka", "worker.kafka.connection"):  # brokers are unreachable all the time
        logging.getLogger(name).setLevel(logging.CRITICAL)
    chosen = tuple(it for it in FAULTS if not given.only or it.__name__ in given.only)
    with contextlib.ExitStack() as opened:
        folder = given.logs or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        seconds = given.minutes * 60 if given.minutes else float("inf")
        rounds = given.rounds or (_MANY if given.minutes else 100)
        print(f"seed {given.seed}", flush=True)
        report = asyncio.run(run(schedule(rounds, given.seed, chosen), given.seed, given.rate, folder, seconds))
    print(report.table())
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
