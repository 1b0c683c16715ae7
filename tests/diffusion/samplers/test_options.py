# SPDX-License-Identifier: Apache-2.0
"""Options as samplers declare them."""

from typing import Annotated

from ldm_jax.diffusion.samplers import options_by_name
from ldm_jax.diffusion.samplers.euler import euler
from ldm_jax.diffusion.samplers.options import Option, options_of


def test_options_are_the_arguments_after_the_schedule():
    def sampler(
        schedule,
        churn: Annotated[float, "noise per step"] = 0.5,
        order: int = 2,
        plain=1.0,
    ): ...

    assert options_of(sampler) == {
        "churn": Option(float, 0.5, "noise per step"),
        "order": Option(int, 2, ""),
        "plain": Option(float, 1.0, ""),
    }
    assert options_of(euler) == {}


def test_an_option_of_several_samplers_is_listed_once_with_all_of_them():
    option, samplers = options_by_name()["temperature"]
    assert option.kind is float and option.default == 1.0
    assert samplers == ("ddim", "ddpm", "dpm_solver_sde", "euler_ancestral")
    assert options_by_name()["eta"][1] == ("ddim",)
