# SPDX-License-Identifier: Apache-2.0
"""Every kind of condition: what enters, what null means, what is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.kinds import CONDITIONS, make_conditioner
from ldm_jax.data.transforms.pixels import to_unit_range
from ldm_jax.files.png import to_uint8
from ldm_jax.models.autoencoder import Autoencoder

FIRST_STAGE = dict(
    channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    latent_channels=3,
    bottleneck="vq",
    num_codes=8,
    mid_attention=False,
)
TEXT = dict(width=8, depth=1, length=6)
KINDS = {
    "none": {},
    "class": dict(num_classes=4, width=8),
    "text": TEXT,
    "layout": dict(num_classes=5, width=8, depth=1, max_objects=2),
    "semantic": dict(num_classes=3, f=2, out_channels=2),
    "superres": {},
    "inpaint": dict(autoencoder=FIRST_STAGE, latent_scale=0.5),
    "hybrid": dict(
        parts={"text": dict(kind="text", **TEXT), "small": dict(kind="superres")}
    ),
}
B = 3


def batch():
    rng = np.random.default_rng(0)
    fields = {
        "label": rng.integers(0, 4, B),
        "tokens": rng.integers(0, 100, (B, 6)),
        "label_map": rng.integers(0, 3, (B, 8, 8)),
    }
    fields = {name: jnp.asarray(x, jnp.int32) for name, x in fields.items()}
    for name, size, channels in (("image", 8, 3), ("low_res", 4, 3)):
        values = rng.uniform(-1, 1, (B, size, size, channels))
        fields[name] = jnp.asarray(values, jnp.float32)
    fields["mask"] = jnp.asarray(rng.integers(0, 2, (B, 8, 8, 1)), jnp.float32)
    return fields


def batch_of(kind):
    y = batch()
    if kind == "layout":
        y["tokens"] = jnp.tile(y["tokens"], (1, 2))[:, :8]
    return y


@pytest.fixture(scope="module")
def frozen():
    first_stage = Autoencoder(**FIRST_STAGE)
    image = jnp.zeros((1, 8, 8, 3))
    return {
        "autoencoder": jax.jit(first_stage.init)(jax.random.key(0), image)["params"]
    }


def make(kind, frozen):
    conditioner = make_conditioner(kind, **KINDS[kind])
    y = batch_of(kind)
    # Compiled whole: op by op, the CPU compiles each op of each shape anew.
    return conditioner, jax.jit(conditioner.init)(jax.random.key(0), y), y


SHAPES = {
    "none": (None, None),
    "class": ((B, 1, 8), None),
    "text": ((B, 6, 8), None),
    "layout": ((B, 8, 8), None),
    "semantic": (None, (B, 4, 4, 2)),
    "superres": (None, (B, 4, 4, 3)),
    "inpaint": (None, (B, 4, 4, 4)),
    "hybrid": ((B, 6, 8), (B, 4, 4, 3)),
}


def test_every_kind_is_tried_here():
    assert set(KINDS) == set(CONDITIONS) == set(SHAPES)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_condition_and_null_enter_with_the_same_shapes(kind, frozen):
    conditioner, params, y = make(kind, frozen)
    cond = jax.eval_shape(conditioner.encode, params, y, frozen)
    null = jax.eval_shape(conditioner.encode, params, conditioner.null(y), frozen)
    for said in (cond, null):
        found = [None if x is None else x.shape for x in (said.context, said.concat)]
        assert tuple(found) == SHAPES[kind]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none"}))
def test_null_is_one_and_the_same_for_every_sample(kind, frozen):
    """Identity: what says nothing cannot depend on what was said."""
    conditioner, params, y = make(kind, frozen)
    null = jax.jit(conditioner.encode)(params, conditioner.null(y), frozen)
    for x in jax.tree.leaves(null):
        np.testing.assert_allclose(x, jnp.broadcast_to(x[:1], x.shape), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none"}))
def test_dropping_replaces_whole_samples_by_null(kind, frozen):
    conditioner, _, y = make(kind, frozen)
    null = conditioner.null(y)
    dropped = conditioner.drop(y, jax.random.key(3), 0.5)
    lost = np.asarray(jax.random.bernoulli(jax.random.key(3), 0.5, (B,)))
    assert 0 < lost.sum() < B
    for name in conditioner.fields:
        for i in range(B):
            source = null if lost[i] else y
            np.testing.assert_array_equal(dropped[name][i], source[name][i])
    assert conditioner.drop(y, jax.random.key(3), 0.0) is y


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_parameters_need_only_shapes(kind, frozen):
    """Shapes first: planning a run draws nothing."""
    conditioner, params, y = make(kind, frozen)
    shapes = jax.eval_shape(lambda: y)
    drawn = jax.eval_shape(lambda key: conditioner.init(key, shapes), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, drawn) == jax.tree.map(
        lambda x: x.shape, params
    )


def test_class_without_width_is_handed_to_the_unet():
    conditioner = make_conditioner("class", num_classes=4, width=None)
    y = batch()
    assert conditioner.init(jax.random.key(0), y) == {}
    assert (conditioner.encode({}, y).class_label == y["label"]).all()
    assert (conditioner.null(y)["label"] == 4).all()


def test_class_without_null_can_neither_be_dropped_nor_guided():
    """The published cin256 has 1000 classes and no null; cin256-v2 has one more."""
    conditioner = make_conditioner("class", num_classes=4, has_null=False)
    y = batch()
    assert conditioner.init(jax.random.key(0), y)["embedding"].shape == (4, 512)
    with pytest.raises(ValueError, match="has_null=True"):
        conditioner.drop(y, jax.random.key(0), 0.1)


@pytest.mark.parametrize("label", [-1, 4, 7])
def test_labels_of_the_data_beyond_the_classes_are_refused(label):
    """4 would be the null, 7 be read as 4: a table clamps its indices, silently."""
    conditioner = make_conditioner("class", num_classes=4, width=8)
    assert conditioner.prepare({"label": np.int32(3)}) == {"label": 3}
    with pytest.raises(ValueError, match=rf"in \[0, 4\).*num_classes: got {label};"):
        conditioner.prepare({"label": np.int32(label)})


def test_no_label_of_256_is_none_of_them():
    """Maps are stored in uint8, which has no 256."""
    conditioner = make_conditioner("semantic", num_classes=256, f=2)
    null = conditioner.null({"label_map": jnp.zeros((1, 2, 2), jnp.uint8)})
    assert null["label_map"].tolist() == [[[256, 256], [256, 256]]]


def test_null_text_is_the_empty_text():
    """Paper: the published text model is guided by the encoding of ""."""
    conditioner = make_conditioner("text", **TEXT)
    null = conditioner.null(batch())
    empty = conditioner.from_user("")
    np.testing.assert_array_equal(null["tokens"][0], empty["tokens"][0])


def test_caption_and_boxes_of_a_record_become_tokens():
    text = make_conditioner("text", **TEXT)
    assert text.prepare({"caption": "ab"})["tokens"].tolist() == [100, 101, 1, 0, 0, 0]
    layout = make_conditioner("layout", **KINDS["layout"])
    record = {"boxes": np.array([[0, 0, 1, 1]]), "box_labels": np.array([2])}
    assert layout.prepare(record)["tokens"][0] == 2


def test_inpainting_hides_the_hole_and_slices_the_mask(frozen):
    """Golden: masked image encoded, mask as -1 and 1 (hole) at every f-th pixel.

    Source: latent-diffusion, scripts/inpaint.py.
    """
    conditioner, params, y = make("inpaint", frozen)
    encode = jax.jit(conditioner.encode)
    cond = encode(params, y, frozen).concat
    np.testing.assert_array_equal(cond[..., 3:], 2 * y["mask"][:, ::2, ::2] - 1)
    first_stage = Autoencoder(**FIRST_STAGE)
    variables = {"params": frozen["autoencoder"]}
    masked = (1 - y["mask"]) * (y["image"] + 1) / 2 * 2 - 1
    latent = jax.jit(first_stage.apply, static_argnames="method")(
        variables, masked, method="encode"
    )
    np.testing.assert_allclose(cond[..., :3], 0.5 * latent, atol=1e-5)
    other = {**y, "image": jnp.where(y["mask"] > 0.5, 0.3, y["image"])}
    again = encode(params, other, frozen).concat
    np.testing.assert_array_equal(cond, again)


def test_clip_text_comes_from_frozen_parameters():
    fields = dict(encoder="clip", num_heads=2, **TEXT)
    conditioner = make_conditioner("text", **fields)
    y = batch()
    assert conditioner.init(jax.random.key(0), y) == {}
    with pytest.raises(ValueError, match=r'needs frozen\["conditioner"\]'):
        conditioner.encode({}, y)


def test_parts_of_a_hybrid_keep_their_names_and_may_not_share_a_field(frozen):
    _, params, _ = make("hybrid", frozen)
    assert set(params) == {"text"}
    clash = {"a": dict(kind="superres"), "b": dict(kind="superres")}
    with pytest.raises(ValueError, match="different fields"):
        make_conditioner("hybrid", parts=clash)


def test_hybrid_takes_what_each_part_takes():
    conditioner = make_conditioner("hybrid", **KINDS["hybrid"])
    small = np.zeros((4, 4, 3), np.uint8)
    fields = conditioner.from_user(text="a cat", small=small)
    assert set(fields) == {"tokens", "low_res"}
    with pytest.raises(ValueError, match="takes small, text: got text"):
        conditioner.from_user(text="a cat")


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("clas", {}, "one of: class, hybrid, inpaint"),
        ("semantic", dict(num_classes=3, f=6), "power of two"),
        ("text", dict(encoder="t5"), "one of: clip, transformer"),
    ],
)
def test_unknown_choices_are_refused_with_the_list(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        make_conditioner(kind, **fields)


def test_missing_field_of_a_batch_is_named():
    conditioner = make_conditioner("class", num_classes=4)
    with pytest.raises(ValueError, match="reads label of a batch: got a batch of x"):
        conditioner.encode({}, {"x": jnp.zeros(1)})


def test_missing_first_stage_is_named():
    conditioner = make_conditioner("inpaint", **KINDS["inpaint"])
    with pytest.raises(ValueError, match=r'needs frozen\["autoencoder"\]'):
        conditioner.encode({}, batch())


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("none", None),
        ("class", None),
        ("semantic", (8, 8)),
        ("superres", (16, 16)),
        ("inpaint", (8, 8)),
        ("hybrid", (16, 16)),
    ],
)
def test_pictures_say_how_large_the_samples_are(kind, size):
    assert make_conditioner(kind, **KINDS[kind]).image_size(batch_of(kind)) == size


def test_what_is_outside_of_the_hole_keeps_each_of_its_256_levels():
    """Identity: through floats, the paste, and the cut to bytes."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    mask = np.zeros((1, 16, 16, 1), np.float32)
    mask[:, 3] = 1
    y = {"image": to_unit_range(levels), "mask": mask}
    painter = make_conditioner("inpaint", **KINDS["inpaint"])
    found = to_uint8(jax.jit(painter.finish)(y, jnp.full(levels.shape, -1.0)))
    np.testing.assert_array_equal(found, np.where(mask > 0, 0, levels))


def test_a_condition_learns_of_the_first_stage_what_it_is_not_told():
    first_stage = (Autoencoder(**FIRST_STAGE), 3.0)
    semantic = make_conditioner("semantic", first_stage, num_classes=3)
    assert semantic.module.num_stages == 1
    assert make_conditioner("superres", first_stage).image_size(batch()) == (8, 8)
    told = make_conditioner("semantic", first_stage, num_classes=3, f=8)
    assert told.module.num_stages == 3


def test_the_latent_of_an_image_with_a_hole_is_scaled_as_the_models_own(frozen):
    """Imported models name their first stage, and the original does not scale there."""
    y, first_stage = batch(), (Autoencoder(**FIRST_STAGE), 3.0)
    plain, scaled = (
        jax.jit(make_conditioner("inpaint", first_stage, **own).encode)({}, y, frozen)
        for own in (dict(autoencoder=FIRST_STAGE), {})
    )
    np.testing.assert_allclose(
        scaled.concat[..., :3], 3 * plain.concat[..., :3], rtol=1e-5, atol=1e-6
    )
