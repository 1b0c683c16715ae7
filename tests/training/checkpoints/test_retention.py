# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are kept, as a function of steps and scores."""

import types

import pytest
from etils import epath

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.training.checkpoints.retention import LatestAndBest


def kept(policy, steps):
    checkpoints = [types.SimpleNamespace(step=step) for step in steps]
    flags = policy.should_preserve(checkpoints)
    return [step for step, keep in zip(steps, flags, strict=True) if keep]


@pytest.mark.parametrize("keep", [0, -1])
def test_to_keep_no_checkpoint_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match=r"train.keep must be at least 1: got"):
        LatestAndBest(epath.Path(tmp_path), keep)


def test_the_newest_is_kept_whatever_the_scores(tmp_path):
    policy = LatestAndBest(epath.Path(tmp_path), 1, "fid")
    policy.note(3, {"fid": 1.0}, [3])
    policy.note(5, {"fid": float("nan")}, [3, 5])
    assert kept(policy, [3, 5, 9]) == [3, 9]
    assert kept(LatestAndBest(epath.Path(tmp_path), 1), [3, 5, 9]) == [9]


def test_scores_are_there_after_a_restart_and_of_checkpoints_only(tmp_path):
    policy = LatestAndBest(epath.Path(tmp_path), 1, "psnr", best_is_lowest=False)
    for step, psnr in ((1, 30.0), (2, 99.0), (3, 20.0)):
        policy.note(step, {"psnr": psnr, "fid": psnr}, [1, 3])
    again = LatestAndBest(epath.Path(tmp_path), 1, "fid")
    assert kept(again, [1, 3, 4]) == [3, 4]  # low is good of another scalar
    again.note(4, {"fid": 10.0}, [3, 4])
    assert kept(LatestAndBest(epath.Path(tmp_path), 1, "fid"), [3, 4, 5]) == [4, 5]


def test_a_scalar_that_the_evaluation_does_not_give_is_named(tmp_path):
    policy = LatestAndBest(epath.Path(tmp_path), 1, "fdi")
    with pytest.raises(ValueError, match="got 'fdi', it gives fid, kid; name one"):
        policy.note(1, {"fid": 1.0, "kid": 2.0}, [1])


@pytest.mark.parametrize(
    "text", ['{"1": {"fi', "[1]", '{"a": {}}', '{"1": {"fid": "x"}}', '{"1": 3}', ""]
)
def test_damaged_scores_are_refused_where_the_best_is_kept(tmp_path, text):
    """Without scores, the best checkpoint would be deleted."""
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UnreadableFile, match=r"scores\.json") as error:
        LatestAndBest(epath.Path(tmp_path), 1, "fid")
    assert len(str(error.value).splitlines()) == 1
    assert (tmp_path / "scores.json").read_text() == text
    assert kept(LatestAndBest(epath.Path(tmp_path), 1), [1, 2]) == [2]


def test_multiples_of_keep_every_are_kept_forever(tmp_path):
    policy = LatestAndBest(epath.Path(tmp_path), 1, keep_every=4)
    assert kept(policy, [2, 4, 6, 8, 10]) == [4, 8, 10]
