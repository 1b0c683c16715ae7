# SPDX-License-Identifier: Apache-2.0
"""The seven kinds of condition: which fields of a batch, and how they enter.

    kind       fields          enters by          null
    none       -               -                  -
    class      label           cross-attention    one more class
    text       tokens          cross-attention    the empty text
    layout     tokens          cross-attention    no objects
    semantic   label_map       concatenation      no label anywhere
    superres   low_res         concatenation      mid-grey
    inpaint    image, mask     concatenation      everything is hole

"hybrid" joins several of them in one model.
"""

import jax.numpy as jnp

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import ClassToken, SpatialRescaler, TokenTransformer
from ldm_jax.tasks import user_inputs
from ldm_jax.tasks.conditioner import Conditioner, join
from ldm_jax.tasks.tokens import Layout, add_caption, add_layout, make_tokenizer
from ldm_jax.types import Conditioning


def no_condition() -> Conditioner:
    """Makes the condition of an unconditional model."""
    return Conditioner("none")


def class_condition(
    num_classes: int,
    width: int | None = 512,
    has_null: bool = True,
    class_names: tuple[str, ...] = (),
) -> Conditioner:
    """Makes a class label [B] int32 into one token, or hands it on.

    Args:
      num_classes: classes; labels are in [0, num_classes).
      width: d of the token; None hands the label to the UNet, which adds its embedding
        to that of time (set UNet.num_classes to num_classes + has_null).
      has_null: whether one more class, num_classes, stands for "any".
      class_names: names that a user may say instead of numbers.
    """

    def encode(apply, batch, frozen):
        if width is None:
            return Conditioning(class_label=batch["label"])
        return Conditioning(context=apply(batch["label"]))

    def null(batch):
        return {"label": jnp.full_like(batch["label"], num_classes)}

    return Conditioner(
        kind="class",
        fields=("label",),
        module=None if width is None else ClassToken(num_classes + has_null, width),
        module_input="label",
        encode_fields=encode,
        null_fields=null if has_null else None,
        from_user=lambda labels: user_inputs.labels(labels, num_classes, class_names),
    )


def text_condition(
    width: int = 512,
    depth: int = 8,
    encoder: str = "transformer",
    tokenizer: str = "bytes",
    length: int = 77,
    vocab: str | None = None,
    merges: str | None = None,
    dtype: jnp.dtype = jnp.float32,
    **encoder_fields,
) -> Conditioner:
    """Makes a text into tokens [B, M] int32 and these into a context [B, M, d].

    Args:
      width, depth: of the text encoder; 1280 and 32 in the published 1.45B model.
      encoder: "transformer", trained with the denoiser, or "clip", frozen; the latter's
        parameters come in as frozen["conditioner"].
      tokenizer, length, vocab, merges: see `make_tokenizer`.
      dtype: dtype of the encoder's arithmetic.
      **encoder_fields: other fields of `TokenTransformer` or `ClipText`.
    """
    words = make_tokenizer(tokenizer, length, vocab, merges)
    networks = {"transformer": TokenTransformer, "clip": ClipText}
    if encoder not in networks:
        raise ValueError(
            f'unknown text encoder "{encoder}"; one of: {", ".join(sorted(networks))}.'
        )
    fields = dict(vocab_size=words.vocab_size, width=width, depth=depth, length=length)
    network = networks[encoder](**(fields | encoder_fields), dtype=dtype)
    is_frozen = encoder == "clip"

    def encode(apply, batch, frozen):
        if not is_frozen:
            return Conditioning(context=apply(batch["tokens"]))
        if "conditioner" not in frozen:
            raise ValueError(
                'a "clip" text encoder needs frozen["conditioner"], its parameters: '
                f"got {sorted(frozen)}; load them from a CLIP file."
            )
        variables = {"params": frozen["conditioner"]}
        return Conditioning(context=network.apply(variables, batch["tokens"]))

    return token_condition(
        "text",
        None if is_frozen else network,
        encode,
        reads_frozen=("conditioner",) if is_frozen else (),
        null_tokens=words.encode([""])[0],
        prepare=lambda record: add_caption(record, words),
        from_user=lambda prompts: user_inputs.prompts(prompts, words),
    )


def layout_condition(
    num_classes: int,
    width: int = 512,
    depth: int = 16,
    vocab_size: int = 8192,
    max_objects: int = 30,
    has_attributes: bool = False,
    class_names: tuple[str, ...] = (),
    dtype: jnp.dtype = jnp.float32,
) -> Conditioner:
    """Makes boxes into tokens [B, 3 * max_objects + 2] and these into a context.

    Args:
      num_classes, vocab_size, max_objects, has_attributes: see `tokens.Layout`.
      width, depth: of the transformer; the defaults are the published ones.
      class_names: names that a user may say instead of numbers.
      dtype: dtype of the transformer's arithmetic.
    """
    layout = Layout(num_classes, vocab_size, max_objects, has_attributes)
    network = TokenTransformer(vocab_size, width, depth, layout.length, dtype=dtype)
    return token_condition(
        "layout",
        network,
        lambda apply, batch, frozen: Conditioning(context=apply(batch["tokens"])),
        null_tokens=layout.encode([]),
        prepare=lambda record: add_layout(record, layout),
        from_user=lambda boxes: user_inputs.layouts(boxes, layout, class_names),
    )


def token_condition(
    kind, network, encode, null_tokens, prepare, from_user, reads_frozen=()
):
    """Makes a conditioner whose field is rows of token ids."""

    def null(batch):
        tokens = jnp.asarray(null_tokens)[None]
        return {"tokens": jnp.broadcast_to(tokens, batch["tokens"].shape)}

    return Conditioner(
        kind=kind,
        fields=("tokens",),
        module=network,
        module_input="tokens",
        reads_frozen=reads_frozen,
        encode_fields=encode,
        null_fields=null,
        prepare=prepare,
        from_user=from_user,
    )


def semantic_condition(
    num_classes: int, f: int, out_channels: int = 3, class_names: tuple[str, ...] = ()
) -> Conditioner:
    """Makes a label map [B, H, W] into channels [B, H/f, W/f, out_channels].

    Args:
      num_classes: labels are in [0, num_classes); any other says nothing.
      f: downsampling of the first stage, a power of two.
      out_channels: k; the published models have 3.
      class_names: for error messages.
    """
    if f < 1 or f & (f - 1):
        raise ValueError(f"f must be a power of two: got {f}.")
    rescaler = SpatialRescaler(f.bit_length() - 1, num_classes, out_channels)

    def null(batch):
        return {"label_map": jnp.full_like(batch["label_map"], num_classes)}

    return Conditioner(
        kind="semantic",
        fields=("label_map",),
        module=rescaler,
        module_input="label_map",
        encode_fields=lambda apply, batch, frozen: Conditioning(
            concat=apply(batch["label_map"].astype(jnp.int32))
        ),
        null_fields=null,
        from_user=lambda maps: user_inputs.label_maps(maps, num_classes, f),
    )


def superres_condition() -> Conditioner:
    """Joins a small image [B, h, w, 3] in [-1, 1], of the latent's size, to z_t.

    The published model enlarges four times with f = 4, so that the two sizes agree.
    """
    return Conditioner(
        kind="superres",
        fields=("low_res",),
        encode_fields=lambda apply, batch, frozen: Conditioning(
            concat=batch["low_res"]
        ),
        null_fields=lambda batch: {"low_res": jnp.zeros_like(batch["low_res"])},
        from_user=lambda images: user_inputs.images(images),
    )


def inpaint_condition(
    autoencoder: Autoencoder | dict, latent_scale: float = 1.0
) -> Conditioner:
    """Joins the latent of an image with its hole blackened, and the mask, to z_t.

    `image` is [B, H, W, 3] in [-1, 1]; `mask` is [B, H, W, 1], 1 in the hole, 0 where
    the image is kept. The mask enters as -1 and 1, every f-th pixel of it: that is how
    PyTorch's nearest resizing shrinks, and how the published model was trained.

    Args:
      autoencoder: the first stage (or its fields); its parameters come in as
        frozen["autoencoder"].
      latent_scale: what its latents are multiplied by; 1 for the published VQ model.
    """
    network = (
        autoencoder
        if isinstance(autoencoder, Autoencoder)
        else Autoencoder(**autoencoder)
    )

    def encode(apply, batch, frozen):
        if "autoencoder" not in frozen:
            raise ValueError(
                'the "inpaint" condition needs frozen["autoencoder"], the first '
                f"stage's parameters: got {sorted(frozen)}."
            )
        hole = batch["mask"] > 0.5
        seen = jnp.where(hole, -1.0, batch["image"])
        variables = {"params": frozen["autoencoder"]}
        moments = network.apply(variables, seen, method="encode")
        latent = latent_scale * network.regularizer.sample(moments, None)
        mask = jnp.where(hole, 1.0, -1.0)[:, :: network.f, :: network.f]
        return Conditioning(concat=jnp.concatenate([latent, mask], axis=-1))

    return Conditioner(
        kind="inpaint",
        fields=("image", "mask"),
        reads_frozen=("autoencoder",),
        encode_fields=encode,
        null_fields=lambda batch: {"mask": jnp.ones_like(batch["mask"])},
        from_user=lambda images, masks: user_inputs.holes(images, masks, network.f),
    )


def hybrid_condition(parts: dict[str, dict]) -> Conditioner:
    """Joins several conditions: contexts along tokens, concats along channels.

    Args:
      parts: name of a part -> its kind and fields; two parts may not read one field.
    """
    return join(
        {name: make_conditioner(**part) for name, part in sorted(parts.items())}
    )


# Every kind of condition, by name.
CONDITIONS = {
    "none": no_condition,
    "class": class_condition,
    "text": text_condition,
    "layout": layout_condition,
    "semantic": semantic_condition,
    "superres": superres_condition,
    "inpaint": inpaint_condition,
    "hybrid": hybrid_condition,
}


def make_conditioner(kind: str, **fields) -> Conditioner:
    """Makes a conditioner by name.

    Raises:
      ValueError: the kind is unknown.
      TypeError: a field is unknown or missing.
    """
    if kind not in CONDITIONS:
        raise ValueError(
            f'unknown condition "{kind}"; one of: {", ".join(sorted(CONDITIONS))}.'
        )
    return CONDITIONS[kind](**fields)
