# SPDX-License-Identifier: Apache-2.0
r"""Super-resolution of ImageNet, 64x64 to 256x256 (Rombach et al. 2022, Tab. 5).

    ldm-jax latents --config=superres --model models/vq-f4 --out LATENTS
    ldm-jax train --config=superres --workdir=runs/superres \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/superres --out large --low-res small.png

    model=small  UNet 114M, 169M with the first stage. 860k steps with batch 64
    model=big    our own choice: the paper's UNet of 552M cannot be determined, because
                 no configuration of the released code has this size; 552.7M is the
                 nearest plausible one. A comparison must mention that the models
                 differ.
    model=pixels the pixel baseline of Tab. 11, which reads the small image enlarged to
                 256x256. Its configuration is not published; this UNet of 169.4M is
                 inferred from "the same number of parameters" as LDM-4. It is trained
                 on images: --config.images.dataset, no latents.

    paper                     steps  FID: validation, training  IS      PSNR  SSIM
    small (Tab. 5)            100    2.8  4.8                   166.3   24.4  0.69
    big (Tab. 5)              100    2.4  4.3                   174.9   24.7  0.71
    guided (Tab. 5)           50     4.4  6.4                   153.7   25.8  0.74
    guided (Tab. 11)          100    4.4  6.4                   154.1   25.7  0.73
    15 more epochs (Tab. 11)  100    2.6  4.6                   169.76  24.4  0.69
    pixels (Tab. 11)          100    5.1  7.1                   163.06  24.1  0.59

Images per second on an A100 (Tab. 5): small 4.62, big 4.5, guided 0.38. 15 more epochs
are 292k steps (inferred). "Guided" is image guiding by the small image: ldm-jax sample
--guide small.png --guide-by lpips --guide-transform down4. That the distance is
LPIPS-VGG is inferred from the 184M parameters of Tab. 5, which include VGG16; the scale
and whether the sample is reduced before it is compared are not published.

Images whose shorter side is smaller than 256 are left out in training and evaluation;
48,627 of the validation images remain. low_res=pil_bicubic is the protocol of SR3 and
of the table; low_res=bsrgan_light was used for the released model of real photographs
(bsr_sr); it needs OpenCV: pip install 'ldm_jax[opencv]'.
"""

from ldm_jax.configs import common

UNETS = {
    # The released config also requests attention at 4x4, which four levels never reach.
    "small": dict(
        channels=160, channel_mult=(1, 2, 2, 4), attention_levels=(3,), head_channels=32
    ),
    "big": dict(
        channels=256,
        channel_mult=(1, 2, 3, 5),
        attention_levels=(2, 3),
        head_channels=32,
        resblock_updown=True,
    ),
    "pixels": dict(
        channels=160,
        channel_mult=(1, 1, 2, 2, 4, 4),
        attention_levels=(),
        head_channels=32,
    ),
}


def get_config(arg: str = ""):
    """Returns the experiment for one degradation."""
    values = common.parse(arg, low_res="pil_bicubic", model="small")
    unet = common.choose("model", values.model, UNETS)
    in_pixels = values.model == "pixels"
    stage = "pixels" if in_pixels else "vq-f4"
    config = common.latent_diffusion(stage, "imagenet")
    config.latents.flip = False
    config.images.min_side = 256
    config.transform.update(crop="random", min_scale=0.5, low_res=values.low_res)
    config.schedule.end = 0.0155
    config.condition.kind = "superres"
    if in_pixels:
        config.condition.update(f=4, enlarge=4)
    config.unet = unet
    common.add_concat(config, 3)
    config.batch_size = 64
    config.optimizer.learning_rate = 6.4e-5
    config.train.num_steps = 860_000
    config.sampling.num_steps = 100
    return config
