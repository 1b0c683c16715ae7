# SPDX-License-Identifier: Apache-2.0
"""Tables of names of layers here, in CompVis and in diffusers, and their layouts.

A row is (path here, CompVis name, diffusers name, kind) of one layer. Placeholders in
braces are numbers: {l} level (0 finest), {b} block, {d} depth, {n} 1, 2, 3; the others
are computed from them (`name_rows.py`). If the kind is another table, the layers of
that table are inserted below the names of the row. `name_rows.rows_for` expands the
rows for the parameters of one model; import and export of both formats read its result.
"""

# kind -> layout of the kernel in CompVis's and in diffusers' files (`layouts.py`).
KINDS = {
    "vector": ("vector", "vector"),
    "conv": ("conv", "conv"),
    "dense": ("dense", "dense"),
    "proj": ("conv1x1", "conv1x1"),  # a linear map, 1x1 convolution for both of them
    "pointwise": ("conv1x1", "dense"),
    "pointwise_1d": ("conv1", "dense"),
    "qkv": ("qkv", "dense"),  # one of three parts of a CompVis tensor
}

RESNET = (
    ("norm_1", "norm1", "norm1", "vector"),
    ("conv_1", "conv1", "conv1", "conv"),
    ("norm_2", "norm2", "norm2", "vector"),
    ("conv_2", "conv2", "conv2", "conv"),
    ("skip", "nin_shortcut", "conv_shortcut", "conv"),
)

ATTENTION = (
    ("norm", "norm", "group_norm", "vector"),
    ("q", "q", "to_q", "pointwise"),
    ("k", "k", "to_k", "pointwise"),
    ("v", "v", "to_v", "pointwise"),
    ("out", "proj_out", "to_out.0", "pointwise"),
)

AUTOENCODER = (
    ("encoder/conv_in", "encoder.conv_in", "encoder.conv_in", "conv"),
    (
        "encoder/down_{l}/res_{b}",
        "encoder.down.{l}.block.{b}",
        "encoder.down_blocks.{l}.resnets.{b}",
        RESNET,
    ),
    (
        "encoder/down_{l}/attn_{b}",
        "encoder.down.{l}.attn.{b}",
        "encoder.down_blocks.{l}.attentions.{b}",
        ATTENTION,
    ),
    (
        "encoder/down_{l}/downsample/conv",
        "encoder.down.{l}.downsample.conv",
        "encoder.down_blocks.{l}.downsamplers.0.conv",
        "conv",
    ),
    (
        "encoder/mid/res_{b}",
        "encoder.mid.block_{next_b}",
        "encoder.mid_block.resnets.{b}",
        RESNET,
    ),
    (
        "encoder/mid/attn",
        "encoder.mid.attn_1",
        "encoder.mid_block.attentions.0",
        ATTENTION,
    ),
    ("encoder/norm_out", "encoder.norm_out", "encoder.conv_norm_out", "vector"),
    ("encoder/conv_out", "encoder.conv_out", "encoder.conv_out", "conv"),
    ("decoder/conv_in", "decoder.conv_in", "decoder.conv_in", "conv"),
    (
        "decoder/mid/res_{b}",
        "decoder.mid.block_{next_b}",
        "decoder.mid_block.resnets.{b}",
        RESNET,
    ),
    (
        "decoder/mid/attn",
        "decoder.mid.attn_1",
        "decoder.mid_block.attentions.0",
        ATTENTION,
    ),
    (
        "decoder/up_{l}/res_{b}",
        "decoder.up.{l}.block.{b}",
        "decoder.up_blocks.{rev_l}.resnets.{b}",
        RESNET,
    ),
    (
        "decoder/up_{l}/attn_{b}",
        "decoder.up.{l}.attn.{b}",
        "decoder.up_blocks.{rev_l}.attentions.{b}",
        ATTENTION,
    ),
    (
        "decoder/up_{l}/upsample/conv",
        "decoder.up.{l}.upsample.conv",
        "decoder.up_blocks.{rev_l}.upsamplers.0.conv",
        "conv",
    ),
    ("decoder/norm_out", "decoder.norm_out", "decoder.conv_norm_out", "vector"),
    ("decoder/conv_out", "decoder.conv_out", "decoder.conv_out", "conv"),
    ("quant_conv", "quant_conv", "quant_conv", "conv"),
    ("post_quant_conv", "post_quant_conv", "post_quant_conv", "conv"),
    ("codebook", "quantize.embedding", "quantize.embedding", "vector"),
)

# A UNet's residual block; "conv" is there in a convolution's place when resampling.
RESBLOCK = (
    ("norm_1", "in_layers.0", "norm1", "vector"),
    ("conv_1", "in_layers.2", "conv1", "conv"),
    ("time", "emb_layers.1", "time_emb_proj", "dense"),
    ("norm_2", "out_layers.0", "norm2", "vector"),
    ("conv_2", "out_layers.3", "conv2", "conv"),
    ("skip", "skip_connection", "conv_shortcut", "conv"),
)
DOWNSAMPLE = (("conv", "op", "conv", "conv"), *RESBLOCK)
UPSAMPLE = (("conv", "conv", "conv", "conv"), *RESBLOCK)

ATTENTION_BLOCK = (
    ("norm", "norm", "group_norm", "vector"),
    ("q", "qkv", "to_q", "qkv"),
    ("k", "qkv", "to_k", "qkv"),
    ("v", "qkv", "to_v", "qkv"),
    ("out", "proj_out", "to_out.0", "pointwise_1d"),
)

_BLOCK = "transformer_blocks.{d}"
SPATIAL_TRANSFORMER = (
    ("norm", "norm", "norm", "vector"),
    ("proj_in", "proj_in", "proj_in", "proj"),
    *(
        (f"block_{{d}}/{ours}", f"{_BLOCK}.{name}", f"{_BLOCK}.{name}", kind)
        for ours, name, kind in (
            ("norm_{n}", "norm{n}", "vector"),
            ("attn_{n}/q", "attn{n}.to_q", "dense"),
            ("attn_{n}/k", "attn{n}.to_k", "dense"),
            ("attn_{n}/v", "attn{n}.to_v", "dense"),
            ("attn_{n}/out", "attn{n}.to_out.0", "dense"),
            ("mlp/in", "ff.net.0.proj", "dense"),
            ("mlp/out", "ff.net.2", "dense"),
        )
    ),
    ("proj_out", "proj_out", "proj_out", "proj"),
)


def unet_table(transformer_depth: int):
    """Makes the UNet's table for plain attention (depth 0) or transformer blocks."""
    attention = SPATIAL_TRANSFORMER if transformer_depth else ATTENTION_BLOCK
    return (
        ("time_dense_0", "time_embed.0", "time_embedding.linear_1", "dense"),
        ("time_dense_1", "time_embed.2", "time_embedding.linear_2", "dense"),
        ("label_embedding", "label_emb", "class_embedding", "vector"),
        ("conv_in", "input_blocks.0.0", "conv_in", "conv"),
        (
            "down_{l}/res_{b}",
            "input_blocks.{i}.0",
            "down_blocks.{l}.resnets.{b}",
            RESBLOCK,
        ),
        (
            "down_{l}/attn_{b}",
            "input_blocks.{i}.1",
            "down_blocks.{l}.attentions.{b}",
            attention,
        ),
        (
            "down_{l}/downsample",
            "input_blocks.{i_last}.0",
            "down_blocks.{l}.downsamplers.0",
            DOWNSAMPLE,
        ),
        ("mid/res_{b}", "middle_block.{twice_b}", "mid_block.resnets.{b}", RESBLOCK),
        ("mid/attn", "middle_block.1", "mid_block.attentions.0", attention),
        (
            "up_{l}/res_{b}",
            "output_blocks.{o}.0",
            "up_blocks.{rev_l}.resnets.{b}",
            RESBLOCK,
        ),
        (
            "up_{l}/attn_{b}",
            "output_blocks.{o}.1",
            "up_blocks.{rev_l}.attentions.{b}",
            attention,
        ),
        (
            "up_{l}/upsample",
            "output_blocks.{o_last}.{behind_attention}",
            "up_blocks.{rev_l}.upsamplers.0",
            UPSAMPLE,
        ),
        ("norm_out", "out.0", "conv_norm_out", "vector"),
        ("conv_out", "out.2", "conv_out", "conv"),
    )


# The token transformer (LDMBertModel in diffusers). Attention and MLP of layer {b} are
# layers {twice_b} and {twice_b} + 1 of the original.
_PAIR = "transformer.attn_layers.layers.{twice_b}"
_NEXT = "transformer.attn_layers.layers.{twice_b_next}"
_LAYER = "model.layers.{b}"
TOKEN_TRANSFORMER = (
    (
        "token_embedding",
        "transformer.token_emb.weight",
        "model.embed_tokens.weight",
        "vector",
    ),
    (
        "position_embedding",
        "transformer.pos_emb.emb.weight",
        "model.embed_positions.weight",
        "vector",
    ),
    ("layer_{b}/norm_1", f"{_PAIR}.0", f"{_LAYER}.self_attn_layer_norm", "vector"),
    ("layer_{b}/attn/q", f"{_PAIR}.1.to_q", f"{_LAYER}.self_attn.q_proj", "dense"),
    ("layer_{b}/attn/k", f"{_PAIR}.1.to_k", f"{_LAYER}.self_attn.k_proj", "dense"),
    ("layer_{b}/attn/v", f"{_PAIR}.1.to_v", f"{_LAYER}.self_attn.v_proj", "dense"),
    (
        "layer_{b}/attn/out",
        f"{_PAIR}.1.to_out",
        f"{_LAYER}.self_attn.out_proj",
        "dense",
    ),
    ("layer_{b}/norm_2", f"{_NEXT}.0", f"{_LAYER}.final_layer_norm", "vector"),
    ("layer_{b}/mlp_in", f"{_NEXT}.1.net.0.0", f"{_LAYER}.fc1", "dense"),
    ("layer_{b}/mlp_out", f"{_NEXT}.1.net.2", f"{_LAYER}.fc2", "dense"),
    ("norm_out", "transformer.norm", "model.layer_norm", "vector"),
)

# CLIP's text tower; CompVis has the names of transformers' CLIPTextModel in a prefix.
_CLIP = "text_model.encoder.layers.{b}"
CLIP_TEXT = tuple(
    (ours, f"transformer.{name}", name, kind)
    for ours, name, kind in (
        ("token_embedding", "text_model.embeddings.token_embedding.weight", "vector"),
        (
            "position_embedding",
            "text_model.embeddings.position_embedding.weight",
            "vector",
        ),
        ("layer_{b}/norm_1", f"{_CLIP}.layer_norm1", "vector"),
        ("layer_{b}/attn/q", f"{_CLIP}.self_attn.q_proj", "dense"),
        ("layer_{b}/attn/k", f"{_CLIP}.self_attn.k_proj", "dense"),
        ("layer_{b}/attn/v", f"{_CLIP}.self_attn.v_proj", "dense"),
        ("layer_{b}/attn/out", f"{_CLIP}.self_attn.out_proj", "dense"),
        ("layer_{b}/norm_2", f"{_CLIP}.layer_norm2", "vector"),
        ("layer_{b}/mlp_in", f"{_CLIP}.mlp.fc1", "dense"),
        ("layer_{b}/mlp_out", f"{_CLIP}.mlp.fc2", "dense"),
        ("norm_out", "text_model.final_layer_norm", "vector"),
        ("projection", "text_projection", "dense"),
    )
)

# CLIP's image tower, under the names of transformers' CLIPModel; CompVis has none.
_VIEW = "vision_model.encoder.layers.{b}"
CLIP_IMAGE = tuple(
    (ours, name, name, kind)
    for ours, name, kind in (
        ("class_embedding", "vision_model.embeddings.class_embedding", "vector"),
        (
            "position_embedding",
            "vision_model.embeddings.position_embedding.weight",
            "vector",
        ),
        ("patches", "vision_model.embeddings.patch_embedding", "conv"),
        ("norm_in", "vision_model.pre_layrnorm", "vector"),
        ("layer_{b}/norm_1", f"{_VIEW}.layer_norm1", "vector"),
        ("layer_{b}/attn/q", f"{_VIEW}.self_attn.q_proj", "dense"),
        ("layer_{b}/attn/k", f"{_VIEW}.self_attn.k_proj", "dense"),
        ("layer_{b}/attn/v", f"{_VIEW}.self_attn.v_proj", "dense"),
        ("layer_{b}/attn/out", f"{_VIEW}.self_attn.out_proj", "dense"),
        ("layer_{b}/norm_2", f"{_VIEW}.layer_norm2", "vector"),
        ("layer_{b}/mlp_in", f"{_VIEW}.mlp.fc1", "dense"),
        ("layer_{b}/mlp_out", f"{_VIEW}.mlp.fc2", "dense"),
        ("norm_out", "vision_model.post_layernorm", "vector"),
        ("projection", "visual_projection", "dense"),
    )
)

CLASS_TOKEN = (("embedding", "embedding.weight", "embedding.weight", "vector"),)
SPATIAL_RESCALER = (("mapper", "channel_mapper", "channel_mapper", "proj"),)
