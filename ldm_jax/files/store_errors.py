# SPDX-License-Identifier: Apache-2.0
"""Describes errors of object stores in one line: URL, reason and remedy.

The packages for object stores raise many kinds of error: "b/bucket/o", an HTTP error
without a path, a chain of failed log-ins. They have already retried temporary errors
(429, 5xx, a reset connection) with growing pauses.
"""

import contextlib
import re
from collections.abc import Iterator

from ldm_jax.files.errors import MissingFile, UnreadableFile, described
from ldm_jax.files.paths import PathLike, is_remote, printable
from ldm_jax.files.write_errors import WriteError

# First part of the module of an error -> it is of a store.
_PACKAGES = (
    "aiohttp",
    "aiobotocore",
    "botocore",
    "gcsfs",
    "google",
    "requests",
    "s3fs",
)
_NO_LOGIN = re.compile(
    r"\b401\b|credentials|unauthorized|anonymous caller|InvalidAccessKey", re.IGNORECASE
)
_FORBIDDEN = re.compile(r"\b403\b|forbidden|access ?denied|permission", re.IGNORECASE)


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
    except ImportError as error:
        raise missing_package(url, error) from error
    except (FileExistsError, UnreadableFile, StoreError, WriteError):
        raise
    except FileNotFoundError as error:
        raise MissingFile(
            f"{printable(url)} could not be {verb}: the store has no such object, or "
            "no such bucket. Check the name; an object that was there has been deleted."
        ) from error
    except Exception as error:
        raise store_error(url, error, verb) from error


def missing_package(url: PathLike, error: ImportError) -> ValueError:
    """Makes the error for a URL whose package is not installed."""
    packages = {"gs:": "'ldm_jax[gcs]'", "s3:": "s3fs", "az:": "adlfs"}
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
    """Returns whether an error was raised by a package for object stores."""
    return type(error).__module__.split(".")[0] in _PACKAGES
