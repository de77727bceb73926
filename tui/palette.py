"""The command palette, opened with nothing typed; and its list of themes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from textual.await_complete import AwaitComplete
from textual.command import CommandPalette, DiscoveryHit, Hits
from textual.events import Mount
from textual.system_commands import SystemCommandsProvider

from tui.dialogs import ClosesOnce


class Commands(SystemCommandsProvider):
    """Lists the app's commands in the app's order, where Textual's goes by the alphabet."""

    async def discover(self) -> Hits:
        for command in self.app.get_system_commands(self.screen):
            if command.discover:
                yield DiscoveryHit(command.title, command.callback, help=command.help)


class Palette(ClosesOnce, CommandPalette):
    """A palette that closes, and runs what was chosen, once."""

    def _on_mount(self, event: Mount) -> None:
        if self not in self.app.screen_stack:  # it was closed, or the app went elsewhere, before it was there
            event.prevent_default()

    def _action_command_list(self, action: str) -> None:
        with suppress(KeyError):  # as :class:`tui.lists.Options`
            super()._action_command_list(action)

    def dismiss(self, result: Any = None) -> AwaitComplete:
        self._cancel_gather_commands()  # it would look for its list, which goes
        self.call_next(self._forget)  # once the handler at work, which reads it, is done
        return super().dismiss(result)

    def _gather_commands(self, search_value: str) -> Any:
        """What was typed last may be told once the palette is on its way out."""
        return super()._gather_commands(search_value) if self in self.app.screen_stack else None

    def _forget(self) -> None:
        self._selected_command = None
