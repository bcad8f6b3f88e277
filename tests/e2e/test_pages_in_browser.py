"""Pages in a real browser: Chromium without a window, spoken to over its DevTools."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aimo2.evals.report import make_report
from aimo2.evals.report_page import report_page
from aimo2.pages.question import Question, question_page
from tests.evals.drawn import drawn_run
from tests.saved import code_run, outcome, trace, turn

pytestmark = pytest.mark.e2e

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESKTOP = 390, 1280
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
WIDE = "x" * 3000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser's DevTools."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH")
    profile = tmp_path_factory.mktemp("profile")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    command = [found, *flags, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("DevTools listening on "):
                    yield line.removeprefix("DevTools listening on ").strip()
                    break
            else:
                pytest.skip(f"{found} ended before it listened")
        finally:
            process.terminate()
            process.stderr.close()


class Tab:
    """One page in the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._number = 0
        self.events: list[dict[str, Any]] = []

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        call = {"id": number, "method": method, "params": parameters, "sessionId": self._session}
        await self._socket.send_json(call)
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == number and message.get("sessionId") == self._session:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    async def value(self, expression: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def open(self, path: Path, width: int, *, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[scheme])
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        await self.ask("Page.navigate", url=path.as_uri())
        async with asyncio.timeout(60):
            while await self.value("document.readyState") != "complete":
                pass
        assert await self.value("location.href") == path.as_uri()

    def complaints(self) -> list[str]:
        """Console messages, exceptions, log entries, and requests beyond the page itself."""
        found = []
        for event in self.events:
            method, given = event.get("method"), event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(given)[:300])
            if method == "Network.requestWillBeSent" and given["type"] != "Document":
                found.append(given["request"]["url"])
        return found


@contextlib.asynccontextmanager
async def new_tab(address: str) -> AsyncGenerator[Tab, None]:
    async with aiohttp.ClientSession() as client, client.ws_connect(address, max_msg_size=0) as to:
        await to.send_json(
            {"id": -1, "method": "Target.createTarget", "params": {"url": "about:blank"}}
        )
        target = (await to.receive_json(timeout=60))["result"]["targetId"]
        attach = {"targetId": target, "flatten": True}
        await to.send_json({"id": -2, "method": "Target.attachToTarget", "params": attach})
        while (message := await to.receive_json(timeout=60)).get("id") != -2:
            pass
        yield Tab(to, message["result"]["sessionId"])
        await to.send_json(
            {"id": -3, "method": "Target.closeTarget", "params": {"targetId": target}}
        )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    first = drawn_run(folder / "first", problems=20, longer=2)
    second = drawn_run(folder / "second", problems=20, seed=1)
    links = {(0, f"p{n}"): "question.html" for n in range(20)}
    formula = "\\(" + "+".join(f"x_{{{n}}}" for n in range(90)) + "\\)"
    code = turn(
        f"{HOSTILE} {WIDE} {formula}\n```python\n{HOSTILE}\ny = '{WIDE}'\n```\n",
        run=code_run(f"{HOSTILE}\n{WIDE}", error="other"),
        injected=WIDE,
        mean_logprob=-0.4,
        token_spans=tuple((4, 40 * n % 300) for n in range(900)),
        seconds=2.0,
    )
    stored = [
        trace(0, code, turn(f"so $$\\frac{{1}}{{2}}$$ {WIDE}"), answer=WIDE, opening=HOSTILE),
        trace(1, code, turn("\\boxed{42}"), parent=0, num_shared_turns=1, started=2.0),
        *(trace(n, turn("\\boxed{42}"), parent=n - 1, started=n / 2) for n in range(2, 30)),
    ]
    ended = outcome(answer="42", gold=WIDE, correct=False, note=HOSTILE, votes={WIDE: 1, "42": 9})
    given = Question(f"{HOSTILE} {WIDE}", tuple(stored), ended, f"{HOSTILE} {WIDE} {formula}", WIDE)
    texts = {
        "question": question_page(given),
        "report": report_page(make_report([first]), links, "one run"),
        "reports": report_page(make_report([first, second]), links, "two runs"),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in texts}


_WIDER = """[...document.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
      && !e.closest('.scroll, pre, span.long, math, svg') ).map(e => e.outerHTML.slice(0, 120))"""


def contrast(first: Sequence[float], second: Sequence[float]) -> float:
    """Of two colours, by WCAG 2.2."""

    def light(colour: Sequence[float]) -> float:
        parts = [part / 255 for part in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(first), light(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["question", "report", "reports"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_fits_its_width_and_says_and_fetches_nothing(
    browser: str, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    async def main() -> None:
        async with new_tab(browser) as tab:
            await tab.open(pages[name], width, dark=dark)
            await tab.value("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert await tab.value(_WIDER) == []
            assert await tab.value("document.documentElement.scrollWidth") <= width
            assert await tab.value("document.title") != "owned"
            assert await tab.value("document.scripts.length") == 0
            background = await tab.value("getComputedStyle(document.body).backgroundColor")
            ink = await tab.value("getComputedStyle(document.body).color")
            soft = await tab.value("getComputedStyle(document.querySelector('.note')).color")
            numbers = [
                [float(part) for part in colour.split("(")[1].rstrip(")").split(",")]
                for colour in (background, ink, soft)
            ]
            assert (sum(numbers[0]) < 300) == dark
            assert contrast(numbers[0], numbers[1]) > 7
            assert contrast(numbers[0], numbers[2]) > 4.5
            assert tab.complaints() == []

    asyncio.run(main())


def test_the_choices_work_without_a_script(browser: str, pages: dict[str, Path]) -> None:
    async def main() -> None:
        shown = "[...document.querySelectorAll('{}')].filter(e => e.offsetParent).length"
        async with new_tab(browser) as tab:
            await tab.open(pages["question"], PHONE)
            assert await tab.value(shown.format(".tokens")) == 0
            await tab.value("document.querySelector('#view-tokens').click()")
            assert await tab.value(shown.format(".tokens")) > 0
            assert await tab.value(shown.format(".turn.marked .read")) == 0
        async with new_tab(browser) as tab:
            await tab.open(pages["report"], PHONE)
            rows = await tab.value(shown.format("tr.right"))
            assert rows > 0
            await tab.value("document.querySelector('#show-wrong').click()")
            assert await tab.value(shown.format("tr.right")) == 0
            assert await tab.value(shown.format("tr.wrong")) > 0

    asyncio.run(main())


def test_a_script_in_the_page_would_be_refused(
    browser: str, pages: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "broken.html"
    text = pages["question"].read_text()
    page.write_text(text.replace("<main>", "<main><script>document.title='owned'</script>"))

    async def main() -> None:
        async with new_tab(browser) as tab:
            await tab.open(page, DESKTOP)
            assert await tab.value("document.title") != "owned"

    asyncio.run(main())
