# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's files hold what was logged; Weights & Biases gets it on request."""

import errno
import struct
import sys
import types

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from ldm_jax.parallel.sharding import batch_sharding, make_mesh
from ldm_jax.training.monitoring.boards import TensorBoard, WeightsAndBiases
from ldm_jax.training.monitoring.histograms import histograms

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(scope="module")
def spread():
    """Histograms of an array split over the devices, and the array."""
    mesh = make_mesh()
    x = np.random.default_rng(0).standard_normal((16, 50)).astype(np.float32)
    return x, histograms({"unet": {"k": jax.device_put(x, batch_sharding(mesh))}}, mesh)


def log_to(board, spread):
    board.scalars(3, {"loss": 0.5})
    board.image(3, "samples", IMAGE)
    board.histogram(3, "unet/k", spread["unet/k"])
    board.close()


def events(directory):
    """Reads TensorBoard's files: records of length, checksum, Event, checksum."""
    (path,) = (directory / "tensorboard").iterdir()
    raw, records = path.read_bytes(), []
    while raw:
        (size,) = struct.unpack("<Q", raw[:8])
        records.append(Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    return records


def test_a_histogram_counts_every_value_of_a_sharded_array(spread):
    """Oracle: NumPy's."""
    x, result = spread
    counts, edges = np.histogram(x, 64)
    np.testing.assert_allclose(result["unet/k"].edges, edges, atol=1e-6)
    assert np.abs(result["unet/k"].counts - counts).sum() <= 4  # values on an edge
    assert result["unet/k"].counts.sum() == x.size
    np.testing.assert_allclose(result["unet/k"].sum_of_squares, (x**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("method", ["write", "flush", "close"])
def test_a_full_disk_is_an_error_of_the_next_call(tmp_path, monkeypatch, method):
    """Without an end of the thread that writes: more than its queue's ten are added."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    board = TensorBoard(tmp_path, 0)
    monkeypatch.setattr(RecordWriter, method, fail)
    with pytest.raises(OSError, match=rf"{tmp_path}/tensorboard .*No space left"):
        board.scalars(1, {f"loss_{i}": 0.5 for i in range(50)})
        board.close()


def test_tensorboard_files_hold_scalars_images_and_histograms(tmp_path, spread):
    log_to(TensorBoard(tmp_path, 0), spread[1])
    values = {v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value}
    assert values["loss"][1].simple_value == 0.5
    assert values["samples"][1].image.width == 4
    assert values["unet/k"][1].histo.num == spread[0].size
    assert {step for step, _ in values.values()} == {3}


class FakeRun:
    """Notes what is logged, as wandb's run would."""

    def __init__(self, **fields):
        self.fields, self.logged, self.finished = fields, [], False

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished = True


def test_weights_and_biases_receives_the_same_and_its_run_is_resumed(
    tmp_path, spread, monkeypatch
):
    runs = []

    def init(**fields):
        runs.append(FakeRun(**fields))
        return runs[-1]

    fake = types.ModuleType("wandb")
    fake.init, fake.Image, fake.Histogram = init, lambda x: x, lambda **x: x
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        log_to(WeightsAndBiases(tmp_path, "digits", {"seed": 1}), spread[1])
    assert runs[0].fields["id"] == runs[1].fields["id"] != ""
    assert runs[0].fields["project"] == "digits"
    assert runs[0].fields["resume"] == "allow"
    assert [row["step"] for row in runs[0].logged] == [3, 3, 3]
    assert runs[0].logged[0]["loss"] == 0.5 and runs[0].finished


def test_an_error_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'ldm_jax\[wandb\]'"):
        WeightsAndBiases(tmp_path, "digits", {})
