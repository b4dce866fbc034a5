"""The whole corpus of the fuzzer, once through its target, and without the fuzzer."""

from pathlib import Path

import pytest

from tests.fuzz.target import records, run

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_nothing_that_was_ever_found_breaks_the_wire(path):
    run(path.read_bytes())


def test_the_corpus_reaches_every_topic_and_takes_keys_and_values_away():
    sent = [it for path in CORPUS for it in records(path.read_bytes())]
    assert {topic for topic, _update in sent} == {"updates", "rekeyed", "claims", "verdicts"}
    assert any(update.key is None for _topic, update in sent)
    assert any(update.value is None for _topic, update in sent)
    assert any(name == "worker-origin" for _topic, update in sent for name, _value in update.headers)
