"""Skips everything, saying so, where there is no browser to be had."""

import pytest

pytest.importorskip("websocket", reason="the Python package websocket-client is not installed")

import browser  # noqa: E402


def pytest_collection_modifyitems(items):
    if browser.find() is None:
        skip = pytest.mark.skip(reason="no Chromium is installed; name one in CHROMIUM")
        for item in items:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def chromium():
    with browser.started() as address:
        yield address


@pytest.fixture
def page(chromium):
    page = browser.Page(chromium)
    yield page
    page.close()
