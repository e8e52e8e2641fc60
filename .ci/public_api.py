#!/usr/bin/env python3
"""Checks that each public item has a summary and one path, at the root or in a namespace, and prints how many there are.

A type that a public signature names is public. The API with all features is read from rustdoc's JSON.
"""

import re
import sys
from collections import Counter, defaultdict

from external_types import references
from rustdoc import public_api
from semver import members

NAMESPACES = {
    *("client", "client::hyper", "client::reqwest", "client::rmcp"),
    *("config", "credential", "incoming", "oauth", "outgoing", "strategy", "telemetry", "testing", "upstream"),
    "upstream::linking",
}
TYPES = ("struct", "enum", "union", "trait", "type_alias")
# Documentation that opens with one of these has no text to show in the table of its module.
NO_SUMMARY = re.compile(r"\s*(#|```|\||$)")


def main():
    api = public_api("full,testing", "full")
    paths = Paths(api["index"])
    root = api["index"][str(api["root"])]
    paths.walk(root, root["name"])

    faults = [*two_paths(paths), *no_namespace(paths), *no_summary(paths), *no_path(api, paths)]
    kinds = Counter(kind(item) for item in paths.items())
    print(f"{sum(kinds[name] for name in TYPES)} types and traits, {kinds['function']} functions")
    if faults:
        sys.exit("\n".join(sorted(faults)))


def two_paths(paths):
    for found in paths.found.values():
        if len(found) > 1:
            yield f"{min(found)} has more than one path: {', '.join(sorted(found))}"


def no_namespace(paths):
    for item in paths.items():
        namespace = paths.of(item).split("::")[1:-1]
        if namespace and kind(item) != "module" and "::".join(namespace) not in NAMESPACES:
            yield f"{paths.of(item)} is neither at the root nor in a namespace: {', '.join(sorted(NAMESPACES))}"


def no_summary(paths):
    for item in paths.items():
        for name, part in parts(item, paths.of(item), paths.index):
            if name and NO_SUMMARY.match(part["docs"] or ""):
                yield f"{name} has no summary line"


def no_path(api, paths):
    for item in paths.items():
        for shown in {id for _, part in parts(item, "", paths.index) for id in references(part["inner"])}:
            summary = api["paths"].get(str(shown))
            if summary and not summary["crate_id"] and summary["kind"] in TYPES and shown not in paths.found:
                yield f"{paths.of(item)} names {'::'.join(summary['path'])}, which has no public path"


class Paths:
    """The paths by which a user can name the items of the modules, as {id: {path}}."""

    def __init__(self, index):
        self.index = index
        self.found = defaultdict(set)

    def walk(self, module, path):
        self.found[module["id"]].add(path)
        for item in present(self.index, module["inner"]["module"]["items"]):
            use = item["inner"].get("use")
            if not use:
                self.enter(item["id"], f"{path}::{item['name']}")
            elif use["is_glob"]:
                sys.exit(f"{path} re-exports all of {use['source']}: name the items")
            else:
                self.enter(use["id"], f"{path}::{use['name']}")

    def enter(self, id, path):
        item = self.index.get(str(id))
        if item and kind(item) == "module":
            self.walk(item, path)
        else:
            self.found[id].add(path)

    def items(self):
        return present(self.index, self.found)

    def of(self, item):
        return min(self.found[item["id"]])


def kind(item):
    return next(iter(item["inner"]))


def parts(item, name, index):
    """The item and all that is written in it, as (name, part). What a trait documents has no name."""
    yield name, item
    inner = item["inner"][kind(item)]
    if kind(item) == "module" or not isinstance(inner, dict):
        return
    for member in present(index, members(kind(item), inner)):
        # The fields of a tuple are documented where the tuple is.
        is_numbered = member["name"].isdigit()
        yield from parts(member, None if is_numbered else f"{name}::{member['name']}", index)
    for implementation in present(index, inner.get("impls", [])):
        written = implementation["inner"]["impl"]
        if written["is_synthetic"] or written["blanket_impl"]:
            continue
        yield None, implementation
        for member in present(index, written["items"]):
            yield None if written["trait"] else f"{name}::{member['name']}", member


def present(index, ids):
    found = (index.get(str(id)) for id in ids if id is not None)
    return [item for item in found if item]


if __name__ == "__main__":
    main()
