# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax completion`: prints a script that completes commands and flags in a shell.

The script contains every flag, so that a key press does not wait for Python; most flags
of `ldm-jax sample` come from samplers and conditions, whose import takes a second.
"""

import argparse
from typing import Any

from ldm_jax import configs, pretrained
from ldm_jax.cli import values
from ldm_jax.cli.parser import CommandParser

DETAILS = """
Load it in the running shell, eval "$(ldm-jax completion bash)", or store what it prints
where the shell looks for such files, and again after an upgrade:
~/.local/share/bash-completion/completions/ldm-jax for bash, the file _ldm-jax in a
folder of fpath for zsh. Nothing is written.
"""
EXAMPLES = """
  ldm-jax completion bash
  ldm-jax completion zsh
"""
SHELLS = ("bash", "zsh", "tcsh")
# Arguments whose value is a text, or a number of another form; the others are paths.
NOT_PATHS = {
    *("chip", "key", "label", "licence", "metrics", "only", "paper_row", "prompt"),
    *("protocol", "query", "split", "stage", "topology"),
}
# Functions of the script that complete a config, and a model.
CONFIG = {"bash": "_ldm_jax_config", "zsh": "_ldm_jax_config", "tcsh": "f"}
MODEL = {"bash": "_ldm_jax_model", "zsh": "_ldm_jax_model", "tcsh": "d"}
BASH = """
_ldm_jax_config() {{ compgen -W "{configs}" -- "$1"; compgen -f -- "$1"; }}
_ldm_jax_model() {{ compgen -W "{models}" -- "$1"; compgen -d -- "$1"; }}
"""
# Bash splits --flag=value into three words; the function of shtab expects two.
BASH_EQUALS = """
_ldm_jax() {
  local words=() i place=0
  for i in "${!COMP_WORDS[@]}"; do
    if [[ "${COMP_WORDS[i]}" == "=" ]]; then
      ((i == COMP_CWORD)) || continue
      words+=("")
    else
      words+=("${COMP_WORDS[i]}")
    fi
    ((i == COMP_CWORD)) && place=$((${#words[@]} - 1))
  done
  COMP_WORDS=("${words[@]}")
  COMP_CWORD=$place
  _shtab_ldm_jax
}
complete -o bashdefault -F _ldm_jax ldm-jax
"""
ZSH = """
_ldm_jax_config() {{ _alternative 'configs:config:({configs})' 'files:file:_files' }}
_ldm_jax_model() {{ _alternative 'models:model:({models})' 'files:folder:_files -/' }}
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "completion",
        _run,
        "Print a script for the completion of commands and flags in a shell.",
        details=DETAILS,
        examples=EXAMPLES,
        uses_devices=False,
    )
    command.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))


def completion_script(parser: CommandParser, shell: str) -> str:
    """Makes the script for one shell.

    Args:
      parser: of every command; its arguments get the functions that complete them.
      shell: one of SHELLS.
    """
    import shtab

    for command in parser.all_commands():
        for action in command._actions:
            _set_completion(action)
    names = dict(
        configs=" ".join(configs.names()),
        models=" ".join(pretrained.pretrained_names()),
    )
    functions = {"bash": BASH, "zsh": ZSH}.get(shell, "").format(**names)
    preamble: Any = {shell: functions}  # earlier versions of shtab take no text
    script = shtab.complete(parser, shell=shell, preamble=preamble)
    return script + (BASH_EQUALS if shell == "bash" else "")


def _set_completion(action: argparse.Action) -> None:
    """Sets how the value of an argument is completed."""
    import shtab

    if action.choices or action.nargs == 0 or action.dest in NOT_PATHS:
        return
    if action.dest == "sampler":
        from ldm_jax.diffusion.samplers import SAMPLERS

        action.choices = sorted(SAMPLERS)
        return
    if action.type is not None:
        return  # a number
    named = dict(config=CONFIG, name=CONFIG, model=MODEL, beside=MODEL)
    action.complete = named.get(action.dest, shtab.FILE)  # type: ignore[attr-defined]


def _run(args, overrides) -> None:
    from ldm_jax.cli import make_parser

    print(completion_script(make_parser(), args.shell))
