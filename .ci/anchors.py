#!/usr/bin/env python3
"""Fails where a link of the rendered documentation leads to no page or to no heading, which rustdoc does not check."""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rustdoc import TARGET

PAGES = TARGET / "doc" / "tower_identity"
LINK = re.compile(r'href="([^"]+)"')
NAMED = re.compile(r'\sid="([^"]+)"')


def main():
    faults = set()
    links = 0
    for page in PAGES.rglob("*.html"):
        for link in LINK.findall(page.read_text()):
            url = urlsplit(link)
            # Only pages of this crate: the others are of its dependencies, whose texts are on its pages, too.
            if url.scheme or "/src/" in url.path:
                continue
            if url.path and not url.path.endswith(".html"):
                continue
            links += 1
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            shown = f"{page.relative_to(PAGES)}: {link}"
            if not target.is_file():
                faults.add(f"{shown} leads to no page")
            elif url.fragment and not names(target) & {url.fragment, unquote(url.fragment)}:
                faults.add(f"{shown} leads to no heading")
    if faults:
        sys.exit("\n".join(sorted(faults)))
    print(f"{links} links")


@cache
def names(page):
    return set(NAMED.findall(page.read_text()))


if __name__ == "__main__":
    main()
