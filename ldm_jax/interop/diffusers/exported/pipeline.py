# SPDX-License-Identifier: Apache-2.0
"""Samples latent diffusion models of every condition, as a pipeline of diffusers.

    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipeline(class_labels=[3, 7], guidance_scale=3.0).images

The inputs, by kind of condition:

    class     class_labels   ints [B]
    text      prompt         a text or a list of B; or tokens, ints [B, M]
    layout    boxes          B lists of (class, x, y, width, height), shares of the
                             image; or tokens, ints [B, M]
    semantic  label_map      ints [B, H, W]
    superres  low_res        pictures, or floats [B, 3, h, w] in [-1, 1]
    inpaint   image          pictures, or floats [B, 3, H, W] in [-1, 1]
              mask_image     pictures, white where to paint, or floats [B, 1, H, W]
    retrieval embeddings     floats [B, M, d], of CLIP
    hybrid    those of all of its parts
    any       encoder_hidden_states [B, M, d] and concat [B, k, h, w], ready-made

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models".
"""

import inspect
import math

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

# kind -> its inputs; of several names in a group one is given.
TAKES = {
    "class": (("class_labels",),),
    "text": (("prompt", "tokens"),),
    "layout": (("boxes", "tokens"),),
    "semantic": (("label_map",),),
    "superres": (("low_res",),),
    "inpaint": (("image",), ("mask_image",)),
    "retrieval": (("embeddings",),),
}
OPTIONAL = ["vqvae", "bert", "text_encoder", "tokenizer", "conditioner"]


class LatentDiffusionPipeline(DiffusionPipeline):
    """First stage, denoiser, condition and scheduler of a latent diffusion model.

    Args:
      unet: UNet2DModel or UNet2DConditionModel.
      scheduler: DDIMScheduler, or another of the same noise schedule.
      vqvae: VQModel or AutoencoderKL; None in a model of pixels.
      bert: LDMBertModel, of texts and layouts.
      text_encoder: CLIPTextModel, of texts.
      tokenizer: of texts.
      conditioner: LDMConditioner; None in a model without a condition.
    """

    _optional_components = OPTIONAL
    model_cpu_offload_seq = "bert->text_encoder->conditioner->unet->vqvae"

    def __init__(
        self,
        unet,
        scheduler,
        vqvae=None,
        bert=None,
        text_encoder=None,
        tokenizer=None,
        conditioner=None,
    ):
        super().__init__()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            vqvae=vqvae,
            bert=bert,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            conditioner=conditioner,
        )
        self.parts = [] if conditioner is None else [conditioner]
        if conditioner is not None and conditioner.kind == "hybrid":
            self.parts = list(conditioner.parts.values())
        self.f = 1  # downsampling of the first stage
        if vqvae is not None:
            self.f = 2 ** (len(vqvae.config.block_out_channels) - 1)

    @torch.no_grad()
    def __call__(
        self,
        batch_size=None,
        *,
        height=None,
        width=None,
        num_inference_steps=50,
        guidance_scale=1.0,
        eta=0.0,
        generator=None,
        latents=None,
        output_type="pil",
        return_dict=True,
        **inputs,
    ):
        """Samples images.

        Args:
          batch_size: images; that of the inputs where None, else 1.
          height, width: of the images; the inputs', or those trained on, where None.
          num_inference_steps: calls of the denoiser.
          guidance_scale: of classifier-free guidance; 1 is off.
          eta: 0 adds no noise, 1 as much as DDPM.
          generator: a torch.Generator, or one for each image.
          latents: [B, c, h, w] standard normal noise to start from.
          output_type: "pil", "np" [B, H, W, 3] in [0, 1] or "pt" [B, 3, H, W].
          **inputs: of the condition, see the top of this file.
        """
        ready_made = {
            name: inputs.pop(name)
            for name in ("encoder_hidden_states", "concat")
            if name in inputs
        }
        y = {} if ready_made else self._read(**inputs)
        cond = ready_made or self._encode(y)
        sizes = {len(x) for x in [*cond.values(), *y.values()]} | {batch_size} - {None}
        if len(sizes) > 1:
            raise ValueError(f"inputs must be of one batch size: got {sorted(sizes)}.")
        shape = (*(sizes or {1}), *self._latent_shape(height, width, y, cond))
        null = {}
        if guidance_scale != 1:
            if ready_made:
                raise ValueError("ready-made inputs have no null: use guidance_scale=1")
            null = self._encode(self._null(y))
        dtype, device = self.unet.dtype, self._execution_device
        z = latents
        if z is None:
            z = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        z = z.to(device, dtype) * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        options = {
            "eta": eta,
            "generator": generator,
            "use_clipped_model_output": True,  # the noise follows a clipped x0
        }
        known = inspect.signature(self.scheduler.step).parameters
        options = {name: x for name, x in options.items() if name in known}
        for t in self.progress_bar(self.scheduler.timesteps):
            z_t = self.scheduler.scale_model_input(z, t)
            predicted = self._denoise(z_t, t, cond)
            if guidance_scale != 1:
                without = self._denoise(z_t, t, null)
                predicted = without + guidance_scale * (predicted - without)
            z = self.scheduler.step(predicted, t, z, **options).prev_sample
        images = self._finish(self._decode(z), y)
        images = (images.float() / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _read(self, **inputs):
        """Reads the inputs of the condition: tensors by name, first axis B."""
        # Of each group of names one is given.
        groups = [group for part in self.parts for group in TAKES[part.kind]]
        given = [set(group) & inputs.keys() for group in groups]
        known = {name for group in groups for name in group}
        if any(len(names) != 1 for names in given) or inputs.keys() - known:
            kinds = " and ".join(part.kind for part in self.parts) or "none"
            takes = " and ".join(" or ".join(group) for group in groups)
            raise ValueError(
                f"a model of the condition {kinds} takes "
                f"{takes or 'no input'}: got {', '.join(inputs) or 'none'}."
            )
        if "prompt" in inputs:
            inputs["tokens"] = self._tokenize(inputs.pop("prompt"))
        if "boxes" in inputs:
            inputs["tokens"] = self.boxes_to_tokens(inputs.pop("boxes"))
        return {name: self._tensor(x, name) for name, x in inputs.items()}

    def _tensor(self, value, name):
        """Makes the tensor of one input."""
        if name in ("low_res", "image", "mask_image"):
            return self._pictures(value, name)
        dtype = self.unet.dtype if name == "embeddings" else torch.long
        return torch.as_tensor(value).to(self._execution_device, dtype)

    def _settings(self, *kinds):
        """Returns the settings of the part that is of one of these kinds."""
        return next(part.condition for part in self.parts if part.kind in kinds)

    def _pictures(self, value, name):
        """Makes a tensor [B, k, H, W] of pictures; a mask is in [0, 1]."""
        if isinstance(value, PIL.Image.Image):
            value = [value]
        if isinstance(value, list) and isinstance(value[0], PIL.Image.Image):
            mode = "L" if name == "mask_image" else "RGB"
            arrays = [np.asarray(x.convert(mode), np.float32) / 255 for x in value]
            stacked = torch.tensor(np.stack(arrays))
            is_mask = mode == "L"
            value = stacked[:, None] if is_mask else 2 * stacked.movedim(-1, 1) - 1
        return torch.as_tensor(value).to(self._execution_device, self.unet.dtype)

    def _tokenize(self, prompt):
        if self.tokenizer is None:
            raise ValueError("this model came without a tokenizer: give tokens.")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        length = self._settings("text")["length"]
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        return self.tokenizer(texts, return_tensors="pt", **options).input_ids

    def boxes_to_tokens(self, layouts):
        """Makes tokens [B, M] of lists of (class, x, y, width, height)."""
        condition = self._settings("layout")
        if condition["has_attributes"] and any(layouts):
            raise ValueError("this model reads attributes of boxes too: give tokens.")
        num_ids = condition["vocab_size"]
        side = math.isqrt(num_ids) - 1

        def corners(x, y, width, height):
            points = ((x, y), (x + width, y + height))
            return [round(b * side) * (side + 1) + round(a * side) for a, b in points]

        rows = []
        for boxes in layouts:
            row = [v for label, *box in boxes for v in (label, *corners(*box))]
            missing = 3 * condition["max_objects"] - len(row)
            if missing < 0:
                raise ValueError(
                    f"at most {condition['max_objects']} boxes: got {len(boxes)}."
                )
            rows.append(row + [num_ids - 1] * missing + corners(0, 0, 1, 1))
        return torch.tensor(rows)

    def _encode(self, y):
        """Encodes a condition: keyword arguments of the denoiser."""
        encoded = [self._encode_part(part, y) for part in self.parts]
        return {
            name: torch.cat([x[name] for x in encoded if name in x], 1)
            if name != "class_labels"
            else next(x[name] for x in encoded if name in x)
            for name in dict.fromkeys(name for x in encoded for name in x)
        }

    def _encode_part(self, part, y):
        """Encodes one of the conditions of a model."""
        if part.kind == "class":
            if part.condition["width"] is None:
                return {"class_labels": y["class_labels"]}
            return {"encoder_hidden_states": part(y["class_labels"])}
        if part.kind in ("text", "layout"):
            encoder = self.bert if self.bert is not None else self.text_encoder
            return {"encoder_hidden_states": encoder(y["tokens"])[0]}
        if part.kind == "semantic":
            return {"concat": part(y["label_map"]).to(self.unet.dtype)}
        if part.kind == "superres":
            return {"concat": y["low_res"]}
        if part.kind == "retrieval":
            return {"encoder_hidden_states": y["embeddings"]}
        if part.kind == "inpaint":
            hole = y["mask_image"] >= 0.5
            latent = self._first_latent(y["image"].masked_fill(hole, -1.0))
            mask = hole[:, :, :: self.f, :: self.f].to(latent.dtype) * 2 - 1
            return {"concat": torch.cat([latent, mask], 1)}
        return {}

    def _first_latent(self, image):
        """Encodes an image with its hole, at the scale of the condition."""
        scale = self.conditioner.config.latent_scale
        if self.vqvae is None:
            return scale * image
        encoded = self.vqvae.encode(image)
        is_vq = hasattr(encoded, "latents")
        return scale * (encoded.latents if is_vq else encoded.latent_dist.mode())

    def _null(self, y):
        """Returns inputs that state nothing, for classifier-free guidance."""
        if not self.parts:
            raise ValueError("guidance needs a condition: use guidance_scale=1.")
        null = dict(y)
        for part in self.parts:
            null |= self._null_of_part(part, y)
        return null

    def _null_of_part(self, part, y):
        """Returns the inputs of one condition that state nothing."""
        if part.kind == "class":
            return {"class_labels": part.null(y["class_labels"])}
        if part.kind == "semantic":
            return {"label_map": part.null(y["label_map"])}
        if part.kind == "text":
            empty = self._tokenize([""] * len(y["tokens"]))
            return {"tokens": empty.to(y["tokens"].device)}
        if part.kind == "layout":
            empty = self.boxes_to_tokens([[]] * len(y["tokens"]))
            return {"tokens": empty.to(y["tokens"].device)}
        if part.kind == "inpaint":
            return {"mask_image": torch.ones_like(y["mask_image"])}
        ((name,),) = TAKES[part.kind]  # a picture, or embeddings
        return {name: torch.zeros_like(y[name])}

    def _latent_shape(self, height, width, y, cond):
        """Returns (c, h, w) of the latents."""
        c = self.unet.config.out_channels
        if "concat" in cond:
            return (c, *cond["concat"].shape[-2:])
        size = self.unet.config.sample_size
        h, w = (size, size) if isinstance(size, int) else size
        return c, height // self.f if height else h, width // self.f if width else w

    def _denoise(self, z_t, t, cond):
        if "concat" in cond:
            z_t = torch.cat([z_t, cond["concat"]], 1)
        names = ("encoder_hidden_states", "class_labels")
        return self.unet(z_t, t, **{n: cond[n] for n in names if n in cond}).sample

    def _decode(self, z):
        if self.vqvae is None:
            return z
        return self.vqvae.decode(z / self.vqvae.config.scaling_factor).sample

    def _finish(self, image, y):
        """Puts the region of an inpainted image that was not painted back."""
        if "mask_image" not in y:
            return image
        return torch.where(y["mask_image"] >= 0.5, image, y["image"])
