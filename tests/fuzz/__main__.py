"""Coverage-guided fuzzing of the wire: `make fuzz SECONDS=600`.

What libFuzzer finds that is new is kept under build/fuzz; an input that breaks something is written there, too, and
belongs into tests/fuzz/corpus, where the ordinary tests run it ever after. Needs atheris.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["worker.domain", "worker.codec", "worker.pipeline"]):
    from tests.fuzz.target import run

_CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Fuzz; arguments are libFuzzer's."""
    found = Path("build/fuzz/found")
    found.mkdir(parents=True, exist_ok=True)
    options = ["-timeout=20", "-max_len=8192", "-artifact_prefix=build/fuzz/", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *options, str(found), str(_CORPUS)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
