"""ComfyUI's page as a person has it: what it shows, what it complains of, what it is sent."""

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, WebSocket

from development import browser
from development.places import PACK_NAME
from development.server import Server

SECONDS = 300.0
RESTED = """() => new Promise(done => {
    let rest
    const end = () => { seen.disconnect(); clearTimeout(rest); clearTimeout(most); done() }
    const again = () => { clearTimeout(rest); rest = setTimeout(end, 200) }
    const seen = new MutationObserver(again)
    const most = setTimeout(end, 500)
    seen.observe(document, { subtree: true, childList: true, attributes: true,
                             characterData: true })
    again()
})"""
# What the host's page itself reports on every machine, and why.
HOSTS_OWN = {
    r"404 .*/user\.css$": "a user's own style sheet, which a new user does not have",
    r"404 .*/userdata/comfy\.templates\.json$": "a user's own node templates",
    r"404 .*/userdata\?dir=subgraphs": "a user's own subgraphs",
    r"404 .*/docs/.*/[a-z]{2}\.md$": "a help page is asked for by language before the one we have",
    r"Content Security Policy": "a missing model's size, asked for where downloads are not allowed",
    r"Missing Link ID when unpacking": "said of a subgraph's links, none of which is lost",
    r"Broken Id link when unpacking": "a link's bends outside of a subgraph: it goes straight then",
    r"ComfyApp graph accessed before initialization": "the host's settings store, as it loads",
}


class Window:
    """One page; `errors`, `messages` and `previews` grow while the person works."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        self.errors: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.previews: list[tuple[str, bytes]] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", self._connected)

    def open(self, template: str | None = None) -> None:
        """Go to the page; with a template, as its link opens it."""
        query = f"/?template={template}&source={PACK_NAME}" if template else ""
        browser.opened(self.page, self.server.url + query)
        if template:
            self.page.wait_for_function("() => app.graph._nodes.length > 3")
        self.settle()

    def set(self, setting: str, value: Any) -> None:
        """Change a setting of the page, which the server keeps for its user."""
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)",
                           [setting, value])
        self.settle()

    def fetch(self, template: str) -> None:
        """Open a template as the Templates dialog does after the click; `settle` afterwards."""
        self.page.evaluate("""async ([pack, name]) => {
            const answer = await app.api.fetchApi(`/workflow_templates/${pack}/${name}.json`)
            await app.loadGraphData(await answer.json(), true, true, name,
                                    { openSource: 'template' })
        }""", [PACK_NAME, template])

    def load(self, graph: dict[str, Any]) -> None:
        """Put a graph onto the page, as a dropped file would."""
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)
        self.settle()

    def settle(self) -> None:
        """Wait until the page's document has rested, half a second at the most."""
        self.page.evaluate(RESTED)

    def graph(self) -> dict[str, Any]:
        """The graph as the page would save it."""
        found: dict[str, Any] = self.page.evaluate("() => app.graph.serialize()")
        return found

    def until(self, true: Callable[[], Any], seconds: float = SECONDS) -> None:
        """Wait while the page goes on; fails after so many seconds."""
        for _ in range(int(seconds * 20)):
            if true():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"not within {seconds:.0f} s; last message {self.messages[-1:]}")

    def press_run(self) -> None:
        """Click Run; messages and previews begin anew."""
        self.messages.clear()
        self.previews.clear()
        self.page.get_by_test_id("queue-button").click()

    def run(self, seconds: float = SECONDS) -> None:
        """Click Run and wait for the end."""
        self.press_run()
        self.until(lambda: self.of("execution_success", "execution_error"), seconds)
        assert not self.of("execution_error"), self.of("execution_error")
        self.page.wait_for_timeout(500)  # pictures on the canvas are not in the document

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """The data of the server's messages of these kinds, since Run was pressed."""
        return [message["data"] for message in self.messages if message["type"] in kinds]

    def texts(self, value: str) -> Locator:
        """The first text box on the canvas that holds this text."""
        boxes = self.page.locator("textarea:visible")
        held = boxes.evaluate_all("boxes => boxes.map(box => box.value)")
        return boxes.nth(next(i for i, text in enumerate(held) if value in text))

    def said_nothing(self) -> None:
        """Fail if the page has reported an error of its own; the next test begins anew."""
        errors, self.errors = self.errors, []
        assert not errors, "\n".join(errors)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} {message.location.get('url', '')}")

    def _note(self, error: str) -> None:
        status = re.sub(r"^Failed to load resource: .*status of (\d+) \(.*?\)", r"\1", error)
        if not any(re.search(known, status.strip()) for known in HOSTS_OWN):
            self.errors.append(error)

    def _connected(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._received)

    def _received(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self.messages.append(json.loads(frame))
        elif frame[:4] == b"\0\0\0\4":  # a preview with its metadata before it
            end = 8 + int.from_bytes(frame[4:8], "big")
            self.previews.append((json.loads(frame[8:end])["node_id"], frame[end:]))
