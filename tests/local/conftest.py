"""What tests of the commands share."""

import signal

import pytest


@pytest.fixture
def heeded_hangups():
    """Undo what nohup does to the tests' own process: a command that inherits an ignored SIGHUP keeps ignoring it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
