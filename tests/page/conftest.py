"""A real browser on a real page.  Without Chromium these tests are skipped, unless LORABENCH_NEED_CHROMIUM is set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import synthetic
from needs import CHROMIUM, unable
from page_study import ARMS, ODD, ORDERS

from harness.report import build_index, write_report
from harness.store import write_trial


@pytest.fixture(scope="session")
def browser() -> Iterator:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unable("playwright is not installed", CHROMIUM)
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        unable("there is no Chromium on this system (apt-get install chromium)", CHROMIUM)
    with sync_playwright() as playwright:
        # Chromium's sandbox doesn't start as root, as in most containers.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """A folder of results: a study of five arms, two orders and three seeds, an odd name, a failure; and the index."""
    root = tmp_path_factory.mktemp("results")
    records = [
        synthetic.trial(arm, stream, order=order, seed=seed, intruders="all")
        for arm in ARMS
        for order, stream in ORDERS.items()
        for seed in range(3)
    ]
    odd = synthetic.spec(ODD, synthetic.QUICK)
    records += [
        synthetic.trial("lora", synthetic.QUICK, spec=odd, fingerprint="odd"),
        synthetic.failed("self_distill", synthetic.QUICK),
    ]
    for record in records:
        write_trial(root / "study", record)
    write_report(root / "study", synthetic.Folder(records))
    build_index(root)
    return root


@pytest.fixture
def open_page(browser, results) -> Iterator[Callable]:
    """``open_page("study/report.html", viewport=..., color_scheme=...)``; at the end nothing may have gone wrong."""
    contexts, troubles, requests = [], [], []

    def call(name: str = "study/report.html", **settings):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((results / name).as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert not troubles
    outside = [url for url in requests if not url.startswith("data:") and not url.endswith(".html")]
    assert not outside, "the page is one file"
    assert all(url.startswith(("file:", "data:")) for url in requests), "nothing is fetched from a network"
