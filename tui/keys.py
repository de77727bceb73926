"""Keys keep their order: each is handed on once the one before has done its work.

Textual gives a key to the widget that has the focus when the key arrives. So where several wait, what is typed after Tab
lands in the field before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from textual.app import App
from textual.dom import DOMNode
from textual.events import Event, Key, MouseDown, MouseScrollDown, MouseScrollUp, MouseUp, Paste
from textual.message import Message
from textual.widget import Widget

KEPT_IN_ORDER = (Key, Paste, MouseDown, MouseUp, MouseScrollDown, MouseScrollUp)
ROUNDS = 2  # a key may do its work by a message, such as Enter in a field: then a second round finds that done
LOOK_EVERY, GIVE_UP_AFTER = 0.1, 1.0  # seconds: a widget that is taken away answers no more


class Mark(Message):
    """Follows a key on its way from the focused widget up to the app."""

    def __init__(self, waiting: Waiting) -> None:
        super().__init__()
        self.waiting = waiting


@dataclass(eq=False)
class Waiting:
    """For the work of one key. ``target``: what got it. ``rounds``: that its mark still has to make."""

    target: Widget
    since: float
    rounds: int = ROUNDS


class InOrder(App[None]):
    """An app that hands keys, pastes and clicks on one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._held: deque[Event] = deque()
        self._waiting: Waiting | None = None

    @property
    def has_keys_waiting(self) -> bool:
        """Whether a key that came has not done its work yet."""
        return bool(self._held) or self._waiting is not None

    async def on_event(self, event: Event) -> None:
        if isinstance(event, KEPT_IN_ORDER) and not self._screen_stack:
            return  # the app is closing
        if isinstance(event, Paste):  # every field has one line
            event.text = next((line for line in event.text.splitlines() if line.strip()), "")
        if isinstance(event, KEPT_IN_ORDER) and not event.is_forwarded:
            self._held.append(event)
            await self._hand_on()
        else:
            await super().on_event(event)

    async def _hand_on(self) -> None:
        while self._held and self._waiting is None and self._screen_stack:
            event = self._held.popleft()
            target = self.focused or self.screen
            await super().on_event(event)
            if isinstance(event, Key | Paste):
                self._wait_for(target)

    def _wait_for(self, target: Widget) -> None:
        loop = asyncio.get_running_loop()
        waiting = Waiting(target, loop.time())
        if target.post_message(Mark(waiting)):
            self._waiting = waiting
            loop.call_later(LOOK_EVERY, self._look_after, waiting)

    async def on_mark(self, message: Mark) -> None:
        """A mark arrived, and with it all that the key set off."""
        waiting = message.waiting
        if waiting is not self._waiting:
            return
        waiting.rounds -= 1
        if waiting.rounds and _answers(waiting.target) and waiting.target.post_message(Mark(waiting)):
            return
        self._waiting = None
        await self._hand_on()

    def _look_after(self, waiting: Waiting) -> None:
        """Go on where the widget is gone, or does not answer for long."""
        if waiting is not self._waiting or not self._running:
            return
        loop = asyncio.get_running_loop()
        if _answers(waiting.target) and loop.time() - waiting.since < GIVE_UP_AFTER:
            loop.call_later(LOOK_EVERY, self._look_after, waiting)
        else:
            self._waiting = None
            self.call_later(self._hand_on)


def _answers(widget: DOMNode) -> bool:
    return widget.is_attached and widget.is_running
