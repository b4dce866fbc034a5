"""Check the words of docstrings, comments, messages and Markdown pages: `python -m tests.language`.

The rules are those of the project for plain English: a banned word has a plain one beside it, and a docstring begins with
what the code does. Every fault is one line, `file:line: what to write`.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PYTHON: Final = ("worker/**/*.py", "bench/**/*.py")
MARKDOWN: Final = ("*.md", "docs/**/*.md", "tests/**/*.md", "bench/**/*.md")

BANNED: Final = {
    r"told": "write which part sent, returned or set it",
    r"tells? of": "write: reports",
    r"h(?:old|eld)s?(?: [\w*`]+){0,3} against": "write: compare with",
    r"lest": "write: so that … does not",
    r"who(?:m|so)?ever": "name the actor",
    r"anew": "write: again",
    r"mend(?:s|ed|ing)?": "write: fix, or name the remedy",
    r"word of": "write: notice of",
    r"so (?:long|often)(?! as)": "write the quantity and its unit",
    r"by (?:itself|themselves)": "name the actor",
    r"believ(?:e|es|ed|ing)": "write: trusts, or expects",
    r"foret(?:ell|ells|old|elling)": "write: expects",
    r"astray": "write: to another partition",
    r"gone|goes away|went away": "write: deleted",
    r"(?:is|are|be|was|were|been) away": "write: unreachable",
}
"""Banned words as patterns, each with what to write instead."""
_BANNED: Final = re.compile(
    "|".join(rf"\b(?P<w{number}>{word})\b" for number, word in enumerate(BANNED)).replace(" ", r"\s+"), re.IGNORECASE
)
_REMEDIES: Final = tuple(BANNED.values())
_FIRST: Final = re.compile(r"(?:Give|Tell|Say|Take|Let|Name)s?\b")
"""Verbs that do not say what a function does."""
_CODE: Final = re.compile(r"`[^`\n]*`")


def texts_of(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield every comment and every string of a program with its line; True for docstrings.

    A string without a space is data and not a text.
    """
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, False
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(id(node.value))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value, id(node) in docstrings


def faults(path: Path) -> Iterator[str]:
    """Yield the faults in the texts of a file."""
    source = path.read_text("utf-8")
    is_python = path.suffix == ".py"
    texts = texts_of(source) if is_python else [(1, source, False)]
    for first, text, is_docstring in texts:
        if is_docstring and (verb := _FIRST.match(text)):
            yield _fault(path, first, verb[0], "begin with a verb such as Return, Yield, Read, Write, Compute or Raise")
        for found in _BANNED.finditer(text if is_python else _CODE.sub(lambda code: "`" * len(code[0]), text)):
            number = next(index for index in range(len(_REMEDIES)) if found[f"w{index}"])
            yield _fault(path, first + text.count("\n", 0, found.start()), found[0], _REMEDIES[number])


def _fault(path: Path, line: int, word: str, remedy: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {' '.join(word.split())!r}: {remedy}"


def main() -> int:
    """Print the faults of all checked files; return the exit status."""
    paths = sorted({path for pattern in (*PYTHON, *MARKDOWN) for path in ROOT.glob(pattern)})
    own = [path for path in paths if ".venv" not in str(path.relative_to(ROOT)) and "target" not in path.parts]
    found = sorted(fault for path in own for fault in faults(path))
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
