"""The inbox page in a real browser."""

from __future__ import annotations

import pytest

from splashify_provider.hooks.splashify import SplashifyHook
from splashify_provider.sandbox.server import Sandbox
from tests.conftest import ADA, BEN, PHONE

pytestmark = pytest.mark.slow

EVIL = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'


def count(page, name):
    return int(page.locator(".inbox", has_text=name).locator(".count").inner_text())


def test_each_inbox_follows_what_happens_by_itself(browser_page, sandbox, connect):
    page = browser_page
    page.goto(sandbox.url)
    page.wait_for_selector(".inbox")
    assert (count(page, ADA), count(page, BEN), count(page, "Unassigned")) == (4, 3, 4)
    connect(sandbox.base_url)
    SplashifyHook().assign(PHONE, BEN)
    page.wait_for_selector(".inbox .chat.moved")
    assert (count(page, ADA), count(page, BEN)) == (3, 4)
    assert "Ada → Ben" in page.locator("#activity li").first.inner_text()
    SplashifyHook().release(PHONE)
    page.locator("#unassigned", has_text="5").wait_for()
    assert PHONE not in page.content()


def test_an_agent_is_disabled_and_enabled_with_a_button(browser_page, sandbox):
    browser_page.goto(sandbox.url)
    card = browser_page.locator(".inbox", has_text="Dan")
    card.get_by_role("button", name="Enable").click()
    card.get_by_role("button", name="Disable").wait_for()
    assert sandbox.workspace.agents["dan@example.com"].active


def test_nothing_that_came_in_is_interpreted_as_markup(browser_page, connect):
    seed = {
        "agents": [{"email": EVIL, "name": EVIL}],
        "conversations": [{"user_phone_number": PHONE, "name": EVIL, "agent_email": EVIL}],
    }
    with Sandbox(seed) as sandbox:
        sandbox.workspace.record(400, EVIL, PHONE, EVIL)
        browser_page.goto(sandbox.url)
        browser_page.wait_for_selector("#activity li")
        browser_page.wait_for_timeout(1500)
        assert browser_page.title() == "Splashify sandbox"
        assert browser_page.locator("img").count() == 0
        assert EVIL in browser_page.locator(".inbox").nth(1).inner_text()


def test_the_page_says_when_the_sandbox_has_gone(browser_page):
    with Sandbox() as sandbox:
        browser_page.goto(sandbox.url)
        browser_page.wait_for_selector(".inbox")
    browser_page.wait_for_selector("#stale:not([hidden])")
