# SPDX-License-Identifier: Apache-2.0
"""The files with the results of an evaluation."""

import json

from ldm_jax.commands.evaluation.request import Request
from ldm_jax.commands.evaluation.results import finish_results


def test_results_name_their_protocol_and_warn_of_another_number_of_images(tmp_path):
    measured = {
        "num_images": 10,
        "warnings": ["first"],
        "figures": {"fid": {"label": "FID", "value": 1.5, "spread": None}},
    }
    request = Request(protocol="paper-uncond", num=10)
    result = finish_results(measured, str(tmp_path), request, {"model": "m"})
    assert json.loads((tmp_path / "results.json").read_text()) == result
    assert result["settings"]["protocol"] == "paper-uncond"
    first, second = result["warnings"]
    assert first == "first" and "takes 50000 images: these figures are of 10" in second
    assert "paper-uncond" in (tmp_path / "results.md").read_text()
    assert measured["warnings"] == ["first"]  # the caller's list stays
