"""The row of keys below: what can be pressed now."""

from __future__ import annotations

from textual.content import Content
from textual.events import Click
from textual.screen import Screen
from textual.style import Style
from textual.widgets import Static

GAP = "  "


class Keys(Static):
    """The keys that the screen and the focused widget answer, each with what it does; a click presses one.

    One widget for all of them: Textual's own footer makes one for each key, anew whenever the focus moves.
    """

    DEFAULT_CSS = """
    Keys {
        dock: bottom; height: 1; padding: 0 1; background: $footer-background; color: $footer-description-foreground;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        self.show()

    def _changed(self, screen: Screen[object]) -> None:
        if self.app.app_focus and self.is_attached and screen is self.screen:
            self.call_after_refresh(self.show)

    def show(self) -> None:
        if not self.is_attached:
            return  # its screen has gone since it was told to
        parts: dict[str, Content] = {}  # by action, of which the first key is shown
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.show and binding.action not in parts:
                key = (self.app.get_key_display(binding), "$footer-key-foreground bold")
                text = Content.assemble(key, f" {binding.description}")
                parts[binding.action] = text.stylize(Style.from_meta({"key": binding.key}) if active.enabled else "dim")
        text = Content(GAP).join(parts.values())
        if text != self.content:
            self.update(text)

    def on_click(self, event: Click) -> None:
        if key := event.style.meta.get("key"):
            self.app.simulate_key(key)
