"""Jars are fetched once, whole or not at all, from a Maven repository: here one of a few bytes, on the loopback."""

import multiprocessing
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from worker.local.jars import NotFetched, jars

POM = """<project>
  <modelVersion>4.0.0</modelVersion><groupId>shop</groupId><artifactId>{name}</artifactId><version>1</version>
  <dependencies>{needs}</dependencies>
</project>"""
NEEDS_TILL = "<dependency><groupId>shop</groupId><artifactId>till</artifactId><version>1</version></dependency>"
FILES = {
    "/shop/cart/1/cart-1.pom": POM.format(name="cart", needs=NEEDS_TILL).encode(),
    "/shop/cart/1/cart-1.jar": b"cart" * 50_000,
    "/shop/till/1/till-1.pom": POM.format(name="till", needs="").encode(),
    "/shop/till/1/till-1.jar": b"till" * 50_000,
}


class Remote(ThreadingHTTPServer):
    """A Maven repository that remembers what was asked of it, and can lose the end of a file or change it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked = []
        self.cut = self.changed = None

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is no news


class Answer(BaseHTTPRequestHandler):
    server: Remote
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.begin()

    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.begin()
        if self.path == self.server.cut:
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.path == self.server.changed:
            content = content[::-1]
        self.wfile.write(content)

    def begin(self):
        path = self.path.removesuffix(".sha1")
        found = FILES.get(path)
        content = sha1(found or b"").hexdigest().encode() if path != self.path else found or b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *_):
        pass


@pytest.fixture
def remote():
    with Remote() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WHOLE = {"cart-1.jar": FILES["/shop/cart/1/cart-1.jar"], "till-1.jar": FILES["/shop/till/1/till-1.jar"]}


def test_an_artifact_comes_with_all_it_needs_and_only_once(remote, tmp_path):
    folder = jars(tmp_path / "cart-1", ["shop:cart:1"], remote.url)
    assert content(folder) == WHOLE
    asked = len(remote.asked)
    assert jars(folder, ["shop:cart:1"], remote.url) == folder
    assert len(remote.asked) == asked


@pytest.mark.parametrize("fault", ["cut", "changed"])
def test_a_file_that_did_not_come_whole_is_fetched_again_and_the_others_are_not(remote, tmp_path, fault):
    folder = tmp_path / "cart-1"
    setattr(remote, fault, "/shop/till/1/till-1.jar")
    with pytest.raises(NotFetched, match="cart-1"):
        jars(folder, ["shop:cart:1"], remote.url)
    assert not folder.exists()
    remote.cut = remote.changed = None
    remote.asked.clear()
    assert content(jars(folder, ["shop:cart:1"], remote.url)) == WHOLE
    assert remote.asked == ["/shop/till/1/till-1.jar", "/shop/till/1/till-1.jar.sha1"]


def test_what_is_not_there_is_named(remote, tmp_path):
    with pytest.raises(NotFetched, match="bell"):
        jars(tmp_path / "bell-1", ["shop:bell:1"], remote.url)


def test_processes_that_fetch_at_once_do_not_disturb_each_other(remote, tmp_path):
    started = multiprocessing.get_context("spawn")
    fetches = [started.Process(target=jars, args=(tmp_path / "cart-1", ["shop:cart:1"], remote.url)) for _ in range(3)]
    for fetch in fetches:
        fetch.start()
    for fetch in fetches:
        fetch.join()
        assert fetch.exitcode == 0
        fetch.close()
    assert content(tmp_path / "cart-1") == WHOLE
    assert sorted(path for path in remote.asked if path.endswith(".jar")) == sorted(
        path for path in FILES if path.endswith(".jar")
    )
