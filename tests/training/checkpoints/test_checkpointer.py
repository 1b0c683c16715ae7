# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are verified, restored on any mesh, and the latest and best are kept."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.files.lock import Unusable
from ldm_jax.parallel.sharding import make_mesh
from ldm_jax.training.checkpoints.checkpointer import Checkpointer
from ldm_jax.training.checkpoints.params import load_params
from ldm_jax.training.checkpoints.settings import Settings
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.training.state import make_state
from tests.training.toy import FIELDS, WIDTH, make_task, options


def states(mesh=None, optimizer=None):
    return make_state(
        make_task(),
        optimizer or make_optimizer(),
        FIELDS,
        mesh or make_mesh(),
        options(ema_of=("unet",), min_shard_mib=0),
    )


def at(state, step):
    return state.replace(step=jnp.int32(step))


@pytest.fixture(scope="module")
def made():
    shapes, make = states()
    state = make(jax.random.key(0))
    # Large enough to be stored in a separate file, which has no checksum.
    large = jax.random.normal(jax.random.key(1), (128, 1024))
    large = jax.device_put(large, state.step.sharding)
    shape = jax.ShapeDtypeStruct(large.shape, large.dtype, sharding=large.sharding)
    return (
        shapes.replace(collections={"large": shape}),
        state.replace(collections={"large": large}),
    )


def save(directory, state, steps, **options):
    with Checkpointer(directory, keep=9, **options) as checkpointer:
        for step in steps:
            checkpointer.save(at(state, step), {"at": step})
        checkpointer.wait()


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_checkpoint_comes_back_on_another_mesh_bit_for_bit(tmp_path, made):
    save(tmp_path, made[1], [3])
    shapes, _ = states(make_mesh(data=2, fsdp=4))
    shapes = shapes.replace(collections=made[0].collections)
    with Checkpointer(tmp_path) as checkpointer:
        state, data = checkpointer.restore(shapes)
    equal(state, at(made[1], 3))
    assert data == {"at": 3}
    kernel = state.params["unet"]["mlp"]["in"]["kernel"]
    assert kernel.sharding == shapes.params["unet"]["mlp"]["in"]["kernel"].sharding
    assert type(state) is type(made[1])


def test_an_empty_directory_has_nothing_to_restore(tmp_path, made):
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(made[0]) is None


def largest_file(directory):
    files = [f for f in directory.rglob("*") if f.is_file()]
    return max(files, key=lambda f: f.stat().st_size)


def flip_bit(directory):
    """Flips a bit in the largest data file: some array, somewhere."""
    path = largest_file(directory / "state")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def truncate(directory):
    path = largest_file(directory / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(directory):
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def lose_data(directory):
    (directory / "data" / "metadata").unlink()


def garble_data(directory):
    """Changes a digit of the position in the data; it still is JSON."""
    path = directory / "data" / "metadata"
    path.write_text(path.read_text().replace('"at": 3', '"at": 4').replace(":3", ":4"))


def lose_chunk(directory):
    largest_file(directory / "state").unlink()


def lose_manifest(directory):
    (directory / "state" / "manifest.ocdbt").unlink()


def garble_manifest(directory):
    path = directory / "state" / "manifest.ocdbt"
    path.write_bytes(path.read_bytes()[:-7])


def lose_description(directory):
    """What says which arrays there are."""
    (directory / "state" / "_METADATA").unlink()


def garble_description(directory):
    (directory / "state" / "_METADATA").write_text('{"tree_')


DAMAGES = (
    *(flip_bit, truncate, empty, lose_data, garble_data),
    *(lose_chunk, lose_manifest, garble_manifest, lose_description, garble_description),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    tmp_path, made, damage, caplog
):
    save(tmp_path, made[1], [1, 2, 3])
    damage(tmp_path / "checkpoints" / "3")
    with Checkpointer(tmp_path) as checkpointer:
        state, data = checkpointer.restore(made[0])
        assert int(state.step) == 2 and data == {"at": 2}
        checkpointer.save(at(state, 3), {"at": 3})  # the step can be done again
        checkpointer.wait()
        assert int(checkpointer.restore(made[0])[0].step) == 3
    assert (tmp_path / "damaged" / "3").exists()
    assert "checkpoint 3" in caplog.text


@pytest.mark.slow
def test_a_bit_flipped_anywhere_is_never_restored(tmp_path, made):
    """20 random places of the state on disk: detected, or in unused bytes."""
    rng, detected = random.Random(0), 0
    save(tmp_path / "whole", made[1], [1, 2])
    for n in range(20):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / str(n))
        files = sorted(
            f for f in (copy / "checkpoints/2/state").rglob("*") if f.is_file()
        )
        sizes = [f.stat().st_size for f in files]
        (path,) = rng.choices(files, sizes)
        raw = bytearray(path.read_bytes())
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        with Checkpointer(copy) as checkpointer:
            try:
                state, _ = checkpointer.restore(made[0])
            except Unusable:  # it is unreadable, and no bytes prove the damage
                detected += 1
                continue
        detected += int(state.step) == 1
        equal(state, at(made[1], int(state.step)))
    print(f"{detected} of 20 flipped bits were detected, the rest changed nothing")
    assert detected


def test_a_directory_without_a_valid_checkpoint_is_not_started_from_scratch(
    tmp_path, made
):
    save(tmp_path, made[1], [1])
    truncate(tmp_path / "checkpoints" / "1")
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(RuntimeError, match=r"all checkpoints of .* are damaged"),
    ):
        checkpointer.restore(made[0])
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(Unusable, match=r"they were moved to .*damaged"),
    ):
        checkpointer.restore(made[0])  # nor by the same command, given again


OTHER_CAUSES = {
    "memory": MemoryError(),
    "device memory": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    "file handles": OSError(24, "Too many open files"),
    "rights": PermissionError(13, "Permission denied"),
    "locale": UnicodeDecodeError("ascii", b"\xc3", 0, 1, "ordinal not in range(128)"),
    "another version": KeyError("key_metadata"),
}


@pytest.mark.parametrize("place", ["shapes_in", "read_verified"])
@pytest.mark.parametrize("cause", OTHER_CAUSES)
def test_a_whole_checkpoint_that_cannot_be_read_stays_where_it_is(
    tmp_path, made, place, cause, monkeypatch
):
    save(tmp_path, made[1], [1, 2])

    def fail(*_):
        raise OTHER_CAUSES[cause]

    with monkeypatch.context() as patch, Checkpointer(tmp_path) as checkpointer:
        for module in ("checkpointer", "params"):
            patch.setattr(f"ldm_jax.training.checkpoints.{module}.{place}", fail)
        with pytest.raises(Unusable, match="checkpoints/2 could not be read") as error:
            checkpointer.restore(made[0])
        assert len(str(error.value).splitlines()) == 1
        with pytest.raises(Unusable, match="it stays where it is"):
            load_params(tmp_path)
    assert not (tmp_path / "damaged").exists()
    with Checkpointer(tmp_path) as checkpointer:
        assert int(checkpointer.restore(made[0])[0].step) == 2


def test_foreign_files_are_left_alone(tmp_path, made):
    """F9: foreign files and folders next to checkpoints, among them a number."""
    save(tmp_path, made[1], [1])
    folder = tmp_path / "checkpoints"
    (folder / "notes.txt").write_text("")
    (folder / "7").write_text("")
    (folder / "old").mkdir()
    (folder / "1.copy").mkdir()
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        state, _ = checkpointer.restore(made[0])
        assert int(state.step) == 1
        checkpointer.save(at(state, 2), {})
        checkpointer.wait()
    left = {path.name for path in folder.iterdir()}
    assert left == {"notes.txt", "7", "old", "1.copy", "2"}


def other(shapes, change):
    """Returns the shapes of a run with another model."""
    params = jax.tree.map(lambda x: x, shapes.params)
    wide = jax.ShapeDtypeStruct((8, 2 * WIDTH), jnp.float32)
    if change == "wider":
        params["unet"]["mlp"]["in"]["kernel"] = wide
    elif change == "deeper":
        params["unet"]["mlp"]["between"] = {"kernel": wide}
    else:
        return shapes.replace(ema={})
    return shapes.replace(params=params)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("wider", "params/unet/mlp/in/kernel: float32[8, 16] -> float32[8, 32]"),
        ("deeper", "params/unet/mlp/between/kernel: (absent) -> float32[8, 32]"),
        ("without average", "ema/unet/mlp/in/kernel: float32[8, 16] -> (absent)"),
    ],
)
def test_another_model_is_refused_in_a_few_lines_before_anything_is_read(
    tmp_path, made, change, line, monkeypatch
):
    """F10; other settings are refused before, by config.json."""
    save(tmp_path, made[1], [1])
    monkeypatch.setattr("ldm_jax.training.checkpoints.checkpointer.read_verified", None)
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(ValueError) as error:
        checkpointer.restore(other(made[0], change))
    assert line in str(error.value) and len(str(error.value).splitlines()) <= 15
    assert (tmp_path / "checkpoints" / "1").exists()


def test_another_optimizer_is_refused_in_a_few_lines(tmp_path, made):
    save(tmp_path, made[1], [1])
    adamw = make_optimizer()
    nested = adamw._replace(
        init=lambda p: {n: {"adam": s} for n, s in adamw.init(p).items()}
    )
    shapes, _ = states(optimizer=nested)
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(ValueError) as error:
        checkpointer.restore(shapes)
    assert "of another model" in str(error.value)
    assert "opt_state/unet" in str(error.value) and "more" in str(error.value)
    assert len(str(error.value).splitlines()) <= 15
    assert (tmp_path / "checkpoints" / "1").exists()


def test_another_dtype_is_not_cast_silently(tmp_path, made):
    save(tmp_path, made[1], [1])
    half = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding),
        made[0].ema,
    )
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(ValueError) as error:
        checkpointer.restore(made[0].replace(ema=half))
    assert "float32[8, 16] -> bfloat16[8, 16]" in str(error.value)


def test_the_latest_and_the_best_stay_though_a_value_is_not_finite(tmp_path, made):
    """fid 2 at step 4 is the best, nan at step 2 the worst; so after a restart."""
    fids = {1: 9.0, 2: float("nan"), 3: 7.0, 4: 2.0, 5: 8.0, 6: 6.0}
    for part in ([1, 2, 3, 4], [5, 6]):
        with Checkpointer(tmp_path, keep=2, best="fid") as checkpointer:
            for step in part:
                checkpointer.save(at(made[1], step), {})
                checkpointer.note(step, {"fid": fids[step]})
            checkpointer.wait()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 5, 6]


def test_high_values_can_be_the_best_and_checkpoints_without_one_are_not(
    tmp_path, made
):
    with Checkpointer(tmp_path, keep=1, best="psnr", best_is_lowest=False) as saver:
        for step, psnr in enumerate([30.0, 20.0, None, None]):
            saver.save(at(made[1], step), {})
            if psnr is not None:
                saver.note(step, {"psnr": psnr})
        saver.wait()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [0, 3]


def test_another_runs_settings_are_refused_with_the_differences(tmp_path):
    config = {"unet": {"channels": 64, "heads": 2}, "train": {"num_steps": 5}}
    with Checkpointer(tmp_path, Settings(config)):
        pass
    other = {"unet": {"channels": 128, "heads": 2}, "train": {"num_steps": 9}}
    with pytest.raises(ValueError) as error:
        Checkpointer(tmp_path, Settings(other, {"train.num_steps": True}.get))
    assert "unet.channels: 64 -> 128" in str(error.value)
    assert "num_steps" not in str(error.value)
    config["train"]["num_steps"] = 9
    with Checkpointer(tmp_path, Settings(config, {"train.num_steps": True}.get)):
        pass


def test_unfinished_checkpoints_of_a_killed_run_are_cleaned_up(tmp_path, made):
    save(tmp_path, made[1], [1])
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    with Checkpointer(tmp_path) as checkpointer:
        assert int(checkpointer.restore(made[0])[0].step) == 1
    assert not left.exists()


def test_only_the_loop_uses_the_preemption_service(tmp_path, made, monkeypatch):
    """It would take a checkpoint's step for the one that the run has come to."""
    asked = []
    ask = "jax.experimental.multihost_utils.reached_preemption_sync_point"
    monkeypatch.setattr(ask, asked.append)
    save(tmp_path, made[1], [1, 2])
    assert not asked


def test_params_of_a_model_directory_are_averaged_or_raw(tmp_path, made):
    state = made[1].replace(ema=jax.tree.map(lambda x: x + 1, made[1].ema))
    save(tmp_path, state, [1, 2])
    lose_data(tmp_path / "checkpoints" / "2")
    equal(load_params(tmp_path, "raw"), state.params)
    equal(load_params(tmp_path)["unet"], state.ema["unet"])
    equal(load_params(tmp_path)["conditioner"], state.params["conditioner"])
    with pytest.raises(ValueError, match="ema"):
        load_params(tmp_path, "mean")
    with pytest.raises(FileNotFoundError, match="no undamaged checkpoint"):
        load_params(tmp_path, step=2)
    with pytest.raises(FileNotFoundError, match="is not a model directory"):
        load_params(tmp_path / "nowhere")


def test_a_directory_that_cannot_be_written_fails_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Checkpointer(tmp_path / "file")


def test_an_error_of_saving_names_the_path_and_the_free_space(
    tmp_path, made, monkeypatch
):
    def full(*_, **__):
        raise OSError("No space left on device\nand a long traceback")

    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "save", full)
        with pytest.raises(OSError, match=f"{tmp_path} .*GiB free.*No space left") as e:
            checkpointer.save(made[1], {})
    assert len(str(e.value).splitlines()) == 1
