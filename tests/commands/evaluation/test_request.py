# SPDX-License-Identifier: Apache-2.0
"""A request takes what it leaves open from its protocol, or from the paper's row."""

import pytest

from ldm_jax.commands.evaluation.request import Request
from ldm_jax.metrics.paper import PROTOCOLS, ROWS


def test_without_a_protocol_the_frechet_distance_of_all_images_is_computed():
    request = Request()
    assert request.metrics == ("fid",) and request.num is None
    assert request.compares_sets and not request.needs_pairs()


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_gives_metrics_and_number_unless_they_are_set(name):
    protocol = PROTOCOLS[name]
    request = Request(protocol=name)
    assert request.metrics == protocol.metrics
    assert request.num == protocol.num_images
    own = Request(protocol=name, metrics=("psnr",), num=7)
    assert own.metrics == ("psnr",) and own.num == 7
    assert own.needs_pairs() and not own.compares_sets


def test_a_row_of_the_paper_brings_its_protocol():
    name = next(iter(ROWS))
    assert Request(paper_row=name).protocol == ROWS[name].protocol


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ("fidd",)}, "unknown metrics fidd; some of: fid"),
        ({"metrics": ("clip_score",)}, "clip_score compares .* give both"),
        ({"masks": "folder"}, "chosen by the share of their masks: .* give both"),
        ({"mask_share": (0.4, 0.5)}, "chosen by the share of their masks"),
    ],
)
def test_what_needs_something_else_is_refused_without_it(fields, message):
    with pytest.raises(ValueError, match=message):
        Request(**fields)
