"""How long learning still takes, as text on its node."""

from __future__ import annotations

import time
from collections.abc import Callable

from comfy_execution.utils import get_executing_context

FIRST_SECONDS, SECONDS_BETWEEN = 2.0, 1.0


def on_node(text: str) -> None:
    """Show text below the node that is running, on the page that asked for it.

    Without a running node, as in a script, nothing is shown.
    """
    running = get_executing_context()
    if running is None:
        return
    from server import PromptServer  # slow, and there only where a graph is run

    server = PromptServer.instance
    server.send_progress_text(text, running.node_id, server.client_id)


class TimeLeft:
    """Says the time left, by the share that is done; at most once a second, and not at once."""

    def __init__(
        self, show: Callable[[str], None] = on_node, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.show, self.clock = show, clock
        self.start: tuple[float, float] | None = None
        self.said: float | None = None

    def done(self, share: float) -> None:
        """So much of all is done, 0 to 1; what the first call names was there before."""
        now = self.clock()
        if self.start is None:
            self.start = now, share
        since, before = self.start
        if now - since < FIRST_SECONDS or share <= before or share >= 1:
            return
        if self.said is None or now - self.said >= SECONDS_BETWEEN:
            self.said = now
            remaining = (now - since) * (1 - share) / (share - before)
            self.show(f"{minutes(remaining)} left")

    def end(self, how: str) -> None:
        """Nothing is left: says how it ended and after how long, where the time left was said."""
        if self.start is not None and self.said is not None:
            self.show(f"{how} {minutes(self.clock() - self.start[0])}")


def minutes(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:30."""
    whole = round(seconds)
    hours, minute, second = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
