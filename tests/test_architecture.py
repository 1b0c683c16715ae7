# SPDX-License-Identifier: Apache-2.0
"""Folders import only from those below them, and TensorFlow is not imported."""

import ast
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

from ldm_jax.experiment.config.schema import SECTIONS

PACKAGE = pathlib.Path(__file__).parent.parent / "ldm_jax"

# Folders from the lowest layer up (the map in CONTRIBUTING.md): each may import from
# lower layers, but from no other folder of its own layer.
LAYERS = (
    {"types", "configs", "pretrained"},
    {"files"},
    {"models", "diffusion", "data", "parallel", "reports"},
    {"conditions"},
    {"interop", "tasks", "training"},
    {"metrics"},
    {"experiment"},
    {"planning"},
    {"commands"},
    {"study"},
    {"cli", "__init__"},
)


def folder_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_folders(path: pathlib.Path):
    """Yields (folder, line) for every import of this package, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ldm_jax" and len(parts) > 1:
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_go_down_only(path):
    folder = folder_of(path)
    below = set()
    for layer in LAYERS:
        if folder in layer:
            break
        below |= layer
    else:
        pytest.fail(f"{path} is in no known folder: add it to the map")
    for other, line in imported_folders(path):
        assert other in below | {folder}, (
            f"{path}:{line}: {folder} may not import {other}"
        )


def test_no_module_is_named_for_nothing():
    nameless = {"utils", "misc", "common", "helpers"}
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in nameless]


EXPORTED = {
    PACKAGE / "interop/pytorch/model.py",
    PACKAGE / "interop/diffusers/exported/conditioner.py",
    PACKAGE / "interop/diffusers/exported/pipeline.py",
}


def test_tensorflow_is_never_imported():
    """Importing every module of the package leaves TensorFlow and PyTorch out."""
    modules = [
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts)
        for p in sorted(PACKAGE.rglob("*.py"))
        # Exported files are copied into the folder of an export, and run there.
        if p.name != "__init__.py" and p not in EXPORTED
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("runner", ["stablehlo_runner.py", "onnx_runner.py"])
def test_the_page_on_exports_shows_the_runners_that_are_tested(runner):
    root = PACKAGE.parent
    runner = (root / "tests" / "commands" / "exports" / runner).read_text()
    page = (root / "ldm_jax" / "interop" / "README.md").read_text()
    assert runner.split("\n", 1)[1].strip() in page


def test_every_name_in_the_map_exists():
    """CONTRIBUTING.md: files and folders, and dotted names of functions."""
    root = PACKAGE.parent
    text = (root / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:ldm_jax|configs|tests|launch)/[\w/.]*)`", text)
    assert len(paths) > 15
    assert [path for path in paths if not (root / path).exists()] == []
    names = re.findall(r"`(ldm_jax(?:\.\w+)+)`", text)
    assert len(names) > 10
    for name in names:
        pkgutil.resolve_name(name)


# Pages and folders of pages that name test files.
NAMING_TESTS = ("ldm_jax/training/README.md", "ldm_jax/data/README.md", "launch")


@pytest.mark.parametrize("place", NAMING_TESTS)
def test_every_test_file_that_a_page_names_exists(place):
    """As a path, or by the end of one: `images/test_folder`, `test_faults`."""
    root = PACKAGE.parent
    files = [f"/{path.relative_to(root)}" for path in root.glob("tests/**/test_*.py")]
    pages = [root / place] if place.endswith(".md") else (root / place).glob("*.md")
    text = "\n".join(page.read_text() for page in pages)
    names = re.findall(r"(?<![\w/])(?:\w+/)*test_\w+(?!\w*\()", text)
    assert names
    for name in names:
        assert any(file.endswith(f"/{name}.py") for file in files), name


# Folders that read or write sections of configs, with the reason.
READ_SECTIONS = {
    "experiment": "makes objects of them",
    "configs": "makes the configs",
    "study": "makes the configs of its arms of those of a study",
    "interop": "translates the configs of other frameworks",
}
# Sections whose names other records have as well: `evaluation.mesh` is no section.
CONFIGS = r"(\w+_)?(config|settings|sections)|stage|denoiser|loaded|guided"


def section_reads(path: pathlib.Path):
    """Yields (line, text) where a section of a config is read or written.

    As an attribute, an index or by `get`, of a variable or attribute that is named as
    configs are (CONFIGS).
    """
    sections = {name for known in SECTIONS.values() for name in known} - {"task"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            base, name = node.value, node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            base, name = node.value, node.slice.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            base, name = node.func.value, node.args[0].value
        else:
            continue
        last = ast.unparse(base).rpartition(".")[2].lstrip("_")
        if name in sections and re.fullmatch(CONFIGS, last):
            yield node.lineno, ast.unparse(node)


def test_the_sections_of_a_config_are_read_in_experiment_only():
    """Other folders receive objects; an exception has a reason, and is used."""
    folders = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in section_reads(path):
            folders.add(folder_of(path))
            assert folder_of(path) in READ_SECTIONS, f"{path}:{line}: {text}"
    assert set(READ_SECTIONS) - folders <= {"configs"}, "remove what reads no more"


def test_a_read_section_is_recognized(tmp_path):
    path = tmp_path / "module.py"
    reads = ["config.unet", "self._config.latents", 'stage["images"]']
    reads += ['settings.get("autoencoder", {})']
    path.write_text("\n".join([*reads, "run.mesh", "config.fields", "model.unet"]))
    assert [text for _, text in section_reads(path)] == [
        text.replace('"', "'") for text in reads
    ]


# Calls that read files, and modules that parse them. Outside of files/ they have a
# reason: {file: reason}. A format that only one folder uses is parsed there.
OWN_RUN = "reads what this run has written"
COPIES = "copies a file as it is"
READERS = {
    "interop/torch_files/unpickler.py": "knows the opcodes of pickles",
    "interop/torch_files/legacy_format.py": "knows the format; opened by read_weights",
    "interop/torch_files/zip_format.py": "knows the format; opened by read_weights",
    "interop/torch_files/writer.py": "writes",
    "interop/pytorch/model.py": "is exported, and runs without this package",
    "interop/pytorch/write.py": COPIES,
    "interop/diffusers/write.py": COPIES,
    "interop/diffusers/model_index.py": COPIES,
    "interop/feature_networks/lpips.py": "takes the checksum of a file",
    "interop/feature_networks/weights.py": "takes the checksum of a file",
    "training/monitoring/mirror.py": COPIES,
    "experiment/vocabulary.py": COPIES,
    "reports/page.py": "copies a PNG of this run into a page",
    "data/transforms/bsrgan.py": "decodes a JPEG that it has just made",
    "data/builders/open_images.py": "reads a CSV without a header, line by line",
    "commands/sampling/sample_sheets.py": "writes an .npz image by image",
    "experiment/model_settings.py": COPIES,
    "commands/photos/page.py": OWN_RUN,
    "commands/demo/server.py": "reads a page of this package",
}
PARSERS = {"zipfile", "tarfile", "csv", "pickle", "yaml"}
CALLS = {
    *("Image.open", "np.load", "numpy.load", "open", "yaml.load", "yaml.safe_load"),
}


def reading_calls(path: pathlib.Path):
    """Yields what a module calls to read files, and the parsers that it imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in PARSERS - {"yaml"})
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in CALLS or name.endswith((".read_text", ".read_bytes")):
            yield name
        # A round trip through JSON in memory is not a reading.
        if name in ("json.load", "json.loads") and "json.dumps" not in ast.unparse(
            node
        ):
            yield name


def test_files_are_read_in_files_only():
    """Every fault of reading has one place; an exception has a reason, and is used."""
    calls_of = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if folder_of(path) != "files" and (calls := sorted(set(reading_calls(path)))):
            calls_of[path.relative_to(PACKAGE).as_posix()] = calls
    new = {name: calls for name, calls in calls_of.items() if name not in READERS}
    assert not new, f"read through ldm_jax.files, or give a reason: {new}"
    assert not set(READERS) - set(calls_of), "remove what reads no more"
