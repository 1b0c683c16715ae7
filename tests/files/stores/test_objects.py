# SPDX-License-Identifier: Apache-2.0
"""Objects of a store: bounded requests, retried errors, conditions."""

import threading

import pytest

from ldm_jax.files.errors import MissingFile
from ldm_jax.files.stores import objects
from ldm_jax.files.stores.objects import (
    StoredObject,
    create,
    delete,
    fetch_object,
    list_objects,
    put_bytes,
    put_file,
    read_many,
    sizes_in,
)
from ldm_jax.files.stores.store_errors import StoreError

pytestmark = pytest.mark.store


@pytest.fixture
def stored(bucket, store, tmp_path):
    """An object of 100 bytes."""
    data = bytes(range(100))
    (tmp_path / "a").write_bytes(data)
    put_file(tmp_path / "a", f"{bucket}/set/a")
    store.requests.clear()
    return list_objects(f"{bucket}/set")["a"], data


def test_a_folder_is_listed_with_its_sizes_by_one_request(bucket, store, tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    for i in range(20):
        put_file(tmp_path / "a", f"{bucket}/set/{i}")
    put_file(tmp_path / "a", f"{bucket}/set/below/it")
    store.requests.clear()
    assert sizes_in(f"{bucket}/set") == {str(i): 4 for i in range(20)}
    assert len(store.requests) == 1


def test_a_listing_shows_what_another_process_wrote_since(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    put_file(tmp_path / "a", f"{bucket}/set/a")
    assert set(sizes_in(f"{bucket}/set")) == {"a"}
    put_file(tmp_path / "a", f"{bucket}/set/b")
    assert set(sizes_in(f"{bucket}/set")) == {"a", "b"}


def test_a_folder_that_is_not_there_is_empty(bucket, tmp_path):
    assert sizes_in(f"{bucket}/none") == {} == sizes_in(tmp_path / "none")


def test_an_object_is_fetched_in_ranges(stored, store, monkeypatch, tmp_path):
    item, data = stored
    store.requests.clear()
    monkeypatch.setattr(objects, "RANGE_BYTES", 30)
    fetch_object(item, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert [store.count("read"), len(store.requests)] == [4, 4]


@pytest.mark.parametrize("fault", [503, 429, "reset", "cut"])
def test_an_error_that_passes_is_retried(stored, store, tmp_path, fault):
    item, data = stored
    left = [fault]
    store.fault = lambda method, path: left.pop() if left else None
    fetch_object(item, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert not left


@pytest.mark.parametrize(
    ("fault", "words"), [(403, "may not do it"), (401, "no valid credentials")]
)
def test_an_error_that_stays_is_one_line_at_once(stored, store, tmp_path, fault, words):
    item, _ = stored
    store.fault = lambda method, path: fault
    with pytest.raises(StoreError, match=rf"{item.url} could not be read: .*{words}"):
        fetch_object(item, tmp_path / "copy")
    with pytest.raises(StoreError, match=rf"written: .*{words}") as error:
        put_file(tmp_path / "copy", item.url)
    assert "\n" not in str(error.value)


def test_an_object_that_was_deleted_meanwhile_is_named(stored, tmp_path):
    item, _ = stored
    delete(item.url)
    delete(item.url)  # as often as one likes
    with pytest.raises(MissingFile, match=rf"{item.url} .* has been deleted"):
        fetch_object(item, tmp_path / "copy")


def test_small_objects_are_read_in_their_order(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"here")
    urls = [f"{bucket}/{i}" for i in range(5)]
    for i, url in enumerate(urls):
        assert create(url, b"%d" % i)
    assert read_many([*urls, tmp_path / "a"]) == [b"0", b"1", b"2", b"3", b"4", b"here"]


def test_of_several_that_create_one_object_one_does(bucket):
    url, results = f"{bucket}/lock", []
    threads = [
        threading.Thread(target=lambda i=i: results.append(create(url, b"%d" % i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_a_small_object_is_written_and_replaced_by_one_request_each(bucket, store):
    url = f"{bucket}/set/a"
    put_bytes(url, b"one")
    put_bytes(url, b"two")
    assert len(store.requests) == store.count("write") == 2
    assert read_many([url]) == [b"two"]


def test_a_bucket_that_is_not_there_is_one_line(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(MissingFile, match=r"gs://no-such/a .* no such bucket"):
        put_file(tmp_path / "a", "gs://no-such/a")
    with pytest.raises(MissingFile):
        fetch_object(StoredObject("gs://no-such/a", 5, ""), tmp_path / "copy")
