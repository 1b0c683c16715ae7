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

import inspect

import jax.numpy as jnp

from ldm_jax.conditions import user_inputs
from ldm_jax.conditions.base import Conditioner, join
from ldm_jax.conditions.layout import Layout, add_layout
from ldm_jax.conditions.picture_conditions import (
    inpaint_condition,
    semantic_condition,
    superres_condition,
)
from ldm_jax.conditions.tokens import add_caption, make_tokenizer
from ldm_jax.conditions.vocabulary import EMPTY_TEXT, without_vocabulary
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import ClassToken, TokenTransformer
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

    def prepare(record):
        # On a device an index outside of a table reads its nearest row, silently.
        if "label" in record and not 0 <= record["label"] < num_classes:
            raise ValueError(
                f"labels of the data must lie in [0, {num_classes}), which is "
                f"condition.num_classes: got {int(record['label'])}; set it to the "
                "number of classes that the data have."
            )
        return record

    return Conditioner(
        kind="class",
        fields=("label",),
        module=None if width is None else ClassToken(num_classes + has_null, width),
        module_input="label",
        encode_fields=encode,
        null_fields=null if has_null else None,
        prepare=prepare,
        from_user=lambda class_label: user_inputs.labels(
            class_label, num_classes, class_names
        ),
        num_ids=num_classes + has_null,
    )


def text_condition(
    width: int = 512,
    depth: int = 8,
    encoder: str = "transformer",
    tokenizer: str = "bytes",
    length: int = 77,
    vocab: str | None = None,
    merges: str | None = None,
    is_frozen: bool | None = None,
    dtype: jnp.dtype = jnp.float32,
    **encoder_fields,
) -> Conditioner:
    """Makes a text into tokens [B, M] int32 and these into a context [B, M, d].

    Args:
      width, depth: of the text encoder; 1280 and 32 in the published 1.45B model.
      encoder: "transformer", as the paper's, or "clip".
      is_frozen: whether the encoder is never trained, and its parameters come in as
        frozen["conditioner"]; None: a "clip" one is.
      tokenizer, length, vocab, merges: see `make_tokenizer`; without the files that
        "bert" and "clip" need, the model is told tokens, and no text but "".
      dtype: dtype of the encoder's arithmetic.
      **encoder_fields: other fields of `TokenTransformer` or `ClipText`.
    """
    if tokenizer in EMPTY_TEXT and vocab is None and merges is None:
        words = without_vocabulary(tokenizer, length)
    else:
        words = make_tokenizer(tokenizer, length, vocab, merges)
    networks = {"transformer": TokenTransformer, "clip": ClipText}
    if encoder not in networks:
        raise ValueError(
            f'unknown text encoder "{encoder}"; one of: {", ".join(sorted(networks))}.'
        )
    fields = dict(vocab_size=words.vocab_size, width=width, depth=depth, length=length)
    network = networks[encoder](**(fields | encoder_fields), dtype=dtype)

    def fitting_words():
        """The tokenizer; a model that is told tokens only needs none that fits."""
        if network.vocab_size < words.vocab_size:
            raise ValueError(
                f'the tokenizer "{tokenizer}" makes ids in [0, {words.vocab_size}): '
                f"got a text encoder of vocab_size={network.vocab_size}; give it the "
                "tokenizer that it was trained with."
            )
        return words

    if vocab is not None:  # texts are meant
        fitting_words()
    if is_frozen is None:
        is_frozen = encoder == "clip"
    return token_condition(
        "text",
        network,
        null_tokens=words.encode([""])[0],
        prepare=lambda record: add_caption(record, fitting_words()),
        from_user=lambda text: user_inputs.prompts(text, fitting_words()),
        num_ids=network.vocab_size,
        reads_frozen=("conditioner",) if is_frozen else (),
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
      num_classes, vocab_size, max_objects, has_attributes: see `layout.Layout`.
      width, depth: of the transformer; the defaults are the published ones.
      class_names: names that a user may say instead of numbers.
      dtype: dtype of the transformer's arithmetic.
    """
    layout = Layout(num_classes, vocab_size, max_objects, has_attributes)
    network = TokenTransformer(vocab_size, width, depth, layout.length, dtype=dtype)
    return token_condition(
        "layout",
        network,
        null_tokens=layout.encode([]),
        prepare=lambda record: add_layout(record, layout),
        from_user=lambda boxes: user_inputs.layouts(boxes, layout, class_names),
        num_ids=vocab_size,
    )


def token_condition(
    kind, network, null_tokens, prepare, from_user, num_ids, reads_frozen=()
):
    """Makes a conditioner whose field is rows of token ids."""

    def encode(apply, batch, frozen):
        del frozen
        return Conditioning(context=apply(batch["tokens"]))

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
        num_ids=num_ids,
    )


def hybrid_condition(
    parts: dict[str, dict],
    autoencoder: Autoencoder | None = None,
    latent_scale: float | None = None,
) -> Conditioner:
    """Joins several conditions: contexts along tokens, concats along channels.

    Args:
      parts: name of a part -> its kind and fields; two parts may not read one field.
      autoencoder, latent_scale: of the model, for the parts that ask for them.
    """
    first_stage = None if autoencoder is None else (autoencoder, latent_scale)
    made = {
        name: make_conditioner(**p, first_stage=first_stage)
        for name, p in sorted(parts.items())
    }
    return join(made)


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


def make_conditioner(
    kind: str, first_stage: tuple[Autoencoder, float | None] | None = None, **fields
) -> Conditioner:
    """Makes a conditioner by name.

    Args:
      kind: a key of CONDITIONS.
      first_stage: (autoencoder, latent scale) of the model; gives a kind its fields
        "autoencoder", "latent_scale" and "f" where `fields` do not say them.
      **fields: of that kind.

    Raises:
      ValueError: the kind is unknown.
      TypeError: a field is unknown or missing.
    """
    if kind not in CONDITIONS:
        raise ValueError(
            f'unknown condition "{kind}"; one of: {", ".join(sorted(CONDITIONS))}.'
        )
    maker = CONDITIONS[kind]
    if first_stage is not None:
        autoencoder, scale = first_stage
        facts = dict(autoencoder=autoencoder, latent_scale=scale, f=autoencoder.f)
        if "autoencoder" in fields:
            # A condition with a first stage of its own, as imported models have: the
            # original does not scale what it encodes for a condition.
            del facts["latent_scale"]
        takes = inspect.signature(maker).parameters
        fields = {k: v for k, v in facts.items() if k in takes} | fields
    return maker(**fields)
