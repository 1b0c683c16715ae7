# SPDX-License-Identifier: Apache-2.0
"""Results on an object store are written atomically, and resumed after a kill."""

import functools

import pytest
from etils import epath

from ldm_jax.files.stores import staging
from ldm_jax.files.stores.store_errors import StoreError
from ldm_jax.parallel import outputs
from ldm_jax.parallel.outputs import (
    output_directory,
    output_file,
    shared_directory,
)

pytestmark = pytest.mark.store

any_file = functools.partial(output_file, suffix="", mark=b"")


def test_a_directory_is_copied_when_it_is_whole(bucket, tmp_path):
    url = f"{bucket}/samples"
    with output_directory(url) as folder:
        (folder / "settings.json").write_text("{}")
        (folder / "images").mkdir()
        (folder / "images" / "0.png").write_bytes(b"picture")
        (folder / ".0.png.partial").write_text("left by a killed writer")
        assert not epath.Path(url).exists()
    assert {p.name for p in epath.Path(url).iterdir()} == {"images", "settings.json"}
    assert (epath.Path(url) / "images" / "0.png").read_bytes() == b"picture"
    assert not staging.staging_of(url).exists()  # nothing is left here


def test_what_makes_a_result_complete_is_copied_last(bucket, monkeypatch):
    import gcsfs

    order = []
    put_file = gcsfs.GCSFileSystem.put_file

    def noted(self, source, target, **options):
        order.append(target.rpartition("/")[2])
        return put_file(self, source, target, **options)

    monkeypatch.setattr(gcsfs.GCSFileSystem, "put_file", noted)
    with output_directory(f"{bucket}/model") as folder:
        (folder / "config.json").write_text("{}")
        for name in ("a.bin", "z.bin"):
            (folder / name).write_bytes(b"0")
    assert order[-1] == "config.json" and sorted(order) == [
        "a.bin",
        "config.json",
        "z.bin",
    ]


def test_a_command_that_fails_continues_where_it_was(bucket):
    url = f"{bucket}/run"
    with pytest.raises(RuntimeError), output_directory(url) as folder:
        (folder / "0").write_text("done")
        raise RuntimeError("killed")
    assert not epath.Path(url).exists()
    with output_directory(url) as folder:
        assert (folder / "0").read_text() == "done"
        (folder / "1").write_text("done")
    assert {p.name for p in epath.Path(url).iterdir()} == {"0", "1"}


def test_an_interrupted_copy_is_finished_by_the_next_start(bucket, monkeypatch):
    import gcsfs

    url, put_file = f"{bucket}/run", gcsfs.GCSFileSystem.put_file

    def failing(self, source, target, **options):
        if target.endswith("b"):
            raise OSError("connection reset")
        return put_file(self, source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(gcsfs.GCSFileSystem, "put_file", failing)
        with (
            pytest.raises(StoreError, match=rf"{url}.*connection reset"),
            output_directory(url) as folder,
        ):
            for name in "abc":
                (folder / name).write_text(name)
    with output_directory(url) as folder:
        assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") == [
            *"abc"
        ]
    assert {p.name for p in epath.Path(url).iterdir()} == {*"abc"}


def test_a_file_is_one_object(bucket):
    url = f"{bucket}/stats/flowers.npz"
    with output_file(url, suffix=".npz", mark=b"") as path:
        assert path.name == "flowers.npz"
        path.write_bytes(b"statistics")
    assert epath.Path(url).read_bytes() == b"statistics"


@pytest.mark.parametrize("place", [any_file, output_directory])
def test_an_existing_result_is_not_touched(place, bucket):
    (epath.Path(bucket) / "taken").write_text("of somebody else")
    with (
        pytest.raises(ValueError, match=r"--out must be new: .*/taken exists"),
        place(f"{bucket}/taken"),
    ):
        raise AssertionError("work was begun")
    assert (epath.Path(bucket) / "taken").read_text() == "of somebody else"


@pytest.mark.parametrize("place", [any_file, output_directory])
def test_a_bucket_that_does_not_exist_is_one_line_before_any_work(place, bucket):
    url = "gs://no-such-bucket/out"
    with (
        pytest.raises(OSError, match="may write: got gs://no-such-bucket") as error,
        place(url),
    ):
        raise AssertionError("work was begun")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [any_file, output_directory])
def test_several_processes_are_refused_a_store(place, monkeypatch):
    monkeypatch.setattr(outputs, "in_main_process", lambda action: action())
    monkeypatch.setattr(outputs.jax, "process_count", lambda: 2)
    with (
        pytest.raises(ValueError, match=r"that all hosts see .* mount the bucket"),
        place("gs://bucket/out"),
    ):
        raise AssertionError("work was begun")


def test_another_kind_of_url_is_refused():
    with (
        pytest.raises(ValueError, match="a URL must begin with gs://"),
        any_file("ftp://server/file"),
    ):
        raise AssertionError("work was begun")


@pytest.mark.parametrize("place", [any_file, output_directory, shared_directory])
@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_may_not_be_written_is_one_line_before_any_work(
    place, status, bucket, store
):
    """A read-only bucket, or no credentials."""
    store.fault = lambda method, path: status if method == "POST" else None
    with (
        pytest.raises(
            OSError, match=f"--out must be .* may write: got {bucket}"
        ) as error,
        place(f"{bucket}/out"),
    ):
        raise AssertionError("work was begun")
    assert len(str(error.value).splitlines()) == 1


def test_a_url_that_lost_a_slash_is_refused_with_its_reason():
    """As a bucket and a local path that were joined."""
    with (
        pytest.raises(ValueError, match=r"as text: pathlib drops a slash"),
        shared_directory("gs:/bucket/out"),
    ):
        raise AssertionError("work was begun")
