"""The monitor's own page: what it says, and what can be seen of it in a browser."""

import re

# Whatever sticks out of the screen on either side, and the page itself if it can be pushed aside.
OVERFLOWS = """(() => {
  const wide = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('body *')].filter(one => {
    const place = one.getBoundingClientRect();
    return place.width > 0 && getComputedStyle(one).display !== 'none' && (place.right > wide + 1 || place.left < -1);
  }).map(one => one.tagName + '.' + one.getAttribute('class') + ': ' + one.textContent.trim().slice(0, 60));
  return document.documentElement.scrollWidth > wide ? out.concat('the page: ' + document.documentElement.scrollWidth) : out;
})()"""


def await_told(visitor, page, target, condition, what):
    """Await that status.json, which is written with the page, is as it should be: condition(its content)."""

    def told():
        return visitor.get(f"{page.url}status.json", auth=page.auth, timeout=10).json()

    target.wait(lambda: condition(told()), what, 60)


def html(window):
    """The page as the browser has it now."""
    return window.value("document.documentElement.outerHTML")


def verdict(shown):
    """(the page's first words, their class, its reasons as text)."""
    kind, words = re.search(r'<p class="verdict (\w+)" id="verdict">([^<]*)</p>', shown).groups()
    return words, kind, re.sub("<[^>]+>", "", re.search(r'<ul class="reasons told">(.*?)</ul>', shown, re.S)[1])


def is_red(window, page, wrong, off):
    """On a phone, with {host: what is wrong}: hosts are named and coloured, the one that is off unlike the others, and nothing overflows."""
    window.size(390, 844)
    window.open(page.url)
    shown = html(window)
    _words, kind, reasons = verdict(shown)
    assert kind == "bad"
    for host, why in wrong.items():
        state = "silent" if host == off else "wrong"
        assert f"{host}: {why}" in reasons
        assert f'<article id="{host}" class="{state}">' in shown
        assert f'class="box {state}"><title>{host}: ' in shown
    assert window.value(OVERFLOWS) == []
    window.leave()
