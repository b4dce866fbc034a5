"""Starts workers with something wrong about them, and has the verifier judge what a crew published."""

import asyncio
import re
import sys
from pathlib import Path

from tests.chaos.verifier import KINDS
from tests.kafka.workers import Crew

_LAUNCH = Path(__file__).with_name("launch.py")
_ROOT = Path(__file__).parents[2]


def launched(*mistakes: str, **wrong: object) -> tuple[str, ...]:
    """Give the command of a worker with these mistakes, and what else launch.py knows to do to it."""
    pairs = [(f"--{name}", str(value)) for name, value in wrong.items()]
    pairs += [("--mistake", name) for name in mistakes]
    return (sys.executable, str(_LAUNCH), *(word for pair in pairs for word in pair))


async def judge(crew: Crew) -> dict[str, int]:
    """Run the verifier over a crew's topics; give what it counts, but the flaws it does not find."""
    told = await run_verifier(crew)
    return {name: count for name, count in told.items() if count and name not in {"records", "outputs"}}


async def run_verifier(crew: Crew) -> dict[str, int]:
    """Run the verifier over a crew's topics; give all that it counts, and print what it says."""
    names = crew.topology
    topics = [f"--{field.replace('_', '-')}={getattr(names, field)}" for field in ("updates", "sessions", "rejections")]
    command = (sys.executable, "-m", "tests.chaos.verifier", f"--brokers={crew.kafka}", *topics)
    process = await asyncio.create_subprocess_exec(
        *command, f"--dry-runs={names.dry_runs}", cwd=_ROOT, stdout=-1, stderr=-1
    )
    said, complaints = await process.communicate()
    print(said.decode(), complaints.decode()[-2000:])
    told = {name: int(count) for name, count in re.findall(r"^([a-z ]+): (\d+)$", said.decode(), re.MULTILINE)}
    assert told.keys() == {"records", "outputs", *KINDS}, "the verifier came to no verdict"
    return told
