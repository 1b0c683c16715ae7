# SPDX-License-Identifier: Apache-2.0
"""Describes errors of object stores in one line: URL, reason and remedy.

The packages for object stores raise many kinds of error: "b/bucket/o", an HTTP error
without a path, a chain of failed log-ins. They have already retried temporary errors
(429, 5xx, a reset connection) with growing pauses.
"""

import contextlib
import re
import traceback
from collections.abc import Iterator

from ldm_jax.files.errors import MissingFile, UnreadableFile, described
from ldm_jax.files.paths import PathLike, is_remote, printable
from ldm_jax.files.write_errors import WriteError

# First part of the module of an error -> it is of a store.
_PACKAGES = (
    "aiohttp",
    "aiobotocore",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "requests",
    "s3fs",
)
_NO_LOGIN = re.compile(
    r"\b401\b|credentials|unauthorized|anonymous caller|InvalidAccessKey", re.IGNORECASE
)
_FORBIDDEN = re.compile(r"\b403\b|forbidden|access ?denied|permission", re.IGNORECASE)
NOT_THERE = "the store has no such object, or no such bucket"


class StoreError(OSError):
    """Raised when an operation on an object store failed; the message has the URL."""


@contextlib.contextmanager
def reaching(url: PathLike, verb: str = "read") -> Iterator[None]:
    """Turns errors of the packages for object stores into a StoreError of one line.

    Args:
      url: what is read or written; of a local path, errors stay what they are.
      verb: "read", "written" or "listed".

    Raises:
      ValueError: the package of this kind of URL is not installed.
      MissingFile: there is no such object, or no such bucket.
      FileExistsError: the object was to be created, and exists.
      StoreError: anything else.
    """
    if not is_remote(url):
        yield
        return
    try:
        yield
    except (FileExistsError, UnreadableFile, StoreError, WriteError):
        raise
    except Exception as error:
        raise explained(url, error, verb) from error


def explained(url: PathLike, error: Exception, verb: str = "read") -> Exception:
    """Returns the error of one line that `reaching` raises for one of a package."""
    if isinstance(error, ImportError):
        return missing_package(url, error)
    if isinstance(error, FileNotFoundError):
        return MissingFile(
            f"{printable(url)} could not be {verb}: {NOT_THERE}. Check the name; an "
            "object that was there has been deleted."
        )
    return store_error(url, error, verb)


def missing_package(url: PathLike, error: ImportError) -> ValueError:
    """Makes the error for a URL whose package is not installed."""
    packages = {"gs:": "'ldm_jax[gcs]'", "s3:": "'ldm_jax[s3]'", "az:": "adlfs"}
    install = f"pip install {packages.get(str(url)[:3], 'that package')}"
    return ValueError(
        f"{printable(url)} needs a package that reaches its store ({described(error)}):"
        f" {install}, or mount the bucket and give the path."
    )


def store_error(url: PathLike, error: Exception, verb: str = "read") -> StoreError:
    """Makes the error for a URL that could not be read or written."""
    result = StoreError(
        f"{printable(url)} could not be {verb}: {reason(error)} ({described(error)})."
    )
    result.errno = getattr(error, "errno", None)
    return result


def reason(error: Exception) -> str:
    """Describes the kind of a store's error, with the remedy."""
    if isinstance(error, FileNotFoundError):
        return NOT_THERE
    text = f"{type(error).__name__} {getattr(error, 'code', '')} {error}"
    if _NO_LOGIN.search(text):
        return (
            "there are no valid credentials; run gcloud auth application-default login "
            "(S3: set AWS_ACCESS_KEY_ID), or use a machine with a service account"
        )
    if _FORBIDDEN.search(text):
        return (
            "these credentials may not do it; let the account read and write objects "
            "of the bucket, or choose another bucket"
        )
    return (
        "the store did not answer as it should, also when asked again; try later, or "
        "check the network"
    )


def is_of_a_store(error: BaseException) -> bool:
    """Returns whether an error was raised by a package for object stores.

    Many are of Python's own types: FileNotFoundError("b/bucket/o").
    """
    modules = [type(error).__module__]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        innermost = frame.f_globals.get("__name__", "")
        modules[1:] = [innermost]
    return any(module.split(".")[0] in _PACKAGES for module in modules)
