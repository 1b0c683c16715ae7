# SPDX-License-Identifier: Apache-2.0
"""Flags of guides are read into settings, and none is ignored."""

import argparse

import pytest

from ldm_jax.cli.guides import classifier_flags, image_guide, query_of


def namespace(**flags):
    none = dict(guide=None, double=False, classifier=None, clip_model=None, query=None)
    none |= dict(database="", neighbours=None, classifier_scale=1.0)
    none |= dict(feature_network=None, feature_weights=None)
    none |= dict(guide_lpips_trunk="vgg", guide_at_once=None)
    none |= dict(classifier_form="eps", guide_by="l2", guide_scale=1.0)
    none |= dict(guide_transform="identity", guide_interval=None)
    none |= dict(guide_through="network", guide_unquantized=False, guide_lpips="")
    return argparse.Namespace(**{**none, **flags})


def test_without_flags_nothing_guides():
    args = namespace()
    assert classifier_flags(args) == {} and image_guide(args) is None
    assert query_of(args, {"text": "a"}) is None


def test_flags_become_settings():
    args = namespace(guide="a.png", guide_scale=3.0, guide_unquantized=True)
    guide = image_guide(args)
    assert guide.path == "a.png" and guide.how.scale == 3.0 and not guide.how.quantize
    inputs = {"text": "a fox"}
    query = query_of(namespace(clip_model="clip", database="d.npz"), inputs)
    # 0 neighbours: as many as in training.
    assert query.text == "a fox" and query.neighbours == 0 and inputs == {}
    guide = classifier_flags(namespace(classifier="c"))
    assert guide["classifier_scale"] == 1.0


@pytest.mark.parametrize("flags", [dict(query="a.png"), dict(neighbours=4)])
def test_a_query_without_a_network_or_a_database_is_refused(flags):
    (name,) = flags
    with pytest.raises(ValueError, match=f"--{name} is of retrieval models"):
        query_of(namespace(**flags), {})
