"""The inbox page in a real browser."""

from __future__ import annotations

import pytest

from splashify_provider.hooks.splashify import SplashifyHook
from splashify_provider.sandbox.server import Sandbox
from tests.conftest import ADA, BEN, PHONE, number, team

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


def test_an_agent_is_added_and_removed_on_the_page(browser_page, sandbox):
    page = browser_page
    page.goto(sandbox.url)
    field = page.get_by_role("textbox", name="New agent's e-mail")
    field.fill("eve@example")
    page.get_by_role("button", name="Add agent").click()
    page.get_by_text("not an e-mail address").wait_for()
    field.fill("eve@example.com")
    field.press("Enter")
    card = page.locator(".inbox", has_text="eve@example.com")
    card.get_by_role("button", name="Disable").wait_for()
    assert field.input_value() == ""
    assert page.get_by_text("not an e-mail address").count() == 0
    assert sandbox.workspace.agents["eve@example.com"].active
    card.get_by_role("button", name="Remove").click()
    card.wait_for(state="detached")
    assert "eve@example.com" not in sandbox.workspace.agents


def test_a_removed_agent_keeps_their_conversations_and_can_be_put_back(browser_page, sandbox):
    page = browser_page
    page.goto(sandbox.url)
    card = page.locator(".inbox", has_text=ADA)
    card.get_by_role("button", name="Remove").click()
    card.get_by_text("not an agent").wait_for()
    assert (count(page, ADA), count(page, "Unassigned")) == (4, 4)
    card.get_by_role("button", name="Add", exact=True).click()
    card.get_by_role("button", name="Disable").wait_for()
    assert sandbox.workspace.agents[ADA].active


def test_a_button_survives_what_changes_under_it(browser_page, sandbox):
    page = browser_page
    page.goto(sandbox.url)
    button = page.locator(".inbox", has_text=BEN).get_by_role("button", name="Disable")
    button.focus()
    sandbox.workspace.assign(PHONE, BEN)
    sandbox.workspace.record(200, "Chat Assigned Successfully", PHONE, BEN, ADA, accepted=True)
    page.wait_for_selector(".inbox .chat.moved")
    page.keyboard.press("Enter")
    page.locator(".inbox.disabled", has_text="Ben").wait_for()


def test_a_full_inbox_shows_how_many_and_the_latest(browser_page, connect):
    seed = team(5000)
    for chat in seed["conversations"]:
        chat["agent_email"] = ADA
    with Sandbox(seed) as sandbox:
        page = browser_page
        page.goto(sandbox.url)
        card = page.locator(".inbox", has_text=ADA)
        card.get_by_text("and 4,976 more").wait_for()
        assert card.locator(".count").inner_text() == page.locator("#open").inner_text() == "5,000"
        connect(sandbox.base_url)
        SplashifyHook().assign(number(4999), BEN)
        page.locator(".inbox", has_text=BEN).locator(".chat.moved").wait_for()
        assert page.locator("#inboxes .chat").count() == 25
