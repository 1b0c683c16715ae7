# SPDX-License-Identifier: Apache-2.0
"""Finds models of the Hugging Face Hub: in its local cache, or by hf://USER/NAME.

The cache has a folder for each repository, whose snapshots/ contain links to blobs/:

    models--USER--NAME/refs/main                   the commit of a branch
    models--USER--NAME/snapshots/COMMIT/config.json -> ../../blobs/HASH

Source: huggingface_hub, "Understand caching".
"""

import pathlib
import re

from ldm_jax.files.paths import PathLike, printable
from ldm_jax.files.reading import read_text
from ldm_jax.files.write_errors import first_line

SCHEME = "hf://"
# What a model needs of a repository; other frameworks' weights are left out.
PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.msgpack", "*.model")
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def find_source(source: PathLike) -> PathLike:
    """Returns the local path of a source of weights.

    Args:
      source: a path, a repository's folder in the Hub's cache, or
        "hf://USER/NAME@REVISION", which is downloaded into the cache.

    Raises:
      ValueError: no such address or snapshot, a link that leaves the cache, or
        huggingface_hub is missing or cannot get the repository.
    """
    if str(source).startswith(SCHEME):
        source = _download(str(source))
    path = pathlib.Path(source).expanduser()
    if (path / "snapshots").is_dir():
        path = _snapshot(path)
    elif path.parent.name != "snapshots":
        return source
    _check_links(path)
    return path


def _download(address: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            "a model on the Hub is named hf://USER/NAME, or hf://USER/NAME@REVISION: "
            f"got {printable(address)}."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{address} needs huggingface_hub: pip install 'ldm_jax[hub]'."
        ) from error
    repository, revision = match.groups()
    try:
        return snapshot_download(
            repository, revision=revision, allow_patterns=list(PATTERNS)
        )
    except Exception as error:  # of its HTTP client, of several releases
        raise ValueError(
            f"{address} must be a repository that can be read: {first_line(error)}. "
            "Check the name, the network, and for a private one `hf auth login`."
        ) from error


def _snapshot(repository: pathlib.Path) -> pathlib.Path:
    """Finds the snapshot of a cached repository: that of main, or the only one."""
    snapshots = sorted(p for p in (repository / "snapshots").iterdir() if p.is_dir())
    main = repository / "refs" / "main"
    if main.is_file():
        named = repository / "snapshots" / read_text(main).strip()
        if named in snapshots:
            return named
    if len(snapshots) != 1:
        raise ValueError(
            f"{printable(repository)} must have one snapshot, or refs/main that names "
            f"one: got {', '.join(p.name for p in snapshots) or 'none'}; give the path "
            "of one."
        )
    return snapshots[0]


def _check_links(snapshot: pathlib.Path) -> None:
    """Raises ValueError for a link that leaves the repository's folder."""
    home = snapshot.parent.parent.resolve()
    for path in sorted(snapshot.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise ValueError(
                f"links of a snapshot must stay in its repository: {printable(path)} "
                f"leads to {printable(path.resolve())}."
            )
