# SPDX-License-Identifier: Apache-2.0
"""Model sections of the 22 published configs, and the names of their checkpoints.

Sizes of the released models (Rombach et al. 2022, released configs), no code.
`keys/published.json.gz` holds, for each, the name and shape of every tensor.
"""

import gzip
import json
import pathlib

_LDM = "ldm.modules.encoders.modules."


def read_keys():
    """{model: {name: shape}} of every published checkpoint."""
    path = pathlib.Path(__file__).parent / "keys" / "published.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


def _first_stage(z, mult, codes=None, pixels=(), attn_type="vanilla"):
    """params of an AutoencoderKL (no codes) or VQModel."""
    ddconfig = {
        "double_z": codes is None,
        "z_channels": z,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": list(mult),
        "num_res_blocks": 2,
        "attn_resolutions": list(pixels),
        "dropout": 0.0,
        "attn_type": attn_type,
    }
    params = {"embed_dim": z, "ddconfig": ddconfig}
    return params if codes is None else params | {"n_embed": codes}


FIRST_STAGES = {
    "kl-f4": _first_stage(3, (1, 2, 4)),
    "kl-f8": _first_stage(4, (1, 2, 4, 4)),
    "kl-f16": _first_stage(16, (1, 1, 2, 2, 4), pixels=[16]),
    "kl-f32": _first_stage(64, (1, 1, 2, 2, 4, 4), pixels=[16, 8]),
    "vq-f4": _first_stage(3, (1, 2, 4), 8192),
    "vq-f4-noattn": _first_stage(3, (1, 2, 4), 8192, attn_type="none"),
    "vq-f8": _first_stage(4, (1, 2, 2, 4), 16384, [32]),
    "vq-f8-n256": _first_stage(4, (1, 2, 2, 4), 256, [32]),
    "vq-f16": _first_stage(8, (1, 1, 2, 2, 4), 16384, [16]),
}


def _unet(in_out, width, mult, factors, heads=None, dim=None, context=None, **more):
    """params of a UNetModel."""
    params = {
        "in_channels": in_out[0],
        "out_channels": in_out[1],
        "model_channels": width,
        "channel_mult": list(mult),
        "attention_resolutions": list(factors),
        "num_res_blocks": 2,
    }
    params |= {"num_heads": heads} if dim is None else {"num_head_channels": dim}
    if context is not None:
        params |= {"use_spatial_transformer": True, "context_dim": context}
    return params | more


def _ldm(first_stage, unet, end, start=0.0015, cond="__is_unconditional__", **more):
    """params of a LatentDiffusion."""
    if isinstance(cond, tuple):
        cond = {"target": cond[0], "params": cond[1]}
    return {
        "linear_start": start,
        "linear_end": end,
        "timesteps": 1000,
        "unet_config": {"params": unet},
        "first_stage_config": {"params": FIRST_STAGES[first_stage]},
        "cond_stage_config": cond,
        **more,
    }


def _bert(width, depth, **more):
    return _LDM + "BERTEmbedder", {"n_embed": width, "n_layer": depth} | more


_FACES = _unet((3, 3), 224, (1, 2, 3, 4), [8, 4, 2], dim=32)
_SEGMENTATION = (
    _LDM + "SpatialRescaler",
    {"n_stages": 2, "in_channels": 182, "out_channels": 3},
)
_SEMANTIC = _ldm(
    "vq-f4",
    _unet((6, 3), 128, (1, 4, 8), [32, 16, 8], heads=8),
    0.0205,
    cond=_SEGMENTATION,
    cond_stage_key="segmentation",
)

DIFFUSION = {
    "celeba256": _ldm("vq-f4", _FACES, 0.0195),
    "ffhq256": _ldm("vq-f4", _FACES, 0.0195),
    "lsun_beds256": _ldm("vq-f4", _FACES, 0.0195),
    "lsun_churches256": _ldm(
        "kl-f8",
        _unet(
            (4, 4),
            192,
            (1, 2, 2, 4, 4),
            [1, 2, 4, 8],
            heads=8,
            use_scale_shift_norm=True,
            resblock_updown=True,
        ),
        0.0155,
        scale_by_std=True,
        loss_type="l1",
    ),
    "cin256": _ldm(
        "vq-f8",
        _unet((4, 4), 256, (1, 2, 4), [4, 2, 1], dim=32, context=512),
        0.0195,
        cond=(_LDM + "ClassEmbedder", {"embed_dim": 512}),
        cond_stage_key="class_label",
    ),
    "cin256-v2": _ldm(
        "vq-f4",
        _unet((3, 3), 192, (1, 2, 3, 5), [8, 4, 2], heads=1, context=512),
        0.0195,
        cond=(_LDM + "ClassEmbedder", {"embed_dim": 512, "n_classes": 1001}),
        cond_stage_key="class_label",
        use_ema=False,
    ),
    "text2img256": _ldm(
        "vq-f4",
        _unet((3, 3), 192, (1, 2, 3, 5), [8, 4, 2], dim=32, context=640),
        0.0195,
        cond=_bert(640, 32),
        cond_stage_key="caption",
    ),
    "txt2img-1p4B-eval": _ldm(
        "kl-f8",
        _unet((4, 4), 320, (1, 2, 4, 4), [4, 2, 1], heads=8, context=1280),
        0.012,
        start=0.00085,
        cond=_bert(1280, 32),
        cond_stage_key="caption",
        scale_factor=0.18215,
        use_ema=False,
    ),
    "layout2img-openimages256": _ldm(
        "vq-f4",
        _unet(
            (3, 3),
            128,
            (1, 2, 3, 4),
            [8, 4, 2],
            dim=32,
            context=512,
            transformer_depth=3,
        ),
        0.0205,
        cond=_bert(512, 16, vocab_size=8192, max_seq_len=92, use_tokenizer=False),
        cond_stage_key="coordinates_bbox",
    ),
    "bsr_sr": _ldm(
        "vq-f4",
        _unet((6, 3), 160, (1, 2, 2, 4), [16, 8], dim=32),
        0.0155,
        cond=("torch.nn.Identity", None),
        cond_stage_key="LR_image",
        concat_mode=True,
    ),
    "inpainting_big": _ldm(
        "vq-f4-noattn",
        _unet((7, 3), 256, (1, 2, 3, 4), [8, 4, 2], heads=8, resblock_updown=True),
        0.0205,
        cond="__is_first_stage__",
        cond_stage_key="masked_image",
        concat_mode=True,
    ),
    "semantic_synthesis256": _SEMANTIC,
    "semantic_synthesis512": _SEMANTIC,
}

ALL = FIRST_STAGES | DIFFUSION

# Not of the 22, but the same code: v1-inference.yaml.
STABLE_DIFFUSION_1 = _ldm(
    "kl-f8",
    _unet(
        (4, 4),
        320,
        (1, 2, 4, 4),
        [4, 2, 1],
        heads=8,
        context=768,
        use_checkpoint=True,
        legacy=False,
    ),
    0.012,
    start=0.00085,
    cond={"target": _LDM + "FrozenCLIPEmbedder"},
    cond_stage_key="txt",
    first_stage_key="jpg",
    image_size=64,
    scale_factor=0.18215,
    use_ema=False,
    num_timesteps_cond=1,
    scheduler_config={"target": "ldm.lr_scheduler.LambdaLinearScheduler"},
)


def shrink(params):
    """The same model with 32 base channels and short transformers, to run quickly."""
    params = json.loads(json.dumps(params))
    if "ddconfig" in params:
        params["ddconfig"]["ch"] = 32
        if "n_embed" in params:
            params["n_embed"] = 64
        return params
    params["first_stage_config"]["params"] = shrink(
        params["first_stage_config"]["params"]
    )
    params["unet_config"]["params"]["model_channels"] = 32
    cond = params["cond_stage_config"]
    if isinstance(cond, dict) and "n_layer" in (cond.get("params") or {}):
        cond["params"].update(n_layer=2, vocab_size=97)
    return params
