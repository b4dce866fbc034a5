"""The check of `make lint` finds the words that the project's plain English excludes."""

import pytest

from tests import language


def faults_of(tmp_path, monkeypatch, name: str, text: str) -> list[str]:
    monkeypatch.setattr(language, "ROOT", tmp_path)
    file = tmp_path / name
    file.write_text(text, "utf-8")
    return [fault.rpartition(": ")[0].removesuffix(": write") for fault in language.faults(file)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""Return a.\n\nIt is told."""\n', ["a.py:3: 'told'"]),
        ("a = 1  # made anew\n", ["a.py:1: 'anew'"]),
        ('raise ValueError(f"the topic {1} is gone")\n', ["a.py:1: 'gone'"]),
        ('log("the broker is away")\n', ["a.py:1: 'is away'"]),
        ('def f():\n    """Give a number."""\n', ["a.py:2: 'Give'"]),
        ('"""Return what clients hold\nagainst it."""\n', ["a.py:1: 'hold against'"]),
        ('told = {"told": "right away, as long as it is so"}\n', []),
        ('"""Return a name."""\n', []),
    ],
)
def test_fault_in_python_has_line_and_word(tmp_path, monkeypatch, text, found):
    assert faults_of(tmp_path, monkeypatch, "a.py", text) == found


def test_fault_in_markdown_has_line_outside_code(tmp_path, monkeypatch):
    text = "# A\n\nRead `told` first.\n\nIt ends by itself.\n"
    assert faults_of(tmp_path, monkeypatch, "a.md", text) == ["a.md:5: 'by itself'"]
