# SPDX-License-Identifier: Apache-2.0
"""Settings of sampling: the section `sampling` of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int

from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.diffusion.samplers.base import Sampler
from ldm_jax.diffusion.samplers.grid import GRIDS, make_timesteps
from ldm_jax.diffusion.samplers.options import Option, options_of, read_option
from ldm_jax.diffusion.schedule import MAX_TIMESTEPS, NoiseSchedule, make_schedule
from ldm_jax.files.errors import shown
from ldm_jax.files.value_types import MAX_FLOAT32, check_type


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of the sampler, of guidance and of constraints on x0_hat.

    The flags of `ldm-jax sample` are these fields and the samplers' own options; their
    help texts are the annotations.

    Attributes:
      sampler: a name of `SAMPLERS`.
      num_steps: S, number of sampling steps.
      grid: "original" or "even", see `make_timesteps`.
      guidance_scale: 1 is off; papers that write w mean scale - 1.
      guidance_rescale: in [0, 1], see `classifier_free`.
      guidance_interval: (first, last) t that is guided; None guides all.
      clip: bound of x0_hat, for models of pixels; None does not clip.
      threshold: percentile of dynamic thresholding, see `threshold_x0`; None is off.
      snap_to_codebook: whether x0_hat is replaced by its nearest codes (VQ).
      unquantized: whether the sample is decoded without quantization (VQ).
      strength: share of the steps to run when sampling starts from an image.
      tile, overlap: side and minimum overlap of the tiles, in positions of the latent,
        to which denoiser and decoder are applied; None applies them to all of it.
      options: (name, value) of the sampler's own options, sorted; `make_sampling` takes
        them by name.

    Raises:
      ValueError: an unknown sampler, an option that the sampler does not have, or a
        value of another type or out of its range.
    """

    sampler: Annotated[str, "one of: " + ", ".join(SAMPLERS)] = "ddim"
    num_steps: Annotated[int, "number of sampling steps"] = 50
    grid: Annotated[
        str,
        'spacing of the steps: "original", as in the released code, which allows only '
        'some numbers of steps; or "even", which allows any',
    ] = "original"
    guidance_scale: Annotated[float, "1 is off"] = 1.0
    guidance_rescale: Annotated[
        float,
        "how far the standard deviation of the guided prediction is moved back to that "
        "of the conditional one, 0 to 1",
    ] = 0.0
    guidance_interval: Annotated[
        tuple[int, int] | None,
        "FIRST,LAST: guide only while t is in this range; default: always",
    ] = None
    clip: Annotated[float | None, "clip x0 to [-CLIP, CLIP], for pixel models"] = None
    threshold: Annotated[
        float | None,
        "clip x0 at this quantile of its absolute values, e.g. 0.995 (dynamic "
        "thresholding)",
    ] = None
    snap_to_codebook: Annotated[
        bool, "replace every estimate of the latent by its nearest codes (VQ)"
    ] = False
    unquantized: Annotated[
        bool, "decode the latent as it is, instead of its nearest codes (VQ)"
    ] = False
    strength: Annotated[
        float,
        "share of the steps that are run from --start, 0 to 1; 1 changes most",
    ] = 1.0
    tile: Annotated[
        int | None,
        "side of the tiles, in latents, for images larger than in training",
    ] = None
    overlap: Annotated[int, "minimum overlap of tiles, in latents"] = 0
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        self._check_types(sampling_fields(), self.to_dict())
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f'unknown sampler "{self.sampler}"; one of: '
                f"{', '.join(sorted(SAMPLERS))}."
            )
        known = options_of(SAMPLERS[self.sampler])
        unknown = [name for name, _ in self.options if name not in known]
        if unknown:
            raise ValueError(
                f'the sampler "{self.sampler}" has no {", ".join(unknown)}; leave it '
                "out, or choose another sampler."
            )
        self._check_types(known, dict(self.options))
        if self.grid not in GRIDS:
            raise ValueError(f'unknown grid "{self.grid}"; one of: {", ".join(GRIDS)}.')
        if self.num_steps == 1 and self.grid == "original":
            # Its only step starts at t = 1, where almost all noise is gone.
            raise ValueError(
                'grid="original" with num_steps=1 would return the noise itself; use '
                'grid="even" (--grid even), or more steps.'
            )
        fields = {name: getattr(self, name) for name in sampling_fields()}
        for name, value in {**fields, **dict(self.options)}.items():
            if isinstance(value, int | float) and not abs(value) <= MAX_FLOAT32:
                raise ValueError(
                    f"{name} must be a finite number in single precision: got "
                    f"{shown(value)}."
                )
        for name, least in (("num_steps", 1), ("tile", 1), ("overlap", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more: got {value}.")
        last = (self.guidance_interval or (0, 0))[-1]
        if last >= MAX_TIMESTEPS:
            raise ValueError(
                f"guidance_interval must hold steps t below {MAX_TIMESTEPS}: got "
                f"{shown(last)}."
            )
        if self.clip is not None and self.threshold is not None:
            raise ValueError(
                f"clip={self.clip} and threshold={self.threshold} both bound x0_hat; "
                "choose one."
            )
        if self.overlap and not self.tile:
            raise ValueError(
                f"overlap={self.overlap} is of tiles: got none; set tile, or leave "
                "overlap out."
            )
        self.make_sampler(make_schedule())  # which checks the values of the options

    @staticmethod
    def _check_types(options: Mapping[str, Option], values: Mapping[str, Any]) -> None:
        for name in options.keys() & values.keys():
            default = f"the default is {options[name].default!r}"
            check_type(name, values[name], options[name].kind, default)

    def make_sampler(self, schedule: NoiseSchedule) -> Sampler:
        """Makes the sampler for a schedule of T steps."""
        return SAMPLERS[self.sampler](schedule, **dict(self.options))

    def make_timesteps(self, schedule: NoiseSchedule) -> Int[np.ndarray, " grid"]:
        """Returns the S + 1 steps of T that the sampler visits.

        Raises:
          ValueError: the grid does not have this number of steps, or begins before the
            last step of a schedule that ends in pure noise (Lin et al. 2023, 3.3).
        """
        starts_at_end = self.grid == "even" or self.strength < 1
        if schedule.zero_terminal_snr and not starts_at_end:
            raise ValueError(
                "a schedule with zero terminal SNR must be sampled from its last step: "
                f'got grid="{self.grid}", which does not visit it; use grid="even" '
                "(--grid even)."
            )
        return make_timesteps(self.num_steps, schedule.num_timesteps, self.grid)

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings by name, the options of the sampler among them."""
        settings = {name: getattr(self, name) for name in sampling_fields()}
        return {**settings, **dict(self.options)}


def sampling_fields() -> dict[str, Option]:
    """Lists the fields of `Sampling` by name, without the samplers' own options."""
    return {
        field.name: read_option(field.type, field.default)
        for field in dataclasses.fields(Sampling)
        if field.name != "options"
    }


def make_sampling(**settings: Any) -> Sampling:
    """Makes a `Sampling` from its fields and the options of its sampler, by name.

    Raises:
      ValueError: as `Sampling`.
    """
    common = sampling_fields()
    options = {n: x for n, x in settings.items() if n not in common and x is not None}
    # Lists are what JSON makes of tuples.
    fields: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x
        for name, x in settings.items()
        if name in common
    }
    return Sampling(**fields, options=tuple(sorted(options.items())))


def replace_sampling(
    defaults: Mapping[str, Any], changes: Mapping[str, Any]
) -> Sampling:
    """Makes a `Sampling` from defaults and changes.

    Args:
      defaults: values by name, from a config.
      changes: values by name. If they change the sampler, the options in `defaults`,
        which are those of another sampler, are dropped.
    """
    kept = dict(defaults)
    if changes.get("sampler", kept.get("sampler")) != kept.get("sampler"):
        kept = {name: kept[name] for name in sampling_fields() if name in kept}
    return make_sampling(**{**kept, **changes})
