"""The browser in which the page is tested."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, of the system or downloaded by Playwright; scripts/test.sh tries to get one. Whoever cannot have one
    still gets the result of all other tests, unless REQUIRE_BROWSER is set.
    """
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        # Without these switches it looks up hosts of its own at every start.
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        except Error as error:
            if os.environ.get("REQUIRE_BROWSER"):
                raise
            pytest.skip(f"No browser can be started: {error.message.splitlines()[0]}")
        yield browser
        browser.close()
