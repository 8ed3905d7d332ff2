"""A page of an address in headless Chromium, by the DevTools protocol over the browser's pipe."""
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time


class Browser:
    """Headless Chromium with one page open. What is waited for in vain is told in `faults`."""

    def __init__(self, base, shots=None, faults=None):
        self.base, self.shots, self.faults = base, shots, [] if faults is None else faults
        self.profile = tempfile.mkdtemp(prefix="millrace-browser-")
        (to_read, self.to), (self.back, to_write) = os.pipe(), os.pipe()

        # The browser reads commands from descriptor 3 and writes answers to 4.
        def arrange():
            first, second = os.dup(to_read), os.dup(to_write)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
             "--user-data-dir=" + self.profile, "about:blank"],
            preexec_fn=arrange, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.number, self.rest, self.session = 0, b"", None
        self.requests, self.sizes, self.complaints, self.addresses, self.unchanged = [], {}, [], {}, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.send(domain + ".enable")

    def read(self):
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 20)
            if not part:
                raise SystemExit("the browser ended")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.noticed(answer.get("method"), answer.get("params", {}))

    def noticed(self, method, told):
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
            self.addresses[told["requestId"]] = told["request"]["url"]
        elif method == "Network.responseReceivedExtraInfo" and told["statusCode"] == 304:
            self.unchanged.append(self.addresses.get(told["requestId"], ""))
        elif method == "Network.loadingFinished":
            self.sizes[told["requestId"]] = told["encodedDataLength"]
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(str(details.get("exception", details).get("description", details)))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            entry = told["entry"]
            # Refusals that the page shows are logged by the browser as well.
            if entry.get("source") != "network":
                self.complaints.append(entry["text"])

    def run(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit("\n".join(self.faults + [f"{expression}: {result['exceptionDetails']}"]))
        return result["result"].get("value")

    def wait(self, expression, what, seconds=15):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.run(expression):
                return True
            time.sleep(0.03)
        self.faults.append(f"waited {seconds} s for: {what}")
        return False

    def size(self, width, height):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path):
        self.send("Page.navigate", url=self.base + path)
        self.wait("document.readyState === 'complete' && document.body.getAttribute('aria-busy') === 'false'", path)

    def press(self, key, code=0, text=None):
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def tab_to(self, what):
        """By the keyboard alone to an element that this selects, as a reader without a mouse gets there."""
        for _ in range(150):
            if self.run(f"document.activeElement?.matches({json.dumps(what)}) ?? false"):
                return True
            self.press("Tab", 9)
        self.faults.append(f"no way by the keyboard to {what}")
        return False

    def type(self, text):
        for letter in text:
            self.press(letter, 0, letter)

    def shot(self, name):
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        (self.shots / f"{name}.png").write_bytes(base64.b64decode(picture))

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.profile, ignore_errors=True)
