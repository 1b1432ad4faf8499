"""Follows the progress of one prompt over the server's websocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from types import TracebackType
from typing import Any

import aiohttp

Event = tuple[str, float, float]
CONNECT_SECONDS = 10.0


class ProgressReader:
    """Collects (node id, value, maximum) in a thread until the `with` block ends."""

    def __init__(self, url: str, client_id: str, prompt_id: str) -> None:
        self._address = f"ws{url[len('http') :]}/ws?clientId={client_id}"
        self._prompt_id = prompt_id
        self._events: list[Event] = []
        self._last: dict[str, Event] = {}
        self._guard = threading.Lock()
        self._connected = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._listen())
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ProgressReader:
        self._thread.start()
        self._connected.wait(CONNECT_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended by itself
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def take(self) -> list[Event]:
        """The events since the last call, oldest first."""
        with self._guard:
            events, self._events = self._events, []
        return events

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except (asyncio.CancelledError, aiohttp.ClientError, OSError):
            pass  # The caller polls the history and sees for itself how the run ended.
        finally:
            self._connected.set()
            self._loop.close()

    async def _listen(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._address, max_msg_size=0) as socket,
        ):
            self._connected.set()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._note(json.loads(message.data))

    def _note(self, message: dict[str, Any]) -> None:
        data = message.get("data") or {}
        if message.get("type") != "progress_state" or data.get("prompt_id") != self._prompt_id:
            return
        for node_id, state in data["nodes"].items():
            event = (str(node_id), float(state["value"]), float(state["max"]))
            if self._last.get(node_id) != event:
                self._last[node_id] = event
                with self._guard:
                    self._events.append(event)
