"""The runbook has a heading for each message with which the worker ends, and for each of its warnings."""

import re

from tests.docs.messages import CAUGHT, FRAGMENTS, PARTS, WORKER, codes_with_a_remedy, functions, messages, texts

RUNBOOK = (WORKER.parent / "docs" / "operate" / "runbook.md").read_text("utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", RUNBOOK, re.MULTILINE)
FEWEST_MESSAGES = 60
"""Fewer than this shows that the collection no longer finds what the code writes."""


def matches(heading: str, text: str) -> bool:
    """Return True if the parts of a heading stand in a text, in their order."""
    return re.search(".*".join(re.escape(part.strip()) for part in heading.split("…")), text, re.DOTALL) is not None


def test_each_message_of_the_worker_has_a_heading():
    assert len(messages()) >= FEWEST_MESSAGES
    without = [f"{place}: {text}" for text, place in messages() if not any(matches(it, text) for it in HEADINGS)]
    assert not without, "docs/operate/runbook.md has no heading for:\n" + "\n".join(without)


def test_each_heading_is_part_of_a_message():
    unused = [heading for heading in HEADINGS if not any(matches(heading, text) for text, _place in messages())]
    assert not unused, "no message of the worker has these headings any more; change them:\n" + "\n".join(unused)
    assert len(HEADINGS) == len(set(HEADINGS))


def test_each_heading_has_enough_words_to_be_found():
    assert not [heading for heading in HEADINGS if len(heading.replace("…", "").strip()) < 12]


def test_each_heading_has_meaning_safety_and_action():
    for heading, body in zip(HEADINGS, re.split(r"^### .+$", RUNBOOK, flags=re.MULTILINE)[1:], strict=True):
        for part in ("Meaning", "Safe now", "Do"):
            assert re.search(rf"^- \*\*{part}:\*\* \S", body, re.MULTILINE), (heading, part)


def test_each_error_code_with_a_remedy_is_in_the_runbook():
    assert codes_with_a_remedy()
    assert {code for code in codes_with_a_remedy() if f"| `{code}` |" not in RUNBOOK} == set()


def test_what_the_collection_leaves_out_still_exists():
    assert set(PARTS) <= functions()
    assert {it for it in FRAGMENTS if not any(text.startswith(it) for text, _place in texts())} == set()
    source = "\n".join(file.read_text("utf-8") for file in WORKER.rglob("*.py"))
    assert {
        name
        for name in CAUGHT
        if f"raise {name}" not in source and f" {name} if" not in source and f"({name}" not in source
    } == set()
