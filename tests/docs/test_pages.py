"""The pages say what the code does: the reference, every link, every command and every piece of Python."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from worker.cli import main
from worker.cli.group import STATUSES
from worker.domain.rejections import ROWS
from worker.pipeline.topology import TOPICS
from worker.reference.pages import pages, topology_diagram
from worker.settings.model import Settings
from worker.settings.sources import variable

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README_LINES = 150
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
PROGRAM = ".venv/bin/session-worker"
OTHERS = {
    "docker": "needs a Docker daemon; the compose file has tests of its own",
    ".venv/bin/pytest": "runs tests",
    ".venv/bin/python": "starts a program of the repository; its module has to exist",
}
"""Programs in the documentation that no test of this file runs, and why."""


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[Path, str]]:
    """Return every block of a language, with its page."""
    pattern = re.compile(rf"^ *```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    return [(page, block) for page in PAGES for block in pattern.findall(page.read_text("utf-8"))]


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")


COMMANDS = [
    (page.relative_to(ROOT).as_posix(), shlex.split(line, comments=True))
    for page, block in blocks("sh")
    for line in block.splitlines()
    if shlex.split(line, comments=True)
]


# ------------------------------------------------------------------------------------------------- generated


def test_reference_equals_what_the_code_generates():
    found = {file.name: file.read_text("utf-8") for file in REFERENCE.iterdir()}
    assert found == pages(main, STATUSES), "run `make reference`"


def test_reference_command_writes_the_pages(tmp_path):
    result = CliRunner().invoke(main, ["reference", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()} == pages(main, STATUSES)


def test_reference_has_every_setting_topic_and_code():
    generated = pages(main, STATUSES)
    assert all(f"| `{variable(name)}` |" in generated["settings.md"] for name in Settings.model_fields)
    assert all(f"| {topic.holds} |" in generated["topics.md"] for topic in TOPICS.values())
    assert all(f"| `{code}` |" in generated["rejection-codes.md"] for row in ROWS for code in row)
    assert "| 141 |" in generated["exit-statuses.md"]


def test_readme_has_the_generated_picture_and_is_short():
    readme = (ROOT / "README.md").read_text("utf-8")
    _, _, rest = readme.partition("<!-- topology: begin -->")
    assert rest.partition("<!-- topology: end -->")[0].strip() == topology_diagram()
    assert len(readme.splitlines()) <= README_LINES


# ----------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page}: {link}"


def test_each_page_of_docs_can_be_reached_from_the_readme():
    seen, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#:]+)", prose(page))
        open_pages += [target for link in links if (target := (page.parent / link).resolve()).is_file()]
    assert {page for page in PAGES if "docs" in page.relative_to(ROOT).parts} - seen == set()


# -------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_each_command_exists_with_its_options(page, words):
    """A command of session-worker is parsed by the real command line; it is not run, because most need Kafka."""
    while "=" in words[0]:  # variables before the command
        assert words[0].partition("=")[0] in {variable(name) for name in Settings.model_fields}
        words = words[1:]
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS
    elif words[0] == PROGRAM:
        arguments = words[1 : words.index(">")] if ">" in words else words[1:]
        parse(main, arguments)
    else:
        assert words[0] in OTHERS, (page, words)
        if words[1:2] == ["-m"]:
            module = ROOT.joinpath(*words[2].split("."))
            assert module.is_dir() or module.with_suffix(".py").is_file()


def parse(command: click.Command, arguments: list[str]) -> None:
    """Parse arguments down to the last command; raise click's UsageError if one of them does not exist."""
    while isinstance(command, click.Group):
        name, arguments = arguments[0], arguments[1:]
        assert name in command.commands, name
        command = command.commands[name]
    command.make_context(command.name, list(arguments), **main.context_settings)


def test_commands_that_need_no_kafka_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = re.search(r'^\{"key".*\}$', (ROOT / "docs/concepts/replay.md").read_text("utf-8"), re.MULTILINE)
    assert example
    Path("updates.jsonl").write_text(example[0], "utf-8")
    ran = set()
    for _page, words in COMMANDS:
        if words[0] == PROGRAM and words[1] in {"settings", "replay", "simulate", "schemas"}:
            arguments = words[1 : words.index(">")] if ">" in words else words[1:]
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, (words, result.output)
            ran.add(words[1])
    assert ran >= {"settings", "replay"}
    assert '"s-1"' in Path("snapshots.jsonl").read_text("utf-8")


def test_each_python_block_runs():
    assert blocks("python")
    for page, block in blocks("python"):
        exec(compile(block, str(page), "exec"), {"__name__": "documentation"})
