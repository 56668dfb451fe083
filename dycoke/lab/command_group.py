"""Groups of commands whose help shows whole summaries, as wide as the terminal."""

from __future__ import annotations

import inspect
from typing import Any

from typer.core import TyperGroup

SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 10_000,  # of the help, which otherwise ends at 80 columns
}


class CommandGroup(TyperGroup):
    """Group of commands whose summaries are not cut off where the line ends, as click does."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help and not command.short_help:
            command.short_help = " ".join(inspect.cleandoc(command.help).partition("\n\n")[0].split())
        return command
