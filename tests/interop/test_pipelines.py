# SPDX-License-Identifier: Apache-2.0
"""Pipelines of diffusers, from folders that we wrote, draw our sampler's images.

Every model is narrow and random; noise is drawn by PyTorch and handed to both.
"""

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.commands.export import export_weights
from ldm_jax.commands.import_ import import_weights
from tests.interop import small
from tests.interop.states import channels_last

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)  # its threads and XLA's would wait for each other

STEPS = 2


def noise(*shape):
    """(what a pipeline draws from this generator, the generator)."""
    z_T = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return z_T.numpy(), torch.Generator().manual_seed(0)


def images_of(model, params, cond, z_T, **options):
    """Our images, in [0, 1] and clipped as pipelines do."""
    z_0 = ldm_jax.sample(
        model, params, cond, z_T=channels_last(z_T), num_steps=STEPS, **options
    )
    return np.clip(np.asarray(jax.jit(model.decode)(params, z_0)) / 2 + 0.5, 0, 1)


def assert_same_images(actual, expected):
    """But for codes that flip where two are equally near."""
    assert actual.shape == expected.shape
    assert actual.std() > 0.01  # not one colour
    assert np.mean(np.abs(actual - expected) > 2e-3) < 1e-3


def test_unconditional_latent_diffusion(tmp_path):
    spec = small.diffusion(dict(kind="none"))
    directory = str(tmp_path / "imported")
    import_weights(small.checkpoint(tmp_path, spec), directory, image_size=16)
    export_weights(directory, str(tmp_path / "source"), "diffusers")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "source")
    assert type(pipeline).__name__ == "LDMPipeline"
    z_T, generator = noise(1, 2, 8, 8)
    expected = pipeline(
        generator=generator, num_inference_steps=STEPS, eta=0.0, output_type="np"
    ).images
    model, params = ldm_jax.load(directory)
    cond = model.condition(params)
    assert_same_images(images_of(model, params, cond, z_T, eta=0.0), expected)


def test_super_resolution(tmp_path):
    """c = 3, since the pipeline takes half of the UNet's channels for the latent."""
    stage = dict(small.VQ, latent_channels=3)
    spec = small.diffusion(dict(kind="superres"), c=3, more=3)
    # The pipeline decodes what it has drawn as it is.
    spec |= dict(autoencoder=stage, latent_scale=1.0)
    directory = str(tmp_path / "imported")
    import_weights(small.checkpoint(tmp_path, spec), directory, image_size=16)
    export_weights(directory, str(tmp_path / "source"), "diffusers")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "source")
    assert type(pipeline).__name__ == "LDMSuperResolutionPipeline"
    z_T, generator = noise(1, 3, 8, 8)
    low_res = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 8)).astype("f4")
    expected = pipeline(
        torch.tensor(low_res),
        generator=generator,
        num_inference_steps=STEPS,
        eta=0.0,
        output_type="np",
    ).images
    model, params = ldm_jax.load(directory)
    cond = model.condition(params, low_res=channels_last(low_res))
    assert_same_images(images_of(model, params, cond, z_T, eta=0.0), expected)


def test_diffusion_of_pixels(tmp_path):
    """DDIMPipeline, whose x0 is clipped; DDPMPipeline reads the folder too."""
    small.pipeline(tmp_path / "source", small.PIXELS)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "source")
    assert type(pipeline).__name__ == "DDIMPipeline"
    z_T, generator = noise(2, 3, 8, 8)
    expected = pipeline(
        batch_size=2,
        generator=generator,
        num_inference_steps=STEPS,
        use_clipped_model_output=True,  # eps follows x0, as it does here
        output_type="np",
    ).images
    import_weights(str(tmp_path / "source"), str(tmp_path / "imported"))
    model, params = ldm_jax.load(str(tmp_path / "imported"))
    cond = model.condition(params)
    actual = images_of(model, params, cond, z_T, eta=0.0, clip=1.0)
    assert_same_images(actual, expected)
    ddpm = diffusers.DDPMPipeline(
        pipeline.unet, diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    )
    images = ddpm(batch_size=1, num_inference_steps=STEPS, output_type="np").images
    assert images.shape == (1, 8, 8, 3)


def test_a_pipeline_that_diffusers_saved_comes_in(tmp_path):
    """DDPMPipeline.save_pretrained: another scheduler class, defaults left out."""
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "source")
    import_weights(str(tmp_path / "source"), str(tmp_path / "imported"))
    model, params = ldm_jax.load(str(tmp_path / "imported"))
    config = ldm_jax.experiment.stored_config.read_config(str(tmp_path / "imported"))
    assert config.sampling.clip == 1.0 and config.latents.image_size == 8
    z_t, t = noise(2, 3, 8, 8)[0], np.array([1, 700], np.int32)
    with torch.no_grad():
        expected = unet(torch.tensor(z_t), torch.tensor(t)).sample.numpy()
    cond = model.condition(params)
    actual = jax.jit(model.denoise)(params, channels_last(z_t), t, cond)
    np.testing.assert_allclose(actual, channels_last(expected), atol=1e-4)


STABLE = {
    "task": "latent_diffusion",
    "autoencoder": dict(
        channels=32, channel_mult=(1, 2), num_res_blocks=1, latent_channels=4
    ),
    "latent_scale": 0.18215,
    "unet": dict(
        channels=32,
        channel_mult=(1, 2),
        in_channels=4,
        out_channels=4,
        num_res_blocks=1,
        attention_levels=(0,),
        num_heads=2,
        transformer_depth=1,
        context_dim=48,
    ),
    "condition": dict(
        kind="text",
        encoder="clip",
        tokenizer="clip",
        width=48,
        depth=2,
        num_heads=4,
        vocab_size=50,
        length=10,
    ),
    "schedule": dict(kind="scaled_linear", start=0.00085, end=0.012),
    "prediction": "eps",
}


def test_stable_diffusion(tmp_path):
    """Guided; the tokenizer's files are missing, so both receive tokens."""
    small.pipeline(tmp_path / "source", STABLE, image_size=16)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path / "source", tokenizer=None, safety_checker=None, feature_extractor=None
    )
    tokens = np.array([[48, 3, 7, 9, 49, 49, 49, 49, 49, 49]], np.int32)
    empty = np.array([[48, *[49] * 9]], np.int32)
    with torch.no_grad():
        prompt_embeds, nothing = (
            pipeline.text_encoder(torch.tensor(x).long())[0] for x in (tokens, empty)
        )
    z_T, _ = noise(1, 4, 8, 8)
    expected = pipeline(
        prompt_embeds=prompt_embeds,
        negative_prompt_embeds=nothing,
        latents=torch.tensor(z_T),
        height=16,
        width=16,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        output_type="np",
    ).images
    import_weights(str(tmp_path / "source"), str(tmp_path / "imported"))
    model, params = ldm_jax.load(str(tmp_path / "imported"))
    cond, null = (model.condition(params, tokens=x) for x in (tokens, empty))
    np.testing.assert_allclose(cond.context, prompt_embeds.numpy(), atol=1e-4)
    actual = images_of(model, params, cond, z_T, eta=0.0, guidance_scale=3.0, null=null)
    assert_same_images(actual, expected)
