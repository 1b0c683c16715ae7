# SPDX-License-Identifier: Apache-2.0
"""Errors of stores are one line with the URL and the way out."""

import pytest

from ldm_jax.files.errors import MissingFile, UnreadableFile
from ldm_jax.files.stores.store_errors import StoreError, is_of_a_store, reaching

URL = "gs://bucket/a"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ImportError("gcsfs"), ValueError, r"pip install 'ldm_jax\[gcs\]'"),
        (FileNotFoundError("b/bucket/o"), MissingFile, "no such object, or no such"),
        (OSError("Forbidden: https://x\nwhy"), StoreError, "may not do it"),
        (Exception("Anonymous caller does not"), StoreError, "application-default"),
        (TimeoutError(), StoreError, "try later"),
    ],
)
def test_an_error_of_a_store_is_one_line(error, kind, words):
    with pytest.raises(kind, match=words) as raised, reaching(URL):
        raise error
    assert str(raised.value).startswith(URL) and "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [UnreadableFile("x"), StoreError("x")])
def test_a_sentence_of_ours_stays_as_it_is(error):
    with pytest.raises(type(error)) as raised, reaching(URL):
        raise error
    assert raised.value is error


def test_errors_about_a_local_path_stay_as_they_are():
    with pytest.raises(FileNotFoundError) as raised, reaching("/tmp/a"):
        raise FileNotFoundError("x")
    assert not isinstance(raised.value, MissingFile)


def test_errors_of_the_packages_are_told_from_others():
    kind = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})
    assert is_of_a_store(kind()) and not is_of_a_store(ValueError())


@pytest.mark.parametrize("module", ["gcsfs.core", "fsspec.registry"])
def test_an_error_of_python_that_a_package_raised_is_one_of_the_store(module):
    """As FileNotFoundError("b/bucket/o")."""
    names = {"__name__": module}
    exec("def fail(): raise FileNotFoundError('b/bucket/o')", names)
    with pytest.raises(FileNotFoundError) as error:
        names["fail"]()
    assert is_of_a_store(error.value)
    with pytest.raises(MissingFile, match=URL) as error, reaching(URL):
        names["fail"]()
    assert not is_of_a_store(error.value)  # it is explained
