# SPDX-License-Identifier: Apache-2.0
"""Directives that show the program's own text: help pages and notes on configs.

    ```{help-pages}
    ```
    ```{config-notes}
    ```

Each makes a section per command or per config.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ldm_jax import cli
from ldm_jax.commands.configs import list_configs


class HelpPages(SphinxDirective):
    """Shows the help page of every command and subcommand."""

    def run(self) -> list[nodes.Node]:
        """Makes a section for each."""
        return [
            _section(parser.prog, parser.format_help())
            for parser in cli.make_parser().all_commands()
        ]


class ConfigNotes(SphinxDirective):
    """Shows the docstring of every config: the paper's numbers, the commands."""

    def run(self) -> list[nodes.Node]:
        """Makes a section for each."""
        return [
            _section(config.name, f"--config={config.usage}\n\n{config.note}")
            for config in list_configs()
        ]


def _section(title: str, text: str) -> nodes.section:
    """Makes a section with a text as it is printed."""
    section = nodes.section(ids=[nodes.make_id(title)], names=[title])
    section += nodes.title(text=title)
    section += nodes.literal_block(text, text, language="text")
    return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the directives; called by Sphinx."""
    app.add_directive("help-pages", HelpPages)
    app.add_directive("config-notes", ConfigNotes)
    return {"parallel_read_safe": True}
