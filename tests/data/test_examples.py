# SPDX-License-Identifier: Apache-2.0
"""tf.Examples of this package and of TFDS are readable by each other."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ldm_jax.data.examples import SameLayout, read_example, write_example


def tfds_bytes(features, example):
    features = tfds.features.FeaturesDict(features)
    return features.serialize_example(features.encode_example(example))


def test_what_is_written_is_read_back():
    features = {"a": b"", "b": b"\n" * 3, "long name": bytes(range(256)) * 300}
    example = read_example(write_example(features))
    assert {name: values[0] for name, values in example.items()} == features


def test_tfds_reads_what_we_write():
    moments = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16)
    features = tfds.features.FeaturesDict(
        {
            "moments": tfds.features.Tensor(
                shape=(2, 3, 4), dtype=np.float16, encoding="bytes"
            )
        }
    )
    data = write_example({"moments": moments.tobytes()})
    decoded = features.deserialize_example_np(data)["moments"]
    assert np.array_equal(decoded, moments) and decoded.dtype == np.float16


def test_numbers_that_tfds_wrote_are_read():
    features = {
        "label": np.int64,
        "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "text": tfds.features.Text(),
    }
    box = np.float32([0.5, -1, 2, 3])
    data = tfds_bytes(features, {"label": -5, "box": box, "text": "naïve"})
    example = read_example(data)
    assert example["label"].tolist() == [-5]
    assert np.array_equal(example["box"], box)
    assert example["text"][0].decode() == "naïve"


@pytest.mark.parametrize("damage", ["cut", "wire type"])
def test_what_is_no_example_is_refused(damage):
    data = write_example({"label": b"12345678"})
    data = data[:-3] if damage == "cut" else b"\x0f" + data[1:]
    with pytest.raises(ValueError, match=r"not a tf\.Example"):
        read_example(data)


def test_the_fast_reader_agrees_with_the_plain_one():
    """Values that look like tags, lengths that change, an order that changes."""
    rng, reader = np.random.default_rng(0), SameLayout()
    for size in (8, 8, 300, 8, 0, 300, 20000, 8):
        features = {"x": rng.bytes(size), "y": b"\n\x12", "source_index": rng.bytes(8)}
        data = write_example(features)
        values_read = {name: bytes(value) for name, value in reader.read(data).items()}
        assert values_read == features
    one, two = (
        write_example({"aa": b"1", "bb": b"2"}),
        write_example({"cc": b"3", "dd": b"4"}),
    )
    assert len(one) == len(two)
    assert set(reader.read(one)) == {"aa", "bb"} and set(reader.read(two)) == {
        "cc",
        "dd",
    }


def test_the_fast_reader_refuses_lists_of_numbers():
    data = tfds_bytes({"label": np.int64}, {"label": 3})
    with pytest.raises(ValueError, match="label is not one bytes value"):
        SameLayout().read(data)
