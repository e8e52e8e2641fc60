#!/usr/bin/env python3
"""Drives a real browser through the pages of the gateway example: Debian's Chromium with its driver, headless.

    apt-get install chromium chromium-driver
    cargo build --all-features --example gateway && tests/peers/browser/link.py

It starts the example with `--demo`, speaks WebDriver (W3C) with nothing but Python's standard library, fails where a page
is not as it should be, and leaves screenshots under `target/tmp/browser`.
"""

import base64
import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHOTS = ROOT / "target/tmp/browser"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Driver:
    def __init__(self):
        self.browsers = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            try:
                if self.ask("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.05)
        sys.exit("chromedriver does not start")

    def ask(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error


class Browser:
    """A browser with a profile of its own."""

    def __init__(self, driver, dark=False):
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=800,600"]
        if dark:
            arguments.append("--force-dark-mode")
        options = {"args": arguments}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self.driver = driver
        self.path = f"/session/{driver.ask('POST', '/session', wanted)['sessionId']}"
        driver.browsers.append(self)
        self.ask("POST", "/timeouts", {"implicit": 10_000})

    def ask(self, method, path, body=None):
        return self.driver.ask(method, self.path + path, body)

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def url(self):
        return self.ask("GET", "/url")

    def text(self):
        return self.ask("POST", "/execute/sync", {"script": "return document.body.innerText", "args": []})

    def find(self, selector):
        return self.ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.ask("POST", f"/element/{self.find(selector)}/click")

    def press(self, keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def type(self, selector, text):
        element = self.find(selector)
        self.ask("POST", f"/element/{element}/clear")
        self.ask("POST", f"/element/{element}/value", {"text": text})

    def cookies(self):
        return {cookie["name"]: cookie for cookie in self.ask("GET", "/cookie")}

    def shoot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        (SHOTS / f"{name}.png").write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def log_in(self, gateway, user):
        self.open(f"{gateway}/accounts")
        self.type("input[name=user]", user)
        self.click("button[value=yes]")
        wait(lambda: self.url() == f"{gateway}/accounts")

    def close(self):
        self.driver.browsers.remove(self)
        self.ask("DELETE", "")


def wait(is_so):
    """Waits until it is so: a browser may answer before the page that it was sent to has come."""
    end = time.monotonic() + 10
    while not (holds := is_so()) and time.monotonic() < end:
        time.sleep(0.05)
    return holds


def check(is_so, what):
    holds = wait(is_so)
    print("ok   " if holds else "WRONG", what)
    if not holds:
        raise SystemExit(1)


def journey(gateway, driver):
    alice = Browser(driver)
    alice.open(f"{gateway}/accounts")
    check(lambda: "Log in" in alice.text() and gateway not in alice.url(), "without a session the issuer asks for a login")
    alice.type("input[name=user]", "alice")
    alice.click("button[value=yes]")
    check(lambda: alice.url() == f"{gateway}/accounts", "after the login the browser is back at the accounts")
    check(lambda: "logged in as alice" in alice.text() and "not linked" in alice.text(), "github is not linked")
    alice.shoot("1-not-linked")
    session = alice.cookies()["__Host-gateway-session"]
    is_guarded = session["secure"] and session["httpOnly"] and session["sameSite"] == "Lax" and session["path"] == "/"
    check(lambda: is_guarded and "alice" not in session["value"], "the session's cookie is guarded and sealed")

    alice.click("a[aria-label='Link github']")
    check(lambda: "Link your account" in alice.text(), "one click leads to the provider")
    alice.click("button[value=no]")
    check(lambda: "did not agree" in alice.text(), "a refused consent says what to do")
    alice.shoot("2-refused")
    alice.click("a")
    check(lambda: "Link your account" in alice.text(), "and the page leads there again")
    alice.click("button[value=yes]")
    check(lambda: alice.url() == f"{gateway}/accounts", "after the consent the browser is back at the accounts")
    check(lambda: "linked, next renewed before" in alice.text(), "github is linked")
    alice.shoot("3-linked")

    alice.ask("POST", "/refresh")
    check(lambda: "linked, next renewed before" in alice.text(), "a reload changes nothing")
    alice.ask("POST", "/back")
    alice.click("button[value=yes]")
    check(lambda: "done before" in alice.text(), "going back and agreeing once more is refused")
    alice.shoot("4-back")
    alice.open(f"{gateway}/accounts")
    check(lambda: "linked, next renewed before" in alice.text(), "and github is still linked")

    # Mallory gives the redirect of her own link to another browser, in which Bob is logged in.
    mallory, bob = Browser(driver), Browser(driver)
    mallory.log_in(gateway, "mallory")
    mallory.click("a[aria-label='Link github']")
    wait(lambda: "state=" in mallory.url())
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(mallory.url()).query)
    back = asked["redirect_uri"][0] + "?" + urllib.parse.urlencode({"code": "stolen", "state": asked["state"][0]})
    bob.log_in(gateway, "bob")
    bob.open(back)
    check(lambda: "This browser did not start this" in bob.text(), "the redirect does nothing in the wrong browser")
    bob.shoot("5-wrong-browser")
    bob.open(f"{gateway}/accounts")
    check(lambda: "not linked" in bob.text(), "and nothing is linked there")
    bob.open(f"{gateway}/accounts/link/%3Cscript%3Ealert(1)%3C/script%3E")
    check(lambda: "script" not in bob.text(), "nothing of a URL reaches a page")
    mallory.close()
    bob.close()

    # With the keyboard alone: the third stop is `Unlink`, after `Log out` and `Link again`.
    alice.press(["\ue004", "\ue004", "\ue004"])
    focused = "return document.activeElement.getAttribute('aria-label')"
    run = {"script": focused, "args": []}
    check(lambda: alice.ask("POST", "/execute/sync", run) == "Unlink github", "the keyboard reaches the button")
    alice.shoot("6-focus")
    alice.press(["\ue007"])
    check(lambda: "not linked" in alice.text(), "github is unlinked")
    alice.click("form[action='/logout'] button")
    check(lambda: "You are logged out" in alice.text(), "the session is over")
    alice.shoot("7-logged-out")
    check(lambda: "__Host-gateway-session" not in alice.cookies(), "and its cookie is gone")
    alice.close()

    dark = Browser(driver, dark=True)
    dark.log_in(gateway, "alice")
    dark.ask("POST", "/goog/cdp/execute", {
        "cmd": "Emulation.setEmulatedMedia",
        "params": {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    })
    dark.shoot("8-dark")
    dark.close()


def main():
    example = ROOT / "target/debug/examples/gateway"
    gateway = subprocess.Popen([example, "--demo"], stdout=subprocess.PIPE, text=True)
    driver = None
    try:
        address = re.search(r"http://[0-9.:]+", gateway.stdout.readline()).group()
        driver = Driver()
        journey(address, driver)
        print(f"all as it should be, screenshots in {SHOTS}")
    finally:
        gateway.terminate()
        if driver:
            for browser in list(driver.browsers):
                browser.close()
            driver.process.terminate()


if __name__ == "__main__":
    main()
