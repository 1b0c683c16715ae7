# SPDX-License-Identifier: Apache-2.0
"""Results, exports and inputs on s3://, against moto's server; the rest is refused."""

import importlib.util
import os

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import backend

import ldm_jax
from ldm_jax.cli import main
from ldm_jax.data.images.image_sets import open_images
from ldm_jax.files.stores.objects import (
    create,
    delete,
    fetch_object,
    list_objects,
    put_file,
)
from ldm_jax.files.stores.store_errors import StoreError
from ldm_jax.training.checkpoints.params import load_params

pytestmark = pytest.mark.store
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def server():
    """Runs moto's server on a free port of loopback; its objects are in memory."""
    for package in ("moto", "flask", "s3fs"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'ldm_jax[s3-test]'")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def forget_accounts():
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def account(server, monkeypatch, tmp_path):
    """Any credentials will do for moto; those of the machine are not looked for."""
    import s3fs

    for name in KEYS:
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget_accounts()
    yield s3fs.S3FileSystem()
    forget_accounts()


@pytest.fixture
def bucket(account, tmp_path):
    name = f"b-{abs(hash(tmp_path))}"
    account.mkdir(name)
    return f"s3://{name}"


def test_objects_are_listed_copied_created_once_and_deleted(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    put_file(tmp_path / "a", f"{bucket}/set/a")
    assert create(f"{bucket}/set/b", b"1")
    assert not create(f"{bucket}/set/b", b"2")
    objects = list_objects(f"{bucket}/set")
    assert {name: item.size for name, item in objects.items()} == {"a": 4, "b": 1}
    fetch_object(objects["a"], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"data"
    delete(f"{bucket}/set/b")
    delete(f"{bucket}/set/b")
    assert set(list_objects(f"{bucket}/set")) == {"a"}


def test_results_exports_and_inputs_may_be_on_s3(bucket, tmp_path, capsys):
    """Identity: the parameters that were exported, imported again."""
    samples = ["sample", "--model=digits", "--label=3,5", "--num-steps=2"]
    commands = [
        [*samples, f"--out={bucket}/samples"],
        ["export", "digits", "--to=compact", f"--out={bucket}/model"],
        ["export", "digits", "--to=npz", f"--out={bucket}/model.npz"],
        ["info", f"{bucket}/model"],
        ["import", f"{bucket}/model.npz", f"--out={tmp_path}/imported"],
        ["reconstruct", f"--model={bucket}/model", f"--out={bucket}/pairs.png"],
    ]
    for argv in commands:
        assert main(argv) == 0, (argv, capsys.readouterr().err)
    for name in ("samples/settings.json", "samples/grid.png", "pairs.png"):
        assert epath.Path(f"{bucket}/{name}").exists(), name
    pair = (f"{tmp_path}/imported", f"{bucket}/model")
    trees = [ldm_jax.load(place)[1] for place in pair]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    assert main([*samples, f"--out={bucket}/samples"]) == 2
    assert "--out must be new" in capsys.readouterr().err


REFUSED = {
    "train": ["--config=quickstart:stage=first_stage", "--workdir={b}/run"],
    "latents": ["--model=digits", "--out={b}/latents"],
    "import": ["{b}/model.npz", "--out={b}/imported"],
}


@pytest.mark.parametrize("command", REFUSED)
def test_checkpoints_on_s3_are_refused_in_one_line_before_any_work(
    command, bucket, account, tmp_path, capsys
):
    (tmp_path / "m.npz").write_bytes(b"a file")
    put_file(tmp_path / "m.npz", f"{bucket}/model.npz")
    argv = [command, *(word.format(b=bucket) for word in REFUSED[command])]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert f"Orbax writes to gs:// or a file system: got {bucket}/" in error
    assert len(error.splitlines()) == 1
    assert account.find(bucket) == [f"{bucket[5:]}/model.npz"]


def test_a_model_with_checkpoints_on_s3_is_refused_in_one_line(bucket):
    assert create(f"{bucket}/run/checkpoints/8/_CHECKPOINT_METADATA", b"{}")
    with pytest.raises(ValueError, match="this directory holds checkpoints, which"):
        load_params(f"{bucket}/run")


def test_a_bucket_that_is_not_there_is_one_line(account, capsys):
    argv = ["sample", "--model=digits", "--label=3", "--out=s3://no-such-bucket/out"]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert "may write: got s3://no-such-bucket/out" in error
    assert len(error.splitlines()) == 1


def test_no_credentials_are_one_line(bucket, monkeypatch, tmp_path, capsys):
    for name in KEYS:
        monkeypatch.delenv(name)
    forget_accounts()
    (tmp_path / "a").write_bytes(b"data")
    with pytest.raises(StoreError, match=rf"{bucket}/a .*no valid credentials"):
        put_file(tmp_path / "a", f"{bucket}/a")
    argv = ["sample", "--model=digits", "--label=3", f"--out={bucket}/out"]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert "redentials" in error and len(error.splitlines()) == 1
    assert os.listdir(tmp_path) == ["a"]


def test_a_prepared_image_set_is_read_from_s3(bucket, tmp_path):
    """Identity: the records of the set that was copied there."""
    local = open_images("digits", "test[:40]", os.fspath(tmp_path))
    for file in (tmp_path / "digits" / "1.0.0").iterdir():
        put_file(file, f"{bucket}/digits/1.0.0/{file.name}")
    remote = open_images(f"{bucket}/digits/1.0.0", "test[:40]")
    assert remote.fingerprint == local.fingerprint
    np.testing.assert_array_equal(remote[3]["image"], local[3]["image"])
