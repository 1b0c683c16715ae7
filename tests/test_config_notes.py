# SPDX-License-Identifier: Apache-2.0
"""The notes of configs: the paper's numbers, where they were printed, what is ours."""

import ast
import pathlib
import re

import pytest

from ldm_jax import cli
from ldm_jax.metrics.paper import ROWS, SPEEDS
from tests.models.features.test_lpips import COUNTS
from tests.test_configs import CLASSIFIERS, SIZES
from tests.test_first_stage_configs import RELEASED

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
# Baselines of other authors have no config; nor has what the table lists without a row.
NO_CONFIG = "none: "
# Configs that reproduce no experiment of the paper: shared pieces, one's own pictures,
# experiments that train in minutes, and a study whose arms are other configs.
OURS = {
    *("__init__", "common", "autoencoders", "open_images", "photos", "quickstart"),
    *("study_f", "study_toy", "flowers_first_stage"),
}


def note(file):
    return ast.get_docstring(ast.parse((CONFIGS / f"{file}.py").read_text())) or ""


def lines():
    """(configs, rows) of each line of the table of the paper's experiments."""
    for line in (CONFIGS / "README.md").read_text().splitlines():
        if line.startswith("| "):
            _, _, configs, rows = line.strip("|").split("|")[:4]
            yield configs.strip(), re.findall(r"`([^`]+)`", rows)


def config_of(row):
    """The file of the config of a row; None for a baseline."""
    (configs,) = [configs for configs, rows in lines() if row in rows]
    if configs.startswith(NO_CONFIG):
        return None
    return re.findall(r"`([^`:]+)", configs)[0]


def evaluations():
    """(row, words of the command) of every row in the list of flags of `evaluate`."""
    page = re.sub(r"\n  +", " ", (CONFIGS / "README.md").read_text())
    for line in re.findall(r"^\* (`.*)$", page, re.M):
        names, _, flags = line.partition(": ")
        flags = flags.split("`")[1].split()
        model = [] if "--images=SAMPLES" in flags else ["--model=M"]
        for row in re.findall(r"`([^`]+)`", names):
            common = ["--reference=R.npz", "--out=O", f"--paper-row={row}"]
            yield row, ["evaluate", *model, *common, *flags]


def test_every_row_is_evaluated_by_one_command():
    assert sorted(row for row, _ in evaluations()) == sorted(ROWS)


@pytest.mark.parametrize(("row", "words"), list(evaluations()))
def test_the_command_of_a_row_has_its_steps_and_scales(row, words):
    """Paper: steps and scales of metrics/paper.py; the command line takes the flags."""
    args, _ = cli.parse(words)
    steps = re.match(r"\d+", ROWS[row].steps)
    if steps and args.model:
        assert args.num_steps == (int(steps[0]),)
    scale = re.search(r"(classifier )?scale ([\d.]+)", ROWS[row].steps)
    scales = dict(guidance_scale=None, classifier_scale=1.0)  # the flags' defaults
    if scale:
        scales["classifier_scale" if scale[1] else "guidance_scale"] = float(scale[2])
    assert {name: getattr(args, name) for name in scales} == scales


def test_the_other_commands_of_the_page_have_flags_that_exist():
    page = (CONFIGS / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ldm-jax (.+)$", page, re.M)
    assert {line.split()[0] for line in commands} == {"train", "evaluate", "sample"}
    for line in commands:
        words = [w.replace("=SCALE", "=1") for w in line.split() if w != "FLAGS"]
        cli.parse(words)


def is_printed(value, text):
    """Whether a number is in a text, with as many zeros as the paper prints."""
    forms = {str(value), f"{value:.1f}", f"{value:.2f}", f"{value:.3f}"}
    exact = [x for x in forms if float(x) == value]
    return any(re.search(rf"(?<![\d.]){re.escape(x)}(?!\d|\.\d)", text) for x in exact)


def is_ours(file):
    return file in OURS or file.startswith("small")


FILES = sorted(path.stem for path in CONFIGS.glob("*.py"))


@pytest.mark.parametrize("file", [f for f in FILES if not is_ours(f)])
def test_a_note_says_where_its_experiment_is_published_and_how_to_run_it(file):
    text = note(file)
    assert re.search(r"(Rombach|Blattmann) et al\. 2022", text)
    assert f"--config={file}" in text
    if "Rombach" in text.split("\n\n")[0]:
        assert re.search(r"Tab\. \d", text)
    else:
        assert "released code" in text


@pytest.mark.parametrize("file", [f for f in FILES if is_ours(f)])
def test_other_configs_say_what_they_are_for(file):
    assert file == "__init__" or len(note(file)) > 60


@pytest.mark.parametrize("row", ROWS)
def test_a_note_has_the_numbers_of_its_rows_and_their_table(row):
    """Paper: metrics/paper.py, figure by figure."""
    file, result = config_of(row), ROWS[row]
    if file is None:
        return
    # The table of first stages has two of their five metrics.
    is_stage = result.protocol == "paper-reconstruction"
    names = ("psnr", "fid") if is_stage else tuple(result.figures)
    missing = [n for n in names if not is_printed(result.figures[n], note(file))]
    assert not missing, f"{file}.py lacks {missing} of {row}: {result.figures}"
    table = re.match(r"Tab\. \d+|README", result.where)
    assert table and table[0].replace("Tab. ", "") in re.sub(
        r"Tab\. ([\d, and]+)", r"\1", note(file)
    )


@pytest.mark.parametrize("row", SPEEDS)
def test_a_note_has_the_printed_speed_of_its_rows(row):
    """Paper: Tab. 5, 6 and 18, images per second on an A100."""
    file = config_of(row.removesuffix("-512"))
    assert is_printed(SPEEDS[row].images_per_second, note(file)), file


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        (0.5, "recall 0.50 with", True),
        (2.8, "FID 2.8.", True),
        (2.8, "FID 12.8", False),
        (2.8, "FID 2.81", False),
        (7.0, "7.0 images", True),
    ],
)
def test_numbers_are_found_as_they_are_printed(value, text, expected):
    assert is_printed(value, text) == expected


SUPERRES = SIZES["superres:low_res=pil_bicubic"][0] + RELEASED["vq", "f=4"]


@pytest.mark.parametrize(
    ("total", "printed"),
    [
        # Tab. 5, rounded; "guiding" contains LPIPS.
        (SUPERRES, 169),
        (SUPERRES + COUNTS["vgg"], 184),
        # Tab. 9 and 10, cut off. The layout encoder has an unused output layer.
        (sum(SIZES["layout:data=coco,depth=8"]) + 8192 * 513, 345),
        (SIZES["imagenet:f=8"][0] + CLASSIFIERS["imagenet_classifier"][0], 506),
        # Tab. 2 prints 1.45B.
        (sum(SIZES["text:model=laion"]) + 30522 * 1281, 1454),
    ],
)
def test_sums_of_the_counts_are_the_sizes_that_the_paper_prints(total, printed):
    """Paper: in millions; the parts are counted in other tests."""
    assert printed in (round(total / 1e6), int(total / 1e6))
