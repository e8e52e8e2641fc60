"""Drives a real browser through the pages of the gateway example: Debian's Chromium with its driver, headless.

    apt-get install chromium chromium-driver
    cargo test --all-features --test gateway_example browser

The test starts the gateway, with npm's oidc-provider as the issuer and as the provider of linked accounts, and this script
with the gateway's URL and a folder for screenshots. The script speaks WebDriver (W3C) with nothing but Python's standard library,
and with the test in lines of JSON: `{"checked": …}` is said for each thing that is as it should be, and `{"ask": …}` expects an
answer.
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
import urllib.request

GATEWAY, SHOTS = sys.argv[1], pathlib.Path(sys.argv[2])
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
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error


class Browser:
    """A browser with a profile of its own."""

    def __init__(self, driver, dark=False):
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=800,600"]
        if dark:
            arguments.append("--force-dark-mode")
        options = {"args": arguments, "perfLoggingPrefs": {"enableNetwork": True}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL"}}
        wanted = {"capabilities": {"alwaysMatch": wanted}}
        self.driver = driver
        self.path = f"/session/{driver.ask('POST', '/session', wanted)['sessionId']}"
        driver.browsers.append(self)
        self.ask("POST", "/timeouts", {"implicit": 30_000})

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

    def focused(self):
        script = "const a = document.activeElement; return a.getAttribute('aria-label') || a.innerText || a.name"
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def requested(self, prefix):
        """The URLs that begin so and that the browser has asked for since the last time, redirects included."""
        entries = self.ask("POST", "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if url.startswith(prefix)]

    def be_dark(self):
        scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        self.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": scheme})

    def sign_in(self, user):
        """On the provider's page."""
        self.type("input[name=login]", user)
        self.type("input[name=password]", "any")
        self.click("button[type=submit]")
        wait(lambda: "Authorize" in self.text())

    def agree(self):
        self.click("button[type=submit]")
        wait(lambda: self.url().startswith(GATEWAY))

    def log_in(self, user):
        self.open(f"{GATEWAY}/accounts")
        self.sign_in(user)
        self.agree()

    def close(self):
        self.driver.browsers.remove(self)
        self.ask("DELETE", "")


def wait(is_so):
    """Waits until it is so: a browser may answer before the page that it was sent to has come."""
    end = time.monotonic() + 30
    while not (holds := is_so()) and time.monotonic() < end:
        time.sleep(0.05)
    return holds


def check(is_so, what):
    if not wait(is_so):
        raise SystemExit(f"WRONG: {what}")
    print(json.dumps({"checked": what}), flush=True)


def ask(question):
    print(json.dumps({"ask": question}), flush=True)
    return json.loads(sys.stdin.readline())


TAB, ENTER = "\ue004", "\ue007"


def journey(driver):
    alice = Browser(driver)
    alice.open(f"{GATEWAY}/accounts")
    check(lambda: "Sign-in" in alice.text() and GATEWAY not in alice.url(), "without a session the issuer asks for a login")
    alice.sign_in("alice")
    alice.agree()
    check(lambda: alice.url() == f"{GATEWAY}/accounts", "after the login the browser is back at the accounts")
    check(lambda: "logged in as alice" in alice.text() and "not linked" in alice.text(), "github is not linked")
    alice.shoot("1-not-linked")
    session = alice.cookies()["__Host-gateway-session"]
    is_guarded = session["secure"] and session["httpOnly"] and session["sameSite"] == "Lax" and session["path"] == "/"
    check(lambda: is_guarded and "alice" not in session["value"], "the session's cookie is guarded and sealed")
    link = f"{GATEWAY}/accounts/link/github"
    check(lambda: link in ask("call")["refused"], "a call to github is told where to link it")

    alice.click("a[aria-label='Link github']")
    check(lambda: "Sign-in" in alice.text() and GATEWAY not in alice.url(), "one click leads to the provider")
    alice.sign_in("alice-at-github")
    alice.click("a[href$='/abort']")
    check(lambda: "did not agree" in alice.text(), "a refused consent says what to do")
    alice.shoot("2-refused")
    alice.click("a")
    check(lambda: "Authorize" in alice.text(), "and the page leads there again")
    alice.requested(GATEWAY)
    alice.agree()
    check(lambda: alice.url() == f"{GATEWAY}/accounts", "after the consent the browser is back at the accounts")
    check(lambda: "linked, next renewed before" in alice.text(), "github is linked")
    alice.shoot("3-linked")
    check(lambda: ask("call") == {"owner": "alice-at-github"}, "the same call succeeds, with the token of the linked account")

    alice.ask("POST", "/refresh")
    check(lambda: "linked, next renewed before" in alice.text(), "a reload changes nothing")
    [back] = alice.requested(f"{GATEWAY}/accounts/link/callback/")
    alice.ask("POST", "/back")
    check(lambda: GATEWAY not in alice.url(), "back leads to the provider's page")
    alice.ask("POST", "/forward")
    check(lambda: "linked, next renewed before" in alice.text(), "and forward to the accounts, which are as they were")
    alice.open(back)
    check(lambda: "done before" in alice.text(), "the redirect of the provider is good for once")
    alice.shoot("4-done-before")
    alice.open(f"{GATEWAY}/accounts")
    check(lambda: "linked, next renewed before" in alice.text(), "and github is still linked")

    # Mallory gives the redirect of her own link, with a code, to another browser, in which Bob is logged in.
    bob = Browser(driver)
    bob.log_in("bob")
    bob.open(ask("mallory"))
    check(lambda: "This browser did not start this" in bob.text(), "the redirect does nothing in the wrong browser")
    bob.shoot("5-wrong-browser")
    bob.open(f"{GATEWAY}/accounts")
    check(lambda: "logged in as bob" in bob.text() and "not linked" in bob.text(), "and nothing is linked there")
    bob.open(f"{GATEWAY}/accounts/link/%3Cscript%3Ealert(1)%3C/script%3E")
    check(lambda: "no such page" in bob.text() and "script" not in bob.text(), "nothing of a URL reaches a page")
    bob.close()

    # The provider revokes what it issued. The call says where to renew the link, and a click there is enough.
    ask("end the link")
    refused = ask("call")["refused"]
    check(lambda: '"code":-32042' in refused, "when the link has ended, the next call asks the client to show a URL")
    link = re.search(r'"url":"([^"]+)"', refused).group(1)
    check(lambda: link == f"{GATEWAY}/accounts/link/github", "which is the link's")
    alice.open(link)
    check(lambda: alice.url() == f"{GATEWAY}/accounts", "one click renews the link, without a question")
    check(lambda: ask("call") == {"owner": "alice-at-github"}, "and the same call succeeds")

    # With the keyboard alone: the third stop is `Unlink`, after `Log out` and `Link again`.
    alice.press([TAB, TAB, TAB])
    check(lambda: alice.focused() == "Unlink github", "the keyboard reaches the button")
    alice.shoot("6-focus")
    alice.press([ENTER])
    check(lambda: "not linked" in alice.text(), "github is unlinked")
    check(lambda: "refused" in ask("call"), "and a call is refused")
    alice.press([TAB, TAB])
    check(lambda: alice.focused() == "Link github", "the keyboard reaches the link")
    alice.press([ENTER])
    check(lambda: "linked, next renewed before" in alice.text(), "and links again")
    alice.press([TAB])
    check(lambda: alice.focused() == "Log out", "the keyboard reaches the way out")
    alice.press([ENTER])
    check(lambda: "You are logged out" in alice.text(), "the session is over")
    alice.shoot("7-logged-out")
    check(lambda: "__Host-gateway-session" not in alice.cookies(), "and its cookie is gone")
    alice.close()

    dark = Browser(driver, dark=True)
    dark.be_dark()
    dark.log_in("alice")
    dark.shoot("8-dark")
    dark.press([TAB, TAB, TAB])
    dark.shoot("9-dark-focus")
    dark.open(back)
    check(lambda: "did not start this" in dark.text(), "in the dark, too")
    dark.shoot("10-dark-refused")
    dark.close()


def main():
    driver = Driver()
    try:
        journey(driver)
    except BaseException:
        for number, browser in enumerate(driver.browsers):
            browser.shoot(f"failed-{number}")
            print(browser.url(), browser.text(), sep="\n", file=sys.stderr)
        raise
    finally:
        for browser in list(driver.browsers):
            browser.close()
        driver.process.terminate()


if __name__ == "__main__":
    main()
