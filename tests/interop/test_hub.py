# SPDX-License-Identifier: Apache-2.0
"""The Hub's cache as huggingface_hub leaves it, and addresses, against a local fake."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from ldm_jax.interop.convert import import_model
from ldm_jax.interop.hub import find_source
from tests.interop import small

COMMIT, OTHER = "a" * 40, "b" * 40


def cached(root, files, commit=COMMIT):
    """A repository's folder: every file of the snapshot is a link to a blob."""
    home = root / "models--someone--digits"
    for name, data in files.items():
        blob = home / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = home / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return home


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A diffusers folder's files, by relative path."""
    folder = tmp_path_factory.mktemp("model")
    small.pipeline(folder, small.PIXELS)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_repository_and_its_snapshot_are_read_through_their_links(files, tmp_path):
    home = cached(tmp_path, files)
    snapshot = home / "snapshots" / COMMIT
    assert find_source(home) == find_source(snapshot) == snapshot
    assert "unet" in import_model(find_source(home)).params


def test_main_decides_among_snapshots(files, tmp_path):
    home = cached(tmp_path, files, OTHER)
    cached(tmp_path, {"config.json": b"{}"}, COMMIT)
    assert find_source(home) == home / "snapshots" / COMMIT
    (home / "refs" / "main").unlink()
    with pytest.raises(ValueError, match=r"must have one snapshot, .*: got a+, b+;"):
        find_source(home)


def test_a_link_out_of_the_repository_is_refused(files, tmp_path):
    home = cached(tmp_path, files)
    (tmp_path / "secret").write_text("{}")
    (home / "snapshots" / COMMIT / "more.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="links of a snapshot must stay"):
        find_source(home)


def test_other_paths_are_left_alone(tmp_path):
    assert find_source(tmp_path) == tmp_path
    assert find_source("model.ckpt") == "model.ckpt"


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@"])
def test_an_address_names_user_and_name(address):
    with pytest.raises(ValueError, match="hf://USER/NAME@REVISION: got"):
        find_source(address)


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The three answers of the Hub that a download of a snapshot needs."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/someone/digits/tree/"):
            entries = [
                dict(type="file", path=name, size=len(data), oid=_etag(data))
                for name, data in self.files.items()
            ]
            return self._send(json.dumps(entries).encode())
        if path.startswith("/api/models/someone/digits"):
            names = [{"rfilename": name} for name in self.files]
            entry = dict(id="someone/digits", sha=COMMIT, siblings=names, private=False)
            entry |= dict(modelId="someone/digits", tags=[], downloads=0, likes=0)
            return self._send(json.dumps(entry).encode())
        name = path.removeprefix(f"/someone/digits/resolve/{COMMIT}/")
        if name in self.files:
            return self._send(self.files[name])
        return self._send(b"{}", status=404)

    def _send(self, data, status=200):
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_etag(data)}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def _etag(data):
    return hashlib.sha1(data).hexdigest()


def test_an_address_is_downloaded_into_the_cache(files, tmp_path):
    """Identity: huggingface_hub itself, against a local server in the Hub's place."""
    pytest.importorskip("huggingface_hub")
    handler = type("Handler", (FakeHub,), {"files": {**files, "weights.ot": b"x"}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "import sys\nfrom ldm_jax.interop.hub import find_source\n"
        "for address in sys.argv[1:]:\n"
        "    try:\n        print(find_source(address))\n"
        "    except ValueError as error:\n        print('refused:', error)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    argv = ["hf://someone/digits", "hf://someone/else"]
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    server.shutdown()
    result, refused = done.stdout.splitlines()[:2]
    snapshot = pathlib.Path(result)
    assert snapshot.name == COMMIT
    assert (snapshot / "unet" / "config.json").is_symlink()
    assert not (snapshot / "weights.ot").exists()  # of another framework
    assert "unet" in import_model(snapshot).params
    assert refused.startswith("refused: hf://someone/else must be a repository")
