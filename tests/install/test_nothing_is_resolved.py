"""Every install of the project takes the versions of its lock, whatever is released later.

Each test installs through a package index of its own: the real one, in which every project has one more release, the
newest. An install that resolves anything takes that release, and fails because no lock has its hash.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parents[2]
NEWEST = "9999"
INDEX_JSON = "application/vnd.pypi.simple.v1+json"
INSTALL_SECONDS = 600
SOURCES = ("Dockerfile", "Makefile", "README.md", "LICENSE", "pyproject.toml", "requirements.lock")
FOLDERS = (".ci", "deploy", "worker", "tests/fuzz", "bench/peers")


class _Index(BaseHTTPRequestHandler):
    """Serves /simple/NAME/ with one more release than the real index, and that release's wheel."""

    upstream: str
    asked: set[str]

    def do_GET(self) -> None:
        kind, name = self.path.strip("/").split("/")[:2]
        if kind == "wheels":
            self._answer("application/zip", _wheel(name))
            return
        self.asked.add(name)
        page = f"{self.upstream}/{name}/"
        with urlopen(
            Request(page, headers={"Accept": INDEX_JSON}), timeout=60
        ) as answer:  # trusts what the system trusts
            project = json.load(answer)
        for file in project["files"]:
            file["url"] = urljoin(page, file["url"])
        wheel = f"{name.replace('-', '_')}-{NEWEST}-py3-none-any.whl"
        project["files"].append({"filename": wheel, "url": f"/wheels/{name}/{wheel}", "hashes": {}})
        self._answer(INDEX_JSON, json.dumps(project).encode())

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def _wheel(name: str) -> bytes:
    """Return a wheel of the newest release: it has a name and a version, and contains nothing."""
    folder = f"{name.replace('-', '_')}-{NEWEST}.dist-info"
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as wheel:
        wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {NEWEST}\n")
        wheel.writestr(
            f"{folder}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{folder}/RECORD", "")
    return written.getvalue()


@pytest.fixture
def index():
    """Yield the index's address and the set of the projects that an installer asked it for."""
    configured = subprocess.run(
        (sys.executable, "-m", "pip", "config", "get", "global.index-url"), capture_output=True, text=True, check=False
    )
    default = "import pip._internal.models.index as index; print(index.PyPI.simple_url)"
    asked_pip = subprocess.run((sys.executable, "-c", default), capture_output=True, text=True, check=True)
    upstream = os.environ.get("PIP_INDEX_URL") or configured.stdout.strip() or asked_pip.stdout.strip()
    _Index.upstream, _Index.asked = upstream.rstrip("/"), set()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple", _Index.asked
        server.shutdown()


@pytest.fixture
def clone(tmp_path):
    """Return a copy of what a fresh clone installs from."""
    for name in SOURCES:
        shutil.copy(ROOT / name, tmp_path / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".venv*", "__pycache__", "target"))
    return tmp_path


def _run(command: list[str], clone: Path, address: str, path: str | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {"PIP_INDEX_URL": address, "PATH": path or environment["PATH"]}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"  # pip would ask the index about itself
    done = subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def _pinned(*locks: Path) -> dict[str, str]:
    """Return the version that the locks give each project, by its normalized name."""
    text = "\n".join(lock.read_text(encoding="utf-8") for lock in locks)
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE))


def _installed(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    listed = subprocess.run((python, "-c", code), capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in (line.partition("==") for line in listed)
    }


@pytest.mark.timeout(INSTALL_SECONDS)
@pytest.mark.parametrize(
    ("environment", "locks"),
    [
        (".venv", ["requirements.lock"]),
        ("tests/fuzz/.venv-fuzz", ["requirements.lock", "tests/fuzz/requirements.txt"]),
        ("bench/peers/.venv-quix", ["bench/peers/quix-requirements.txt"]),
        (".venv-audit", [".ci/audit.lock"]),
    ],
)
def test_make_installs_the_locked_versions(environment, locks, index, clone):
    address, asked = index
    _run(["make", f"PYTHON={sys.executable}", f"{environment}/.ready"], clone, address)
    pinned = _pinned(*(clone / lock for lock in locks))
    installed = _installed(clone / environment / "bin/python")
    bundled = {"pip", "setuptools", "session-worker"} - pinned.keys()  # venv brings the first two
    assert {name: version for name, version in installed.items() if name not in bundled}.items() <= pinned.items()
    assert asked <= pinned.keys()
    assert len(asked) > 10


@pytest.mark.timeout(INSTALL_SECONDS)
def test_image_installs_the_locked_versions(index, clone):
    address, asked = index
    tools, target, wheels = clone / "tools", clone / "opt", clone / "wheels"
    subprocess.run((sys.executable, "-m", "venv", tools), check=True)
    stage = (clone / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1]
    for command in re.findall(r"^RUN ((?:.*\\\n)*.*)$", stage, re.MULTILINE):
        moved = command.replace("/opt/session-worker", str(target)).replace("/tmp/wheel", str(wheels))
        _run(["sh", "-ec", moved], clone, address, f"{tools}/bin:{os.environ['PATH']}")
    pinned = _pinned(clone / "deploy/image.lock")
    installed = _installed(target / "bin/python")
    assert installed.pop("session-worker")
    assert installed.items() <= pinned.items()
    assert {"faust-streaming", "rocksdict", "cramjam"} <= installed.keys()
    assert asked <= _pinned(clone / "deploy/image.lock", clone / "deploy/build.lock").keys()
