# SPDX-License-Identifier: Apache-2.0
"""Only files/ writes: no other folder opens, renames or removes a file."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ldm_jax"

# Calls that write, by the module they are of; of "" it is any object's method.
CALLS = {
    "os": {"link", "makedirs", "open", "remove", "rename", "replace", "rmdir"}
    | {"symlink", "truncate", "unlink"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"},
    "tempfile": {"NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile"}
    | {"mkdtemp", "mkstemp"},
    "json": {"dump"},
    "pickle": {"dump"},
    "yaml": {"dump", "safe_dump"},
    "": {"hardlink_to", "rename", "rmdir", "rmtree", "symlink_to", "touch", "unlink"}
    | {"write_bytes", "write_text", "savefig"},
}
OPENERS = ("function", "io", "gzip", "lzma")
# They may write into an opened file, or into memory.
INTO = {"save", "savez", "savez_compressed", "dump", "safe_dump", "ZipFile", "tofile"}
# (file, call): why it writes by itself.
EXCEPTIONS = {
    (
        "interop/pytorch/model.py",
        "save",
    ): "copied into exports, runs without this package",
    ("training/checkpoints/checkpointer.py", "save"): "orbax, whose steps are atomic",
    ("training/checkpoints/params.py", "save"): "of our Checkpointer",
    ("training/loop.py", "save"): "of our Checkpointer",
    ("training/monitoring/mirror.py", "TemporaryDirectory"): "of a run on gs://",
    ("cli/terminal.py", "open"): "os.devnull",
    ("commands/bench/data.py", "TemporaryDirectory"): "what is measured",
    ("commands/bench/encode.py", "TemporaryDirectory"): "what is measured",
    ("commands/bench/timing.py", "TemporaryDirectory"): "what is measured",
    ("commands/bench/metrics.py", "NamedTemporaryFile"): "what is measured",
    ("commands/bench/metrics.py", "save"): "what is measured",
}


def writes(tree):
    """Yields (name, line) of the calls that write to a path."""
    opened = names_of_opened_files(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, name = called(node)
        if name in INTO and owner != "os":
            first = node.args[0] if node.args else None
            is_text = name in ("dump", "safe_dump") and owner == "yaml"
            if is_text and len(node.args) == 1:
                continue  # returns a text
            if name == "ZipFile" and mode_of(node).startswith("r"):
                continue
            if isinstance(first, ast.Name) and first.id in opened:
                continue
            yield name, node.lineno
        elif name == "open" and owner in OPENERS:
            if not mode_of(node).startswith("r") or "+" in mode_of(node):
                yield name, node.lineno
        elif name in CALLS.get(owner, ()):
            yield name, node.lineno


def called(node):
    """Returns (module, name) of a call: "function" of a bare name, "" of an object."""
    if isinstance(node.func, ast.Name):
        return "function", node.func.id
    if not isinstance(node.func, ast.Attribute):
        return "function", ""
    owner = node.func.value
    name = owner.id if isinstance(owner, ast.Name) else ""
    return name if name in (*CALLS, *OPENERS) else "", node.func.attr


def mode_of(node):
    values = [k.value for k in node.keywords if k.arg == "mode"] + node.args[1:2]
    return values[0].value if values and isinstance(values[0], ast.Constant) else "r"


def names_of_opened_files(tree):
    """Names bound to files of atomic_file, or to io.BytesIO."""
    names = set()
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.With):
            pairs = [(item.context_expr, item.optional_vars) for item in node.items]
        elif isinstance(node, ast.Assign):
            pairs = [(node.value, node.targets[0])]
        for value, target in pairs:
            is_call = isinstance(value, ast.Call) and isinstance(target, ast.Name)
            if is_call and called(value)[1] in ("atomic_file", "BytesIO"):
                names.add(target.id)
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_only_files_writes(path):
    place = path.relative_to(PACKAGE).as_posix()
    if place.startswith("files/"):
        return
    unexpected = {
        (name, line)
        for name, line in writes(ast.parse(path.read_text()))
        if (place, name) not in EXCEPTIONS
    }
    assert not unexpected, f"{place}: write through ldm_jax.files.writing"


def test_every_exception_is_needed():
    for place, name in EXCEPTIONS:
        tree = ast.parse((PACKAGE / place).read_text())
        assert name in {name for name, _ in writes(tree)}, (place, name)


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, 'r+b')",
        "io.open(path, 'x')",
        "os.replace(a, b)",
        "path.rename(other)",
        "path.write_text('')",
        "(folder / 'a').write_bytes(b'')",
        "np.savez(path, a=1)",
        "np.save('a.npy', x)",
        "Image.fromarray(x).save(path)",
        "json.dump(x, open(path))",
        "zipfile.ZipFile(path, 'w')",
        "tempfile.mkdtemp()",
        "shutil.copyfile(a, b)",
    ],
)
def test_a_call_that_writes_is_found(line):
    assert list(writes(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'rb')",
        "text.replace(a, b)",
        "write_text(path, '')",
        "archive.open(name, 'w')",
        "zipfile.ZipFile(path)",
        "with atomic_file(path) as file: np.savez(file, a=1)",
        "png = io.BytesIO(); Image.fromarray(x).save(png, 'PNG')",
        "yaml.safe_dump(x)",
    ],
)
def test_a_call_that_does_not_is_not(line):
    assert not list(writes(ast.parse(line)))
