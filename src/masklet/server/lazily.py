"""Commands that are loaded when they are used: the service needs more than `masklet --help` should wait for."""

from importlib import import_module
from typing import Any

import click


class LazyCommand(click.Command):
    """Stands for a command of another module under its name and one line of help."""

    def __init__(self, name: str, module: str, help: str) -> None:
        super().__init__(name, help=help)
        self._module = module

    def load(self) -> click.Command:
        """Return the command itself."""
        try:
            command: click.Command = getattr(import_module(self._module), str(self.name))
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("masklet"):
                raise
            raise click.UsageError(
                f"{error.name} is missing: install the service with pip install 'masklet[server]'"
            ) from error
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Load the command and let it read its arguments."""
        return self.load().make_context(info_name, args, parent=parent, **extra)
