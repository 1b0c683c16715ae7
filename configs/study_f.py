# SPDX-License-Identifier: Apache-2.0
r"""The ablation on f in one command (Rombach et al. 2022, Sec. 4.1, Tab. 8, Fig. 6, 7).

    ldm-jax study --config=study_f --out=runs/study_f --dry-run --chip=h200
    ldm-jax study --config=study_f:first_stages=models --out=runs/study_f

The study has one arm for each f from 1 to 32, on class-conditional ImageNet (Tab. 13)
or, with data=celebahq, on unconditional CelebA-HQ (Tab. 14). first_stages=DIR uses
trained first stages, DIR/vq-f4 and so on, such as released weights that `ldm-jax
import` wrote. Without it, the study trains them: VQ, or KL with bottleneck=kl. VQ
latents of f = 32 have the 32 channels of Tab. 13 and 14, whose first stage the paper
does not evaluate (vq-f32-c32).

The paper trains every arm for 2M steps (ImageNet) or 500k. Here all arms get the same
number of FLOPs, flops=, so that they are compared at equal compute; steps= gives equal
steps instead. Cost: about 608 H200-hours at 40 % of the peak, 482 of them for the first
stages.
"""

from ldm_jax.configs import (
    celebahq_f,
    common,
    first_stage_kl,
    first_stage_vq,
    imagenet_f,
)
from ldm_jax.metrics import paper
from ldm_jax.study import Arm, Budget, Study

FACTORS = (1, 2, 4, 8, 16, 32)
DATA = {"imagenet": (imagenet_f, "validation"), "celebahq": (celebahq_f, "validation")}
# Denoisers that the paper evaluates, by data and f; first stages have their own names.
DENOISERS = {("imagenet", 8): "imagenet-f8"}
STAGES = {"vq": first_stage_vq, "kl": first_stage_kl}


def get_study(arg: str = "") -> Study:
    """Returns the study of one data set, with first stages of one kind."""
    values = common.parse(
        arg, data="imagenet", bottleneck="vq", first_stages="", flops=3e19, steps=0
    )
    experiment, held_out = common.choose("data", values.data, DATA)
    stages = common.choose("bottleneck", values.bottleneck, STAGES)

    def arm(f: int) -> Arm:
        denoiser, name = experiment.get_config(f"f={f}"), f"{values.bottleneck}-f{f}"
        if f == 1:
            return Arm(denoiser)
        stage = stages.get_config(f"f={f}")
        if name == "vq-f32":
            name, stage = "vq-f32-c32", stages.get_config("f=32,variant=c32")
        if values.first_stages:
            stage = f"{values.first_stages}/{name}"
        denoiser.autoencoder = {}
        if values.bottleneck == "kl":
            denoiser.latents.scale = None
        rows = (name, DENOISERS.get((values.data, f), ""))
        return Arm(denoiser, stage, tuple(row for row in rows if row in paper.ROWS))

    return Study(
        arms={f"f={f}": arm(f) for f in FACTORS},
        seeds=(0,),
        budget=Budget(steps=values.steps) if values.steps else Budget(values.flops),
        images=dict(dataset=values.data),
        image_size=256,
        evaluate_at=8,
        num_steps=100,
        sampling_steps=(10, 20, 50, 100, 200),
        num_samples=5000,
        metrics=("fid", "kid", "is", "precision", "recall"),
        held_out=held_out,
    )
