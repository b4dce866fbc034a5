"""Distributes the tests over the processes of pytest-xdist."""

from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]


class FixtureScheduling(LoadScopeScheduling):
    """Sends each test alone to the next free process, but sends a file whose tests share a fixture to one process.

    Such a fixture is often a Kafka. (`--dist loadgroup` of pytest-xdist 3.8 groups nothing with pytest 9.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _has_module_fixture(file) else nodeid


@cache
def _has_module_fixture(file: str) -> bool:
    return 'scope="module"' in (ROOT / file).read_text("utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Return the scheduler of `--dist loadscope`; other values stay what pytest-xdist makes of them."""
    return FixtureScheduling(config, log) if config.option.dist == "loadscope" else None
