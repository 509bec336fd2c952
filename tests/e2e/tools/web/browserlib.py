"""Debian's Chromium for tests of the page: the installed one, or one that browser.sh fetches."""

import functools
import os
import subprocess
import sys

import pytest

from conftest import BUILD, until

INSTALLED = ("/usr/bin/chromium", "/usr/bin/chromedriver", "/usr/lib/python3/dist-packages/selenium")
FETCH_SECONDS = 900
# Elements and attributes that the page never makes of its own.
FOREIGN = """return [...document.querySelectorAll("img, b, iframe, object, embed, script:not([src='/main.js']), svg:not(figure svg), [onerror], [onload], [onfocus]")]
    .map((e) => e.outerHTML)"""


@functools.cache
def driver():
    """Return the path of chromedriver, with selenium in the path of modules. Fails if root cannot get them."""
    if all(map(os.path.exists, INSTALLED)):
        return INSTALLED[1]
    if os.geteuid():
        pytest.skip("needs chromium, chromium-driver and python3-selenium, or root, to use them without installing them")
    r = subprocess.run([os.path.join(os.path.dirname(__file__), "browser.sh")], capture_output=True, text=True, timeout=FETCH_SECONDS)
    if r.returncode:
        pytest.fail(f"apt has no Chromium: {r.stderr}")
    folder = r.stdout.strip()
    sys.path.append(folder + "/python")
    return folder + "/chromedriver"


def open_browser(tmp):
    path = driver()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    o = webdriver.ChromeOptions()
    for a in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp}/browser"):
        o.add_argument(a)
    o.binary_location = "/usr/bin/chromium"
    o.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    b = webdriver.Chrome(service=Service(path), options=o)
    b.set_window_size(1000, 800)
    return b


def picture(browser, name):
    os.makedirs(os.path.join(BUILD, "web"), exist_ok=True)
    browser.save_screenshot(os.path.join(BUILD, "web", name + ".png"))


def text(browser, selector="body"):
    """Return the text that is seen in an element; "" without one. In one step: the page may replace the element."""
    return browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)


def wait(browser, selector):
    until(lambda: browser.find_elements("css selector", selector))
    return browser.find_element("css selector", selector)


def click_one(find):
    """Click on the first element that find() returns, once it can be clicked."""
    from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException

    def clicked():
        try:
            for e in find():
                if e.is_displayed() and e.is_enabled():
                    e.click()
                    return True
        except (StaleElementReferenceException, ElementClickInterceptedException):  # the page has replaced or moved it meanwhile
            pass
        return False
    until(clicked)


def click(browser, label):
    """Click on a button, once there is one: by its name for screen readers, or by its text."""
    click_one(lambda: (e for e in browser.find_elements("css selector", "button, summary") if label in (e.get_attribute("aria-label"), e.text)))


def click_now(browser, label):
    """Click on a button if there is one that can be clicked. Unlike click(), this does not wait for it."""
    browser.execute_script("""[...document.querySelectorAll("button")].find((e) =>
        (e.ariaLabel ?? e.textContent) === arguments[0] && !e.disabled && e.checkVisibility())?.click()""", label)


def follow(browser, name):
    """Click on a link, once there is one: the list of VMs draws its rows a moment after their number."""
    click_one(lambda: browser.find_elements("link text", name))


def labels(browser):
    """The names of all buttons for screen readers."""
    return browser.execute_script("return [...document.querySelectorAll('button')].map((e) => e.getAttribute('aria-label'))")


def press(browser, *keys):
    """Press keys together, wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains
    chain = ActionChains(browser)
    for key in keys[:-1]:
        chain.key_down(key)
    chain.send_keys(keys[-1])
    for key in keys[:-1]:
        chain.key_up(key)
    chain.perform()


def focused(browser):
    """Return the label of what has the focus, for screen readers or its text."""
    return browser.execute_script("const e = document.activeElement; return e.getAttribute('aria-label') || e.textContent.trim()")


def tab_to(browser, label):
    """Press Tab until the element of that label has the focus."""
    seen = []
    while label != (seen[-1] if seen else None):
        assert len(seen) < 40, seen
        press(browser, "\ue004")
        seen.append(focused(browser))


def phone(browser):
    """Make the page one of a phone in dark mode."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})


def assert_fits_phone(browser):
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"


def foreign(browser):
    return browser.execute_script(FOREIGN)
