# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported folder: README.md with the metadata that the Hub reads.

Source: the Hub's specification of model cards (YAML between two lines of dashes, then
Markdown) and of `model-index`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import yaml

from ldm_jax.files.errors import shown
from ldm_jax.interop.networks import condition_parts
from ldm_jax.models.autoencoder import Autoencoder

PAPER = "https://arxiv.org/abs/2112.10752"
PICTURE = "samples.png"
# kind of condition -> task of the Hub.
TASKS = {
    "none": "unconditional-image-generation",
    "text": "text-to-image",
    "superres": "image-to-image",
    "inpaint": "image-to-image",
    "semantic": "image-to-image",
}
# kind of condition -> (what the images follow, arguments of the pipeline).
INPUTS = {
    "none": ("nothing", ""),
    "class": ("a class", "class_labels=[0, 1], "),
    "text": ("a text", 'prompt="a dog", '),
    "layout": ("boxes", "boxes=[[(3, 0.1, 0.2, 0.5, 0.25)]], "),
    "semantic": ("a label map", "label_map=label_map, "),
    "retrieval": ("retrieved neighbours", "embeddings=embeddings, "),
    "superres": ("a small image", "low_res=picture, "),
    "inpaint": (
        "an image with a hole",
        "image=picture, mask_image=mask, ",
    ),
}


class CardDetails(NamedTuple):
    """What a card states in addition to the model's own settings.

    Attributes:
      title: name of the model.
      dataset: the images that it was trained on; "" where that is not known.
      licence: identifier of a licence, as the Hub lists them; "" for none.
      training: {setting: value} of the training run; empty for an imported model.
      results: of `ldm-jax evaluate`, results.json; None where nothing was measured.
      picture: [H, W, 3] uint8, of samples or reconstructions; None for none.
    """

    title: str = "Latent diffusion model"
    dataset: str = ""
    licence: str = ""
    training: Mapping[str, Any] = MappingProxyType({})
    results: Mapping[str, Any] | None = None
    picture: np.ndarray | None = None


def model_card(
    spec: Mapping[str, Any],
    pipeline: str,
    num_parameters: Mapping[str, int],
    details: CardDetails,
    has_half: bool = False,
) -> str:
    """Writes the model card of a diffusion model, or of a first stage alone.

    Args:
      spec: sections of a config, see `networks`.
      pipeline: class that runs the folder; of a first stage, its own.
      num_parameters: by network.
      details: what the settings do not tell.
      has_half: whether the folder has a variant in half precision.
    """
    header = yaml.safe_dump(_metadata(spec, details), sort_keys=False)
    sections = [
        f"---\n{header}---\n\n# {details.title}",
        _description(spec),
        f"![samples]({PICTURE})" if details.picture is not None else "",
        _table("Model", _settings(spec, num_parameters)),
        _table("Training", _training(details)),
        _results(details.results),
        _usage(spec, pipeline, has_half),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(spec: Mapping[str, Any], details: CardDetails) -> dict[str, Any]:
    metadata: dict[str, Any] = {"library_name": "diffusers"}
    kind = spec["condition"]["kind"] if "unet" in spec else "first stage"
    if details.licence:
        metadata["license"] = details.licence
    if kind in TASKS:
        metadata["pipeline_tag"] = TASKS[kind]
    metadata["tags"] = ["latent-diffusion", "autoencoder"]
    if "unet" in spec:
        metadata["tags"] = ["latent-diffusion", "diffusion", f"condition-{kind}"]
    if details.results is not None:
        metadata["model-index"] = [_model_index(details, TASKS.get(kind, "other"))]
    return metadata


def _model_index(details: CardDetails, task: str) -> dict[str, Any]:
    """Describes the metrics as the Hub's `model-index` has them."""
    results = details.results or {}
    name = details.dataset or "unknown"
    result = {
        "task": {"type": task},
        "dataset": {"name": name, "type": name},
        "metrics": [
            {"type": metric, "name": figure["label"], "value": figure["value"]}
            for metric, figure in results["figures"].items()
        ],
    }
    return {"name": details.title, "results": [result]}


def _description(spec: Mapping[str, Any]) -> str:
    if "unet" not in spec:
        return (
            "The first stage of a latent diffusion model "
            f"([Rombach et al. 2022]({PAPER})): it encodes images as latents whose "
            "sides are f times shorter, and decodes latents. Trained with, or "
            "converted by, `ldm_jax`."
        )
    follows, _ = _inputs(spec)
    what = "images" if follows == "nothing" else f"images that follow {follows}"
    return (
        f"A latent diffusion model ([Rombach et al. 2022]({PAPER})) that samples {what}"
        ". Trained with, or converted by, `ldm_jax`."
    )


def _inputs(spec: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the entry of INPUTS for a condition; for a hybrid that of its parts."""
    parts = condition_parts(spec["condition"]).values()
    follows, arguments = zip(*(INPUTS[part["kind"]] for part in parts), strict=True)
    return " and ".join(follows), "".join(arguments)


def _settings(
    spec: Mapping[str, Any], num_parameters: Mapping[str, int]
) -> dict[str, Any]:
    counts = {
        f"parameters, {network}": f"{count:,}"
        for network, count in num_parameters.items()
    }
    first = _first_stage(spec["autoencoder"], spec["latent_scale"])
    if "unet" not in spec:
        return {**first, **counts}
    schedule = spec["schedule"]
    return {
        "condition": spec["condition"]["kind"],
        **first,
        "prediction": spec["prediction"],
        "noise schedule": f"{schedule.get('kind', 'scaled_linear')}, "
        f"{schedule.get('num_timesteps', 1000)} steps",
        **counts,
    }


def _first_stage(stage: Mapping[str, Any], latent_scale: float) -> dict[str, Any]:
    model = Autoencoder(**stage)
    if model.bottleneck == "pixels":
        return {"first stage": "none: diffusion of pixels"}
    rows = {"first stage": model.bottleneck.upper(), "f": model.f}
    return rows | {"latent scale": f"{latent_scale:.6g}"}


def _training(details: CardDetails) -> dict[str, Any]:
    return {"images": details.dataset or "not recorded", **details.training}


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else shown(value)).replace("|", "\\|")


def _results(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return ""
    lines = [
        f"| {figure['label']} | {figure['value']:.4g} |"
        for figure in results["figures"].values()
    ]
    table = ["| metric | |", "|---|---|", *lines]
    count = f"Of {results['num_images']} images."
    return "\n".join(["## Results\n", *table, "", count])


def _usage(spec: Mapping[str, Any], pipeline: str, has_half: bool) -> str:
    if "unet" not in spec:
        result = "latents" if pipeline == "VQModel" else "latent_dist.mode()"
        return (
            "## How to load\n\n```python\n"
            f"from diffusers import {pipeline}\n\n"
            f'stage = {pipeline}.from_pretrained("FOLDER")\n'
            f"z = stage.encode(images).{result}  # images [B, 3, H, W] in [-1, 1]\n"
            "images = stage.decode(z).sample\n```"
        )
    kind, sampling = spec["condition"]["kind"], spec.get("sampling", {})
    is_own = pipeline == "LatentDiffusionPipeline"
    names = {"LDMSuperResolutionPipeline": "picture, "}
    names |= dict.fromkeys(("DDIMPipeline", "DDPMPipeline"), "")
    arguments = names.get(pipeline, _inputs(spec)[1])
    steps = f"num_inference_steps={sampling.get('num_steps', 50)}"
    scale = sampling.get("guidance_scale", 1.0)
    if scale != 1 and kind != "none":
        steps += f", guidance_scale={scale}"
    option = ", trust_remote_code=True" if is_own else ""
    note = (
        "\n`trust_remote_code=True` runs the folder's own `pipeline.py` and "
        "`conditioner/conditioner.py`: read them first.\n"
        if is_own
        else ""
    )
    half = (
        '\nHalf precision: `variant="fp16", torch_dtype=torch.float16`.\n'
        if has_half
        else ""
    )
    return (
        "## How to load\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
        f'pipeline = DiffusionPipeline.from_pretrained("FOLDER"{option})\n'
        f"images = pipeline({arguments}{steps}).images\n```\n"
        f"{note}{half}"
    ).rstrip()
