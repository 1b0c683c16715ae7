# SPDX-License-Identifier: Apache-2.0
"""diffusers loads our exports and computes the same; its models are imported."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.guidance import classifier_free
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.compvis.read_config import spec_from_compvis
from ldm_jax.interop.compvis.state_dict import import_compvis
from ldm_jax.interop.convert import export_model, import_model
from ldm_jax.interop.diffusers import read_config, write_config
from ldm_jax.interop.diffusers.read import import_diffusers
from ldm_jax.interop.diffusers.write import describe_model
from ldm_jax.interop.layouts import NamesDiffer
from ldm_jax.interop.networks import make_unet, token_transformer
from ldm_jax.interop.safetensors import read_safetensors, write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning
from tests.interop import published, small
from tests.interop.states import channels_last, load_golden, relative_error


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """Its threads and XLA's would wait for each other on two cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


LOADED = {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}


def load_strictly(cls, folder):
    """from_pretrained, with nothing missing and nothing left over."""
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in LOADED if key in info), info
    return model.eval()


def exported(tmp_path, name):
    state, spec, golden = load_golden(name)
    imported = import_compvis(state, spec, "raw")
    export_model(tmp_path, "diffusers", imported.spec, imported.params, image_size=64)
    return imported, golden


# Networks that a folder of diffusers holds, by golden model.
EXPRESSIBLE = ["tiny-celeba256", "tiny-cin256", "tiny-text2img256"]


@pytest.mark.parametrize("name", ["tiny-kl-f8", "tiny-vq-f8", *EXPRESSIBLE])
def test_an_export_comes_back(tmp_path, name):
    """Identity: parameters, and every field of the spec that diffusers can keep."""
    imported, _ = exported(tmp_path, name)
    again = import_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, imported.params)
    for section, fields in again.spec.items():
        if isinstance(fields, dict):
            known = imported.spec[section]
            kept = {key: known[key] for key in fields if key in known}
            kept.pop("tokenizer", None)  # LDMBertModel's is always BERT's
            assert {key: fields[key] for key in kept} == kept
        else:
            assert fields == imported.spec[section]


@pytest.mark.torch
@pytest.mark.parametrize("name", ["tiny-kl-f8", "tiny-vq-f8"])
def test_diffusers_runs_our_first_stages(tmp_path, name):
    """Golden: the original's moments and image, from AutoencoderKL and VQModel."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    _, golden = exported(tmp_path, name)
    is_kl = "kl" in name
    cls = diffusers.AutoencoderKL if is_kl else diffusers.VQModel
    model = load_strictly(cls, tmp_path)
    assert model.config.scaling_factor == 1.0
    with torch.no_grad():
        encoded = model.encode(torch.tensor(golden["image"]))
        encoded = encoded.latent_dist.parameters if is_kl else encoded.latents
        image = model.decode(encoded[:, :4]).sample
    assert relative_error(encoded.numpy(), golden["moments_or_prequant"]) < 1e-4
    assert relative_error(image.numpy(), golden["dec"]) < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_diffusers_runs_our_denoisers(tmp_path, name):
    """Golden: the original's eps, from UNet2DModel and UNet2DConditionModel."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    _, golden = exported(tmp_path, name)
    has_context = "context" in golden
    classes = diffusers.UNet2DModel, diffusers.UNet2DConditionModel
    model = load_strictly(classes[has_context], tmp_path / "unet")
    inputs = {"encoder_hidden_states": "context"} if has_context else {}
    inputs = {key: torch.tensor(golden[value]) for key, value in inputs.items()}
    with torch.no_grad():
        eps = model(torch.tensor(golden["x_t"]), torch.tensor(golden["t"]), **inputs)
    assert relative_error(eps.sample.numpy(), golden["eps"]) < 1e-4


@pytest.mark.torch
def test_diffusers_runs_our_text_encoder(tmp_path):
    """Golden: the original's context, from LDMBertModel."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.pipelines.latent_diffusion import (
        pipeline_latent_diffusion as expected,
    )

    _, golden = exported(tmp_path, "tiny-text2img256")
    model = load_strictly(expected.LDMBertModel, tmp_path / "bert")
    with torch.no_grad():
        context = model(torch.tensor(golden["tokens"]))[0]
    assert relative_error(context.numpy(), golden["context"]) < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("heads", [(8, 64), (3, 16)])
def test_a_random_text_encoder_of_diffusers_computes_the_same_here(tmp_path, heads):
    """Golden: an LDMBertModel with random weights, norms and biases; 1e-4."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.pipelines.latent_diffusion import (
        pipeline_latent_diffusion as reference,
    )

    torch.manual_seed(0)
    sizes = dict(vocab_size=97, max_position_embeddings=13, encoder_layers=3)
    sizes |= dict(encoder_ffn_dim=4 * 40, d_model=40, dropout=0.0)
    config = reference.LDMBertConfig(
        encoder_attention_heads=heads[0], head_dim=heads[1], **sizes
    )
    model = reference.LDMBertModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 97, (2, 13))
    with torch.no_grad():
        expected = model(torch.tensor(tokens))[0].numpy()
    imported = import_model(tmp_path)
    network = token_transformer(imported.spec["condition"])
    actual = network.apply({"params": imported.params["conditioner"]}, tokens)
    assert relative_error(actual, expected) < 1e-4


BLOCKS = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=32)


def _diffusers_model(diffusers, name):
    """A model of diffusers with random weights, of each class and option we read."""
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    attn_down = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
    attn_up = ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")
    unet = dict(in_channels=4, out_channels=4, sample_size=8, **BLOCKS)
    plain = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"))
    plain |= dict(up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    cross = dict(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"))
    cross |= dict(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    cross |= dict(cross_attention_dim=24)
    makers = {
        "kl": lambda: diffusers.AutoencoderKL(
            **BLOCKS, down_block_types=attn_down, up_block_types=attn_up
        ),
        "kl narrow": lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=attn_down,
            up_block_types=attn_up,
        ),
        "vq": lambda: diffusers.VQModel(
            **BLOCKS,
            down_block_types=down,
            up_block_types=up,
            vq_embed_dim=2,
            mid_block_add_attention=False,
        ),
        "unet": lambda: diffusers.UNet2DModel(**unet, **plain, attention_head_dim=16),
        "one head": lambda: diffusers.UNet2DModel(
            **unet, **plain, attention_head_dim=None
        ),
        "classes": lambda: diffusers.UNet2DModel(**unet, **plain, num_class_embeds=5),
        "resnet": lambda: diffusers.UNet2DModel(
            **unet,
            **plain
            | {
                "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
                "downsample_type": "resnet",
                "upsample_type": "resnet",
                "resnet_time_scale_shift": "scale_shift",
                "attn_norm_num_groups": 32,
            },
        ),
        "cross": lambda: diffusers.UNet2DConditionModel(
            **unet, **cross, attention_head_dim=4, transformer_layers_per_block=2
        ),
        "wide heads": lambda: diffusers.UNet2DConditionModel(
            **unet, **cross, attention_head_dim=(2, 4)
        ),
        "linear projection": lambda: diffusers.UNet2DConditionModel(
            **unet, **cross, use_linear_projection=True
        ),
    }
    return makers[name]()


def _run_diffusers(torch, model, kind, z, t):
    """Returns the output of a model of diffusers."""
    if kind in AUTOENCODERS:
        encoded = model.encode(z)
        return encoded.latents if kind == "vq" else encoded.latent_dist.parameters
    if kind in ("cross", "wide heads", "linear projection"):
        context = torch.linspace(-1, 1, 2 * 3 * 24).reshape(2, 3, 24)
        return model(z, t, encoder_hidden_states=context).sample
    labels = torch.tensor([1, 4]) if kind == "classes" else None
    return model(z, t, class_labels=labels).sample


AUTOENCODERS = ["kl", "kl narrow", "vq"]
UNETS = ["unet", "one head", "classes", "resnet", "cross", "wide heads"]


@pytest.mark.torch
@pytest.mark.parametrize("kind", [*AUTOENCODERS, *UNETS, "linear projection"])
def test_random_models_of_diffusers_compute_the_same_here(tmp_path, kind):
    """Golden: a random model of each class, imported; 1e-4."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = _diffusers_model(diffusers, kind).eval()
    model.save_pretrained(tmp_path)
    is_autoencoder = kind in AUTOENCODERS
    channels = 3 if is_autoencoder else 4
    z, t = torch.randn(2, channels, 16, 16), torch.tensor([3, 700])
    with torch.no_grad():
        expected = _run_diffusers(torch, model, kind, z, t).numpy()
    imported = import_model(tmp_path)
    ours = channels_last(z.numpy())
    if is_autoencoder:
        network = Autoencoder(**imported.spec["autoencoder"])
        variables = {"params": imported.params["autoencoder"]}
        actual = network.apply(variables, ours, method="encode")
    else:
        network = UNet(**imported.spec["unet"])
        context = jnp.linspace(-1, 1, 2 * 3 * 24).reshape(2, 3, 24)
        cond = Conditioning(
            context=context if network.context_dim else None,
            class_label=jnp.array([1, 4]) if kind == "classes" else None,
        )
        variables = {"params": imported.params["unet"]}
        actual = jax.jit(network.apply)(variables, ours, jnp.array([3, 700]), cond)
    assert relative_error(actual, channels_last(expected)) < 1e-4


def _with_unet(imported):
    """(spec, params) of a small model around an imported text encoder."""
    state, spec, _ = load_golden("tiny-text2img256")
    params = import_compvis(state, spec).params
    return spec | imported.spec | {"task": "latent_diffusion"}, params | imported.params


@pytest.mark.torch
def test_clip_of_transformers_goes_in_and_out(tmp_path):
    """Identity, and CLIPTextModel loads it strictly."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, intermediate_size=64)
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(**sizes, max_position_embeddings=10)
    clip_model = transformers.CLIPTextModel(config).eval()
    clip_model.save_pretrained(tmp_path / "a")
    imported = import_model(tmp_path / "a")
    export_model(tmp_path / "b", "diffusers", *_with_unet(imported))
    load_strictly(transformers.CLIPTextModel, tmp_path / "b" / "text_encoder")
    again = import_model(tmp_path / "b")
    jax.tree.map(
        np.testing.assert_array_equal,
        again.params["conditioner"],
        imported.params["conditioner"],
    )
    assert again.spec["condition"] == imported.spec["condition"]
    tokens = np.array([[3, 7, 9, 49]])
    network = token_transformer(imported.spec["condition"])
    own = network.apply({"params": imported.params["conditioner"]}, tokens)
    with torch.no_grad():
        expected = clip_model(torch.tensor(tokens)).last_hidden_state.numpy()
    assert relative_error(own, expected) < 1e-4


@pytest.mark.torch
def test_the_unconditional_pipeline_runs_from_our_export(tmp_path):
    """Golden: LDMPipeline's 8 DDIM steps are the original's, decoded."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    imported, golden = exported(tmp_path, "tiny-celeba256")
    unet = load_strictly(diffusers.UNet2DModel, tmp_path / "unet")
    first_stage = load_strictly(diffusers.VQModel, tmp_path / "vqvae")
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    scheduler.set_timesteps(8)
    z = torch.tensor(golden["x_T"])
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(unet(z, t).sample, t, z, eta=0.0).prev_sample
        image = first_stage.decode(z / first_stage.config.scaling_factor).sample
    assert relative_error(z.numpy(), golden["ddim8"]) < 1e-3
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LDMPipeline"
    pipeline = diffusers.LDMPipeline.from_pretrained(tmp_path)
    sample = pipeline(num_inference_steps=2, output_type="np").images
    assert sample.shape == (1, 64, 64, 3) and image.shape == golden["image"].shape
    assert imported.spec["latent_scale"] == 1.0


@pytest.mark.torch
def test_the_text_pipeline_runs_from_our_export(tmp_path):
    """LDMTextToImagePipeline with its own parts; one step is our guided step."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from diffusers.pipelines.latent_diffusion import (
        pipeline_latent_diffusion as expected,
    )

    imported, golden = exported(tmp_path, "tiny-text2img256")

    class Tokens:
        """Gives the golden tokens; no vocabulary is needed."""

        def __call__(self, prompt, **options):
            ids = golden["uncond_tokens" if prompt in ([""], [""] * 2) else "tokens"]
            return type("Out", (), {"input_ids": torch.tensor(ids[: len(prompt)])})

    pipeline = diffusers.LDMTextToImagePipeline(
        vqvae=load_strictly(diffusers.VQModel, tmp_path / "vqvae"),
        bert=load_strictly(expected.LDMBertModel, tmp_path / "bert"),
        tokenizer=Tokens(),
        unet=load_strictly(diffusers.UNet2DConditionModel, tmp_path / "unet"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler"),
    )
    z_T = torch.tensor(golden["x_T"])
    images = pipeline(
        ["a", "b"],
        height=8 * z_T.shape[2],
        width=8 * z_T.shape[3],
        num_inference_steps=1,
        guidance_scale=3.0,
        latents=z_T,
        output_type="np",
    ).images
    unet, first_stage = (
        make_unet(imported.spec),
        Autoencoder(**imported.spec["autoencoder"]),
    )
    network = token_transformer(imported.spec["condition"])
    encode = lambda ids: jax.jit(network.apply)(  # noqa: E731
        {"params": imported.params["conditioner"]}, jnp.asarray(ids, jnp.int32)
    )
    cond, null = (
        Conditioning(context=encode(golden[name]))
        for name in ("tokens", "uncond_tokens")
    )
    variables = {"params": imported.params["unet"]}
    denoise = classifier_free(
        lambda z, t, c: unet.apply(variables, z, t, c), cond, null, 3.0
    )
    z = channels_last(golden["x_T"])
    eps = jax.jit(denoise)(z, jnp.full((2,), 1))
    abar = make_schedule(**imported.spec["schedule"]).alphas_cumprod
    x0 = (z - np.sqrt(1 - abar[1]) * eps) / np.sqrt(abar[1])
    z_0 = np.sqrt(abar[0]) * x0 + np.sqrt(1 - abar[0]) * eps
    actual = first_stage.apply(
        {"params": imported.params["autoencoder"]}, z_0, method="decode"
    )
    actual = np.clip(np.asarray(actual) / 2 + 0.5, 0, 1)
    assert np.mean(np.abs(actual - images) > 1e-3) < 1e-3  # a code may flip on a tie


@pytest.mark.parametrize("name", published.ALL)
def test_configs_of_published_models_survive_or_are_refused(name):
    """Identity through diffusers' configs; only fixed heads of several widths fail."""
    spec = spec_from_compvis(published.ALL[name])
    model = Autoencoder(**spec["autoencoder"])
    config = write_config.autoencoder_config(model, 0.5)
    fields, scale = read_config.autoencoder_spec(json.loads(json.dumps(config)))
    assert Autoencoder(**fields).clone(embed_dim=model.embed_dim) == model
    assert scale == 0.5
    if "unet" not in spec:
        return
    unet = make_unet(spec)
    if name in ("lsun_churches256", "inpainting_big"):
        with pytest.raises(CannotExpress, match="one width of heads"):
            write_config.unet_config(unet, 32)
        return
    config = json.loads(json.dumps(write_config.unet_config(unet, 32)))
    again = UNet(**read_config.unet_spec(config))
    heads = lambda m: [  # noqa: E731
        m.num_heads or m.channels * mult // m.head_channels for mult in m.channel_mult
    ]
    levels = {*unet.attention_levels, len(unet.channel_mult) - 1}
    assert all(heads(again)[level] == heads(unet)[level] for level in levels)
    same = dict(num_heads=unet.num_heads, head_channels=unet.head_channels)
    assert again.clone(**same) == unet


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attn_type": "linear"}, "linear attention"),
        ({"tanh_out": True}, "tanh"),
        ({"embed_dim": 2}, "embed_dim=2"),
    ],
)
def test_an_autoencoder_diffusers_cannot_express_is_refused(fields, message):
    with pytest.raises(CannotExpress, match=message):
        write_config.autoencoder_config(Autoencoder(**fields), 1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_resample": False}, "conv_resample=False"),
        ({"transformer_depth": 1}, "context_dim=None"),
        (
            {"transformer_depth": 1, "context_dim": 8, "resblock_updown": True},
            "resblock_updown=True",
        ),
    ],
)
def test_a_unet_diffusers_cannot_express_is_refused(fields, message):
    unet = UNet(
        channels=32, channel_mult=(1, 2), out_channels=4, head_channels=32, **fields
    )
    with pytest.raises(CannotExpress, match=message):
        write_config.unet_config(unet, 8)


def test_pixels_with_a_scale_are_refused():
    """DDIMPipeline shows what it has sampled, and nothing there holds a scale."""
    with pytest.raises(CannotExpress, match=r"has latent_scale=0\.5"):
        describe_model({**small.PIXELS, "latent_scale": 0.5})
    assert describe_model(small.PIXELS).index["_class_name"] == "DDIMPipeline"


@pytest.mark.parametrize(
    ("field", "value"),
    [("freq_shift", 1), ("flip_sin_to_cos", False), ("norm_eps", 1e-6)],
)
def test_a_config_that_computes_something_else_is_refused_by_name(field, value):
    """google/ddpm-* are such models."""
    unet = UNet(channels=32, channel_mult=(1, 2), out_channels=4, head_channels=32)
    config = write_config.unet_config(unet, 8) | {field: value}
    with pytest.raises(ValueError, match=f"UNet2DModel.{field} must be"):
        read_config.unet_spec(config)


def test_a_middle_without_its_norm_is_refused():
    """What UNet2DModel makes of scale_shift when the groups are not given."""
    unet = UNet(
        channels=32,
        channel_mult=(1,),
        out_channels=4,
        num_heads=1,
        scale_shift_norm=True,
    )
    config = write_config.unet_config(unet, 8)
    assert UNet(**read_config.unet_spec(config)).scale_shift_norm
    with pytest.raises(ValueError, match="attn_norm_num_groups must be 32"):
        read_config.unet_spec(config | {"attn_norm_num_groups": None})


def test_the_scale_of_an_old_vq_config_is_one():
    """The class's default, 0.18215, is another model's; explicit values are kept."""
    model = Autoencoder(bottleneck="vq", num_codes=8)
    config = write_config.autoencoder_config(model, 0.7)
    assert read_config.autoencoder_spec(config)[1] == 0.7
    del config["scaling_factor"]
    assert read_config.autoencoder_spec(config)[1] == 1.0


def test_attention_under_its_older_names_is_read(tmp_path):
    """Folders of 2022 say query, key, value, proj_attn, with 1x1 convolutions."""
    imported, _ = exported(tmp_path, "tiny-vq-f8")
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    older = {}
    for name, array in read_weights(path).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            name = name.replace(new, old)
        older[name.replace("to_out.0", "proj_attn")] = array.copy()
    write_safetensors(path, older)
    again = import_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, imported.params)


def test_tensors_that_do_not_fit_a_folder_are_listed(tmp_path):
    exported(tmp_path, "tiny-vq-f8")
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = {name: array.copy() for name, array in read_weights(path).items()}
    write_safetensors(path, weights | {"more.weight": np.zeros(2, np.float32)})
    with pytest.raises(NamesDiffer, match=r"left over: more\.weight"):
        import_model(tmp_path)
    del weights["quant_conv.bias"]
    write_safetensors(path, weights)
    with pytest.raises(NamesDiffer, match=r"missing: quant_conv\.bias"):
        import_model(tmp_path)


def test_a_folder_of_another_class_names_those_we_read(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(ValueError, match="FluxTransformer2DModel; one of these"):
        import_model(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no model"):
        import_model(tmp_path)


@pytest.mark.parametrize("condition", ["class", "superres"])
def test_a_condition_is_read_from_the_file_of_torch_save(tmp_path, condition):
    """As diffusers' save_pretrained(safe_serialization=False) writes the folder."""
    spec = {
        "class": small.CLASSES,
        "superres": small.diffusion(dict(kind="superres", enlarge=2), more=3),
    }[condition]
    params = small.pipeline(tmp_path, spec)
    for file in tmp_path.rglob("*.safetensors"):
        write_ckpt(file.with_suffix(".bin"), dict(read_safetensors(file)))
        file.unlink()
    imported = import_diffusers(tmp_path)
    assert imported.spec["condition"]["kind"] == condition
    jax.tree.map(np.testing.assert_array_equal, imported.params, params)
