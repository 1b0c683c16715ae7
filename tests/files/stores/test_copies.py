# SPDX-License-Identifier: Apache-2.0
"""Copies of objects: made once, made again when the object changes, bounded by disk."""

import shutil
import threading
from collections import namedtuple

import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.stores import copies
from ldm_jax.files.stores.copies import Copies
from ldm_jax.files.stores.objects import StoredObject
from ldm_jax.files.write_errors import WriteError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Objects of zeros; notes which were fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def fetch(item, target):
        calls.append(item.url)
        target.write_bytes(bytes(item.size))

    monkeypatch.setattr(copies, "fetch_object", fetch)
    return calls


def item(name, size=10, version="1", sha256=""):
    return StoredObject(f"gs://b/{name}", size, version, sha256)


def test_an_object_is_copied_once_also_by_the_next_run(fetched):
    for _ in range(2):
        place = Copies([item("a")], "gs://b").path("gs://b/a")
        assert place.read_bytes() == bytes(10)
    assert fetched == ["gs://b/a"]


def test_errors_name_the_object_instead_of_its_copy(fetched):
    place = Copies([item("a.pth")], "gs://b").path("gs://b/a.pth")
    text = copies.with_urls(f"{place} is damaged; get {place} again, not {place}x.")
    assert text == (
        "gs://b/a.pth is damaged; get gs://b/a.pth again, not gs://b/a.pthx."
    )


def test_what_was_written_again_is_copied_again(fetched):
    for version in "12":
        Copies([item("a", version=version)], "gs://b").path("gs://b/a")
    assert len(fetched) == 2


def test_threads_that_need_one_object_copy_it_once(fetched):
    set_of_copies = Copies([item("a")], "gs://b")
    threads = [
        threading.Thread(target=set_of_copies.path, args=("gs://b/a",))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["gs://b/a"]


def test_objects_are_copied_ahead(fetched):
    names = [f"gs://b/{i}" for i in range(20)]
    set_of_copies = Copies([item(i) for i in range(20)], "gs://b")
    set_of_copies.read_ahead(names)
    for thread in set_of_copies._threads:
        thread.join()
    assert sorted(fetched) == sorted(names)
    assert all(map(set_of_copies.copied, names))


def test_a_copy_that_differs_from_its_checksum_is_not_kept(fetched):
    set_of_copies = Copies([item("a", sha256="00")], "gs://b")
    for _ in range(2):
        with pytest.raises(UnreadableFile, match="gs://b/a is not as it was written"):
            set_of_copies.path("gs://b/a")
    assert len(fetched) == 2 and not set_of_copies.copied("gs://b/a")


def test_copies_of_other_sets_make_room(fetched, monkeypatch):
    old = Copies([item("old")], "gs://b")
    old.path("gs://b/old")

    def usage(path):
        return Usage(1000, 0, 1000 if not old.copied("gs://b/old") else 50)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    Copies([item("new", size=500)], "gs://b").path("gs://b/new")
    assert not old.copied("gs://b/old")


def test_a_disk_that_is_too_small_is_one_line_before_any_copy(fetched, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**30))
    with pytest.raises(WriteError, match=r"gs://b/set .* 9.00 GiB.*XDG_CACHE_HOME"):
        Copies([item("a", size=9 * 2**30)], "gs://b/set")
    assert not fetched
