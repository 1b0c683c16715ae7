# SPDX-License-Identifier: Apache-2.0
"""The script of `ldm-jax completion`, in real shells."""

import shutil
import subprocess

import pytest

from ldm_jax import cli

needs = {
    shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell}")
    for shell in ("bash", "zsh")
}
# Completes its arguments, which are words as bash splits them, and prints the matches.
COMPLETE = """
source "$1"; shift
COMP_WORDS=(ldm-jax "$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
_ldm_jax 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Returns the path of a shell's script, made once."""
    folder, made = tmp_path_factory.mktemp("completion"), {}

    def path(shell):
        if shell not in made:
            from ldm_jax.cli.completion import completion_script

            made[shell] = folder / f"_{shell}"
            made[shell].write_text(completion_script(cli.make_parser(), shell))
        return made[shell]

    return path


@needs["bash"]
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quick"], {"quickstart"}),
        (["bench", "sam"], {"sampler"}),
        (["sample", "--guidance-s"], {"--guidance-scale"}),
        (["sample", "--sampler", "heu"], {"heun"}),
        (["sample", "--model", "dig"], {"digits"}),
        (["train", "--config", "quick"], {"quickstart"}),
        (["train", "--config", "=", "quick"], {"quickstart"}),  # of --config=quick
        (["sample", "--num", "=", "3", "--out", "=", "ph"], {"photos"}),
        (["info", "ph"], {"photos"}),
        (["export", "photos", "--to", "=", "on"], {"onnx"}),
        (["sample", "--label", "ph"], {""}),
    ],
)
def test_bash_completes(words, expected, script, tmp_path):
    (tmp_path / "photos").mkdir()
    call = ["bash", "-c", COMPLETE, "bash", script("bash"), *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert set(done.stdout.rstrip("\n").split("\n")) == expected


@needs["bash"]
def test_every_config_is_offered_after_an_equals_sign(script, tmp_path):
    words = ["train", "--config", "="]
    call = ["bash", "-c", COMPLETE, "bash", script("bash"), *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert {"imagenet_f", "photos", "text"} <= set(done.stdout.split())


@needs["zsh"]
def test_zsh_loads_the_script(script):
    load = f"autoload -Uz compinit; compinit -D -u; source {script('zsh')}; whence"
    done = subprocess.run(
        ["zsh", "-f", "-c", f"{load} -w _shtab_ldm_jax _ldm_jax_config"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.count(": function") == 2, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_scripts_contain_the_flags_of_samplers_and_conditions(shell, script):
    text = script(shell).read_text()
    for flag in ("guidance-scale", "prompt", "eta", "workdir"):
        assert flag in text


def test_an_unknown_shell_is_answered_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        cli.main(["completion", "bsh"])
    assert 'did you mean "bash"' in capsys.readouterr().err
