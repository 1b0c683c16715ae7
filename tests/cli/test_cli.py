# SPDX-License-Identifier: Apache-2.0
"""The command line: help pages, exit codes, one-line errors."""

import pathlib
import subprocess
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.cli import values

QUICKSTART = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")
COMMANDS = ["quickstart", "train", "latents", "reconstruct", "sample", "import"]
COMMANDS += ["export", "stats", "evaluate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: ldm-jax {command}") and len(page) > 400


def test_the_first_page_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    page = capsys.readouterr().out
    listed = [line.split()[0] for line in page.splitlines() if line[:4].isspace()]
    assert set(COMMANDS) <= set(listed)


def test_a_misspelt_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--config=x.py", "--workdir=a", "--confg.seed=1"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --confg.seed=1" in capsys.readouterr().err


def test_bad_input_is_one_message_and_exit_code_two(tmp_path, capsys):
    assert cli.main(["sample", f"--model={tmp_path}", "--out=a"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ldm-jax sample: {tmp_path} is not a model directory")
    assert "Traceback" not in error


def test_a_directory_in_use_is_one_message_too(tmp_path, monkeypatch, capsys):
    from ldm_jax.commands import reconstruct
    from ldm_jax.files.lock import lock_directory

    monkeypatch.setattr(
        reconstruct,
        "write_reconstructions",
        lambda *args, **how: lock_directory(tmp_path),
    )
    lock = lock_directory(tmp_path)
    assert cli.main(["reconstruct", "--model=a", "--out=b.png"]) == 2
    lock.release()
    assert "in use by process" in capsys.readouterr().err


def test_flags_that_an_evaluation_would_ignore_are_refused(tmp_path, capsys):
    argv = ["evaluate", f"--images={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*argv, "--num-steps=5", "--metrics=psnr"]) == 2
    error = capsys.readouterr().err
    assert "finished images takes no num_steps" in error


def test_an_error_for_a_misspelt_field_suggests_the_nearest(capsys):
    argv = ["train", f"--config={QUICKSTART}:stage=diffusion", "--workdir=a"]
    assert cli.main([*argv, "--config.train.num_stps=1"]) == 2
    assert 'did you mean "num_steps"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--num=0", "argument --num: must be a whole number of 1 or more: got '0'."),
        (
            "--batch-size=-1",
            'argument --batch-size: must be "auto", or a whole number of 1 or more: '
            "got '-1'.",
        ),
        ("--size=256y256", "must be HEIGHTxWIDTH, or a side: got '256y256'"),
        ("--guidance-interval=800,200", "FIRST,LAST, steps t in rising order"),
    ],
)
def test_values_of_flags_are_checked_by_name(flag, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(["sample", "--model=a", "--out=b", flag])
    assert message in capsys.readouterr().err


def test_an_error_for_a_misspelt_command_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["trian", "--config=a"])
    assert stop.value.code == 2
    assert 'no command "trian"; did you mean "train"?' in capsys.readouterr().err


def test_an_error_for_a_misspelt_flag_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", "--model=a", "--out=b", "--batchsize=3"])
    assert stop.value.code == 2
    assert "--batchsize=3; did you mean --batch-size?" in capsys.readouterr().err


def test_the_version_is_that_of_the_installed_package(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"ldm_jax {version('ldm_jax')}"


@pytest.mark.parametrize(
    "command", cli.COMMANDS, ids=lambda c: c.__name__.rpartition(".")[2]
)
def test_every_command_has_a_help_page_with_examples(command, capsys):
    name = command.__name__.rpartition(".")[2].rstrip("_")
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert f"usage: ldm-jax {name}" in page
    assert f"ldm-jax {name}" in page.partition("examples:")[2]
    assert "\noutput:\n" in page or "written" in page.partition("options")[0]


def test_help_does_not_load_jax():
    program = (
        "import contextlib, sys\nfrom ldm_jax import cli\n"
        "for words in ([], ['train'], ['bench'], ['bench', 'train'], ['weights'],\n"
        "              ['plan'], ['export'], ['import'], ['latents']):\n"
        "    with contextlib.suppress(SystemExit): cli.main([*words, '--help'])\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--modle=a", "--out=b"], "--modle=a; did you mean --model?"),
        (
            ["train", "--verbose"],
            "unrecognized arguments: --verbose (see ldm-jax train",
        ),
        (["weights", "inceptoin"], 'no kind "inceptoin"; did you mean "inception"?'),
        (["weights", "lpips", "--dwnload=vgg"], "did you mean --download?"),
        (["bench", "trian"], 'no benchmark "trian"; did you mean "train"?'),
        (["bench", "data", "--batchsize=3"], "did you mean --batch-size?"),
        (["export", "a", "--to=tensorflow", "--out=b"], "must be one of all, compact,"),
        (["--verison"], "--verison; did you mean --version?"),
    ],
)
def test_misspelt_words_are_named_before_anything_missing(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_control_characters_of_file_names_are_printed_escaped(tmp_path, capsys):
    assert cli.main(["sample", f"--model={tmp_path}/a\x1b[31m", "--out=b"]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error and "a\\x1b[31m" in error


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch):
    from ldm_jax.commands import reconstruct

    monkeypatch.setattr(
        reconstruct, "write_reconstructions", lambda *args, **how: {}["key"]
    )
    with pytest.raises(KeyError):
        cli.main(["reconstruct", "--model=a", "--out=b.png"])


@pytest.mark.parametrize(
    "arguments, advice",
    [
        (["sample", "--model=m", "--out=o"], "with --batch-size"),
        (["train", "--config=celebahq", "--workdir=w"], "config.batch_size"),
    ],
    ids=["sample", "train"],
)
@pytest.mark.parametrize("place", ["device", "host"])
def test_memory_that_is_not_enough_is_one_message(
    monkeypatch, capsys, arguments, advice, place
):
    def run(args, overrides):
        zeros = jnp.zeros if place == "device" else np.zeros
        jax.block_until_ready(zeros(2**46, np.float32))  # 256 TiB

    monkeypatch.setattr(f"ldm_jax.cli.{arguments[0]}._run", run)
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ldm-jax {arguments[0]}: memory is not enough: ")
    assert advice in line and "lloc" in line  # the requested size


def test_what_a_terminal_would_obey_is_printed_as_escapes(capsys):
    values.echo("in \x1b]0;title\x07.png\nsecond line")
    assert capsys.readouterr().out == "in \\x1b]0;title\\x07.png\nsecond line\n"
    assert cli.main(["sample", "--model=no\x1b[2Jwhere", "--out=out"]) == 2
    assert "no\\x1b[2Jwhere is not a model" in capsys.readouterr().err
