"""Goes through the page in headless Chromium, as its users do: with a mouse, with the keyboard alone, narrow and wide.

usage: browse.py http://HOST:PORT SCREENSHOT_DIRECTORY MILLRACE CONFIGURATION

MILLRACE and CONFIGURATION are the program and the file by which events arrive while the page is looked at.
Prints what is wrong and ends with status 1.
"""
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from browser import Browser

base, shots, program, configuration = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
faults = []


def expect(condition, text):
    if not condition:
        faults.append(text)


def arrive(mark, count, **more):
    """So many events, all of them at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write((json.dumps({"metadata": {"mark": mark}, **more}) + "\n") * count)
        file.flush()
        subprocess.run([program, "loadgen", "--from-file", file.name, "--config", configuration], check=True, timeout=60,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ask(**question):
    request = urllib.request.Request(base + "/v1/query", json.dumps(question).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def names_missing(browser):
    """What a screen reader would have no words for."""
    out = []
    for node in browser.send("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in ("button", "link", "textbox", "combobox", "checkbox", "searchbox", "table",
                                               "dialog", "progressbar", "listbox", "image"):
            continue
        name = node.get("name", {}).get("value", "").strip()
        if not name and role != "table":
            out.append(role)
    return out


def broken_rules(browser):
    """What axe-core finds against WCAG 2.2 A and AA and its own best practices, each with the first place."""
    (source,) = (pathlib.Path(__file__).parents[2] / ".venv/page").glob("lib/python*/site-packages/axe_playwright_python/axe.min.js")
    if not browser.run("typeof axe === 'object'"):
        browser.run(source.read_text(encoding="utf-8") + "; true")
    found = browser.run("axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.map((rule) => "
                        "`${rule.id} (${rule.impact}) ${rule.nodes.length} x, first: ${rule.nodes[0].html.slice(0, 150)} "
                        "${rule.nodes[0].failureSummary.slice(0, 300)}`))")
    return found


browser = Browser(base, shots, faults)
try:
    browser.size(1400, 1000)
    started = time.monotonic()
    browser.open("/?range=30d&zone=UTC")
    first_paint = browser.run(
        "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".filter((entry) => entry.startTime <= performance.getEntriesByName('first-contentful-paint')[0].startTime)"
        ".reduce((sum, entry) => sum + entry.encodedBodySize, 0)")
    expect(first_paint < 200_000, f"the first view takes {first_paint} bytes")
    # The policy that the page is under: nothing from elsewhere, nothing inline, nothing made of text.
    policy = dict(part.strip().split(" ", 1) for part in browser.run("fetch('/').then((got) => got.headers.get('content-security-policy'))").split(";"))
    for part, wanted in (("default-src", "'none'"), ("script-src", "'self'"), ("style-src", "'self'"), ("connect-src", "'self'"),
                         ("base-uri", "'none'"), ("form-action", "'none'"), ("frame-ancestors", "'none'")):
        expect(policy.get(part) == wanted, f"the policy has {part} {policy.get(part)}")
    refused = browser.run("(() => { const made = document.createElement('script'); made.textContent = 'window.inlined = 1';"
                          " document.head.append(made); return window.inlined === undefined; })()")
    expect(refused, "an inline script runs")
    browser.complaints.clear()
    total = ask(**{"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"})["totals"]["requests"]
    shown = "document.querySelector('[data-tile=requests]').title"
    expect(browser.run(shown) == str(total), f"the page shows {browser.run(shown)} requests of {total}")
    expect(browser.run("document.querySelectorAll('.chart canvas').length") >= 12, "charts are missing")
    expect(browser.run("document.querySelectorAll('#rows tr').length") > 0, "the table is empty")
    browser.shot("overview")
    missing = names_missing(browser)
    expect(not missing, f"overview: without a name: {missing}")

    # Keyboard alone: to the filter, a key, a comparison and a value by completion, and apply.
    browser.press("/", 191, "/")
    expect(browser.run("document.activeElement.id") == "where", "/ does not go to the filter")
    browser.wait("document.querySelectorAll('#by option').length > 6", "the keys are known")
    browser.type("metadata.en")
    browser.wait("!document.getElementById('offers').hidden", "names are offered")
    browser.press("ArrowDown", 40)
    browser.press("Enter", 13)
    expect(browser.run("document.getElementById('where').value") == "metadata.env ", "the name is not completed")
    browser.wait("document.querySelector('#offers li')?.textContent === '='", "comparisons are offered")
    browser.press("ArrowDown", 40)
    browser.press("Enter", 13)
    value = "[...document.querySelectorAll('#offers li')].findIndex((offer) => offer.textContent === \"'production'\")"
    browser.wait(value + " >= 0", "values are offered")
    browser.shot("completion")
    for _ in range(browser.run(value) + 1):
        browser.press("ArrowDown", 40)
    browser.press("Enter", 13)
    browser.press("Escape", 27)
    browser.press("Enter", 13, "\r")
    browser.wait("location.search.includes('where=')", "the filter is in the URL")
    filtered = ask(**{"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "where": "metadata.env = 'production'"})
    browser.wait(f"{shown} === '{filtered['totals']['requests']}'", "the filtered total is shown")

    # Sort, then look inside a row, then back.
    browser.run("document.querySelector('[data-column=cost_usd] button').click()")
    browser.wait("document.querySelector('[data-column=cost_usd]').getAttribute('aria-sort') === 'descending'", "sorted by cost")
    before = browser.run("document.getElementById('where').value")
    browser.run("document.querySelector('#rows button').click()")
    browser.wait("document.getElementById('where').value.includes(' and model = ')", "a row narrows the filter")
    browser.run("history.back()")
    browser.wait(f"document.getElementById('where').value === {json.dumps(before)}", "back is back")

    # A chart's zoom narrows the range of all.
    box = browser.run("(() => { const r = document.querySelector('#requests-chart').getBoundingClientRect();"
                      " return [r.x, r.y, r.width, r.height]; })()")
    x, y = box[0] + box[2] * 0.75, box[1] + box[3] * 0.5
    for kind, at in (("mousePressed", x), ("mouseMoved", x + 40), ("mouseMoved", x + 60), ("mouseReleased", x + 60)):
        browser.send("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1)
    browser.wait("location.search.includes('range=custom')", "a zoom is a range")
    expect(browser.run("!document.getElementById('custom').hidden"), "the range is not shown")
    browser.run("document.getElementById('back').click()")
    browser.wait("!location.search.includes('range=custom')", "back to live")

    # Where nothing has changed since the last look, only that is sent.
    browser.open("/?range=30d&zone=UTC")
    browser.unchanged.clear()
    browser.wait("document.hidden === false", "the page is seen")
    end = time.monotonic() + 20
    while time.monotonic() < end and not any("/v1/query" in url for url in browser.unchanged):
        browser.run("1")
        time.sleep(0.05)
    expect(any("/v1/query" in url for url in browser.unchanged), "the same question again is answered whole again")

    # The same by the keyboard alone: range, zone, group, sort, a row, and the way back.
    browser.open("/?range=24h&zone=UTC")
    if browser.tab_to("#range"):
        browser.press("ArrowDown", 40)
        browser.press("ArrowDown", 40)
        browser.wait("location.search.includes('range=30d')", "a range is chosen by the keyboard")
    browser.wait("document.querySelectorAll('#rows tr').length > 0", "rows")
    if browser.tab_to("#by"):
        before = browser.run("location.search")
        browser.press("ArrowDown", 40)
        browser.wait(f"location.search !== {json.dumps(before)}", "a group is chosen by the keyboard")
    if browser.tab_to("[data-column=cost_usd] button"):
        browser.press("Enter", 13, "\r")
        browser.wait("document.querySelector('[data-column=cost_usd]').getAttribute('aria-sort') === 'descending'", "sorted by the keyboard")
    if browser.tab_to("#rows button"):
        browser.press("Enter", 13, "\r")
        browser.wait("document.getElementById('where').value !== ''", "a row narrows by the keyboard")
    # A condition that is joined by "or", however it is written, stays whole when another is added.
    browser.open("/?range=30d&by=model&where=" + urllib.parse.quote("metadata.env = 'production'or metadata.env = 'staging'"))
    browser.wait("document.querySelectorAll('#rows tr').length > 0", "rows")
    browser.run("document.querySelector('#rows button').click()")
    browser.wait("document.getElementById('where').value.startsWith('(metadata.env')", "the alternatives are kept together")

    # A filter that does not parse says where and what.
    browser.open("/?range=30d&where=metadata.env%20lik%20%27a%27")
    browser.wait("document.getElementById('where-error').textContent.includes('Did you mean')", "the error is shown")
    browser.shot("error")
    browser.open("/?range=30d&where=metadata.env%20%3D%20%27nowhere%27")
    expect(browser.run("!document.getElementById('empty').hidden"), "nothing says that nothing matches")

    # Events arrive while they are followed: all of them are shown, more than a page of them too, and in their order.
    browser.open("/?range=24h&view=events")
    ago = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    for mark, count, more in (("few", 3, {}), ("many", 80, {}), ("late", 1, {"time": ago.strftime("%Y-%m-%dT%H:%M:%SZ")})):
        arrive(mark, count, **more)
        shown_marks = f"[...document.querySelectorAll('#event-rows td.pairs')].filter((cell) => cell.textContent.includes('mark {mark}')).length"
        browser.wait(f"{shown_marks} === {count}", f"{count} events that came at once, {mark}")
    # What came late stands behind all that are newer, which are more than a page.
    expect(browser.run("[...document.querySelectorAll('#event-rows tr')].findIndex((row) => row.textContent.includes('mark late'))") == 83,
           "what came late is not where its time is")
    expect(browser.run("/^\\d+ new$/.test(document.getElementById('events-said').textContent)"), "what is new is not said")
    identifiers = "[...document.querySelectorAll('#event-rows tr')].map((row) => row.dataset.id)"
    expect(browser.run(f"new Set({identifiers}).size === {identifiers}.length"), "an event is shown twice")
    expect(browser.run(f"{identifiers}.length") == min(50, total) + 84, "what is older came along")
    browser.shot("following")
    # Not followed, it stands still.
    browser.tab_to("#tail")
    browser.press(" ", 32, " ")
    browser.wait("!document.getElementById('tail').checked", "following ends by the keyboard")
    rows = browser.run("document.querySelectorAll('#event-rows tr').length")
    arrive("later", 2)
    later = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "where": "metadata.mark = 'later'"}
    end = time.monotonic() + 30
    while time.monotonic() < end and ask(**later)["totals"]["requests"] < 2:
        time.sleep(0.05)
    # Two rounds of the page.
    browser.run("window.rounds = 0; new MutationObserver(() => { rounds += document.body.getAttribute('aria-busy') === 'false'; })"
                ".observe(document.body, { attributeFilter: ['aria-busy'] }); true")
    asked = len(browser.requests)
    browser.wait("rounds >= 2", "the page goes on", 30)
    expect(not any("/v1/events" in url for url in browser.requests[asked:]), "events are asked for though nobody follows")
    expect(browser.run("document.querySelectorAll('#event-rows tr').length") == rows, "it goes on though nobody follows")
    if browser.tab_to("#event-rows button"):
        browser.press("Enter", 13, "\r")
        browser.wait("document.getElementById('event').open", "an event is opened by the keyboard")
        browser.press("Escape", 27)
        browser.wait("!document.getElementById('event').open", "and closed")
    total += 86

    # Events: pages, details, closing by the keyboard.
    browser.open("/?range=30d&view=events")
    expect(browser.run("document.querySelectorAll('#event-rows tr').length") == min(50, total), "a page of events")
    browser.run("document.getElementById('older').click()")
    browser.wait(f"document.querySelectorAll('#event-rows tr').length === {min(100, total)}", "older events")
    browser.run("document.querySelector('#event-rows button').click()")
    browser.wait("document.getElementById('event').open && document.querySelectorAll('#event dt').length > 25", "details")
    browser.shot("event")
    missing = names_missing(browser)
    expect(not missing, f"event: without a name: {missing}")
    browser.press("Escape", 27)
    browser.wait("!document.getElementById('event').open && !location.search.includes('event=')", "Escape closes")

    browser.press("3", 51, "3")
    browser.wait("document.querySelectorAll('#key-rows tr').length > 0", "keys")
    if browser.tab_to("#key-rows [data-key=env]"):
        browser.press("Enter", 13, "\r")
    browser.wait("document.querySelectorAll('button.value').length > 1", "values of a key")
    browser.shot("keys")
    missing = names_missing(browser)
    expect(not missing, f"keys: without a name: {missing}")

    browser.press("4", 52, "4")
    browser.wait("document.getElementById('health-state').textContent.startsWith('Ready')", "health")
    browser.wait("document.getElementById('ledger-said').textContent !== 'Loading …'", "reconciliation, or that there is none")
    facts = browser.run("Object.fromEntries([...document.querySelectorAll('#facts .fact')].map((fact) => [fact.querySelector('dt').textContent, fact.querySelector('dd').textContent]))")
    expect(facts.get("Lag", "").endswith(" records"), f"the lag is {facts.get('Lag')}")
    expect(facts.get("Dead letters") == "3", f"dead letters are {facts.get('Dead letters')}")
    expect(facts.get("Newest event", "none yet") != "none yet", "the newest event is not said")
    ledger = json.load(urllib.request.urlopen(base + "/v1/reconciliation?from=2020-01-01T00:00:00Z", timeout=30))
    said = browser.run("document.getElementById('ledger-said').textContent")
    expect(ledger["closed"] == (said == "Every recorded request is accounted for.") or not ledger["minutes"], f"reconciliation: {said}, {ledger['totals']}")
    browser.shot("pipeline")

    # Replays: a mistake is said, a dry run moves and shows its changes, the run comes after a question, and is taken back.
    browser.press("5", 53, "5")
    browser.wait("document.getElementById('replays-empty')?.hidden === false", "no replay yet")
    for field in (("start-from", "(() => { const at = new Date(Date.now() - 3 * 86400000); return at.toISOString().slice(0, 19); })()"),
                  ("start-rules", "'version: 1\\nvalus: 2\\nclasses: { a: b }\\n'"), ("start-rate", "'120'")):
        browser.run(f"document.getElementById('{field[0]}').value = {field[1]}; true")
    browser.run("document.getElementById('start-dry').click()")
    browser.wait("document.getElementById('start-error').textContent.includes('line 2: valus')", "the first mistake in the rules")
    expect(browser.run("document.getElementById('start-error').textContent.includes('classes.a')"), "not every mistake is said")
    browser.shot("replay-mistake")
    new_rules = "version: 1\\nvalues: { maps: { env: { production: prod } }, arrays: { default: json, tags: multi } }\\nclasses: { _user: entity, request_id: identifier }\\n"
    browser.run(f"document.getElementById('start-rules').value = '{new_rules}'; document.getElementById('start-dry').focus(); true")
    expect(browser.run("document.getElementById('start-run').disabled"), "a run is offered before its dry run")
    browser.press("Enter", 13, "\r")
    bar = "document.querySelector('#replay-rows progress')?.value"
    browser.wait(f"{bar} > 0 && {bar} < 1", "the bar moves")
    browser.wait("document.querySelector('#replay-rows small').textContent.includes('a second')", "the rate is shown")
    browser.shot("replay-moves")
    browser.wait("document.querySelectorAll('#changes tbody tr').length > 2", "what a dry run found")
    expect(browser.run("location.search.includes('replay=')"), "the dry run is not in the URL")
    dry_run = browser.run("new URLSearchParams(location.search).get('replay')")
    changes = browser.run("document.querySelectorAll('#changes tbody tr').length")
    browser.shot("replay-dry")
    renamed = dict(**{"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "where": "metadata.env = 'prod'"})
    expect(ask(**renamed)["totals"]["requests"] == 0, "a dry run has changed an answer")
    browser.wait("!document.getElementById('start-run').disabled", "the run is offered")
    browser.run("document.getElementById('start-run').focus()")
    browser.press("Enter", 13, "\r")
    browser.wait("document.getElementById('confirm').open", "a question before the run")
    missing = names_missing(browser)
    expect(not missing, f"replays: without a name: {missing}")
    browser.shot("replay-question")
    browser.press("Escape", 27)
    browser.wait("!document.getElementById('confirm').open && document.activeElement.id === 'start-run'", "Escape is no, and back is where it began")
    browser.run("document.getElementById('start-run').click()")
    browser.run("document.getElementById('confirm-yes').click()")
    word = "document.querySelector('#replay-rows .state').textContent"
    browser.wait(f"{word} === 'answers'", "the replay answers", 30)
    expect(ask(**renamed)["totals"]["requests"] > 0, "the replay changed no answer")
    browser.run("document.querySelector('#replay-rows button.action').click()")
    browser.run("document.getElementById('confirm-yes').click()")
    browser.wait(f"{word} === 'taken back'", "it is taken back", 30)
    expect(ask(**renamed)["totals"]["requests"] == 0, "what was taken back still answers")
    # Given up in the middle.
    browser.run("document.getElementById('start-rate').value = '20'; document.getElementById('start-dry').click()")
    browser.wait(f"{word} === 'dry run under way'", "another dry run is under way")
    browser.run("document.querySelector('#replay-rows button.action').click()")
    browser.run("document.getElementById('confirm-yes').click()")
    browser.wait("document.querySelectorAll('#replay-rows button.action').length === 0", "it is given up")

    # Dead letters: filtered, opened, closed by the keyboard.
    browser.run("document.activeElement.blur()")
    browser.press("6", 54, "6")
    browser.wait("document.querySelectorAll('#letter-rows tr').length === 3", "dead letters")
    browser.run("document.getElementById('letter-code').value = 'undecodable'; document.getElementById('letter-code').dispatchEvent(new Event('change'))")
    browser.wait("location.search.includes('code=undecodable') && document.getElementById('letters-empty')?.hidden === false", "none of that code")
    browser.run("history.back()")
    browser.wait("document.querySelectorAll('#letter-rows tr').length === 3", "all of them again")
    browser.run("document.querySelector('#letter-rows button').click()")
    browser.wait("document.getElementById('letter').open && document.querySelectorAll('#letter pre').length === 2", "one with its bytes")
    letter = browser.run("new URLSearchParams(location.search).get('letter')")
    missing = names_missing(browser)
    expect(not missing, f"letters: without a name: {missing}")
    browser.shot("letter")
    # Sent again from there: a question first, whose Escape leaves the letter open. It fails again, as a fourth one.
    browser.run("document.querySelector('#letter [data-action=redrive]').focus()")
    browser.press("Enter", 13, "\r")
    browser.wait("document.getElementById('confirm').open && document.activeElement.id === 'confirm-no'", "a question before it is sent")
    missing = names_missing(browser)
    expect(not missing, f"letters: without a name: {missing}")
    browser.shot("letter-question")
    browser.press("Escape", 27)
    browser.wait("!document.getElementById('confirm').open && document.getElementById('letter').open", "Escape is no")
    browser.wait("document.activeElement.dataset.action === 'redrive'", "back where it began")
    browser.press("Enter", 13, "\r")
    browser.wait("document.getElementById('confirm').open", "the question again")
    browser.run("document.getElementById('confirm-yes').focus()")
    browser.press("Enter", 13, "\r")
    browser.wait("document.querySelector('#letter dl')?.textContent.includes('sent again')", "it is marked")
    browser.press("Escape", 27)
    browser.wait("!document.getElementById('letter').open && !location.search.includes('letter=')", "Escape closes")
    browser.wait("document.querySelectorAll('#letter-rows tr').length === 4", "it is a dead letter again", 30)
    # The rest is given up.
    browser.run("document.querySelector('#letters-act [data-action=discard]').focus()")
    browser.press("Enter", 13, "\r")
    browser.wait("document.getElementById('confirm').open", "a question before they are given up")
    browser.run("document.getElementById('confirm-yes').click()")
    browser.wait("document.getElementById('letters-said').textContent === '3 given up.'", "what was done is said")
    browser.wait("document.getElementById('letters-act').hidden", "nothing is left to do")

    # Narrow and wide, light and dark: nothing reaches out of the window, and nothing keeps anybody out.
    event_id = browser.run("fetch('/v1/events?limit=1').then((got) => got.json()).then((page) => page.data[0].id)")
    views = {view: f"view={view}" for view in ("overview", "events", "keys", "pipeline", "replays", "letters")}
    extra = ("event", "refused", "nothing", "custom", "replay", "unknown-replay", "letter", "no-letters")
    views["replay"] = f"view=replays&replay={dry_run}"
    views["unknown-replay"] = "view=replays&replay=99"
    views["letter"] = f"view=letters&letter={urllib.parse.quote(letter, safe='')}"
    views["no-letters"] = "view=letters&code=undecodable"
    views["event"] = f"view=events&event={event_id}"
    views["refused"] = "where=metadata.env%20lik%20%27a%27"
    views["nothing"] = "where=metadata.env%20%3D%20%27nowhere%27"
    views["custom"] = "range=custom&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z"
    for width, height in ((400, 800), (2560, 1300)):
        browser.size(width, height)
        for scheme in ("light", "dark"):
            browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for view, query in views.items():
                # What is no view of its own, once narrow and once wide.
                if view in extra and (width, scheme) not in ((400, "light"), (2560, "dark")):
                    continue
                browser.open(f"/?range=30d&{query}" if "range" not in query else f"/?{query}")
                wide = browser.run("document.scrollingElement.scrollWidth")
                expect(wide <= width, f"{view} at {width} pixels is {wide} wide")
                browser.shot(f"{view}-{width}-{scheme}")
                for rule in broken_rules(browser):
                    faults.append(f"{view} at {width} pixels, {scheme}: {rule}")

    away = [url for url in browser.requests if not url.startswith((base, "about:", "data:", "blob:"))]
    expect(not away, f"requests left the origin: {away}")
    expect(not browser.complaints, f"the browser complained: {browser.complaints[:5]}")
finally:
    browser.close()

for text in faults:
    print(text)
print(f"{len(browser.requests)} requests, first view {first_paint} bytes, {time.monotonic() - started:.1f} s, {len(faults)} faults")
sys.exit(1 if faults else 0)
