#!/usr/bin/env python3
"""Checks the public items, and prints how many there are. Each has

- a summary and one path, at the root or in a namespace,
- an example, or a link to an item or a guide with one,
- the line "Needs the feature `x`", where it needs one. `.ci/public_api.py --label` writes the lines that are missing.

A type that a public signature names is public. The API with all features is read from rustdoc's JSON.
"""

import re
import sys
from pathlib import Path
from collections import Counter, defaultdict

from external_types import references
from rustdoc import ROOT, package, public_api
from semver import members

NAMESPACES = {
    *("client", "client::hyper", "client::reqwest", "client::rmcp"),
    *("config", "credential", "incoming", "oauth", "outgoing", "strategy", "telemetry", "testing", "upstream"),
    "upstream::linking",
}
TYPES = ("struct", "enum", "union", "trait", "type_alias")
# Documentation that opens with one of these has no text to show in the table of its module.
NO_SUMMARY = re.compile(r"\s*(#|```|\||$)")
GATED_BY = re.compile(r'name: "feature", value: Some\("([^"]+)"\)')
EXAMPLE = "```"


def main():
    api = public_api("full,testing", "full")
    paths = Paths(api["index"])
    root = api["index"][str(api["root"])]
    paths.walk(root, root["name"])

    unlabelled = list(no_label(paths))
    if sys.argv[1:] == ["--label"]:
        return label(unlabelled)
    faults = [*two_paths(paths), *no_namespace(paths), *no_summary(paths), *no_path(api, paths)]
    faults += [f"{name} does not say: {text}" for name, _, text in unlabelled]
    faults += no_example(paths)
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


def no_label(paths):
    """Items that do not say which features they need, as (name, item, text)."""
    implied = implications()
    for item in paths.items():
        gates = paths.gates[item["id"]]
        for name, part in parts(item, paths.of(item), paths.index):
            # A member need not repeat what its type says.
            own = gates if part is item else gates_of(part) - gates
            text = needs(own, implied)
            if name and text and text not in " ".join((part["docs"] or "").split()):
                yield name, part, text


def needs(gates, implied):
    """Each gate is a set of features of which one is needed. Those that another gate implies go without saying."""
    gates = [gate for gate in gates if not any(other != gate and implies(other, gate, implied) for other in gates)]
    if not gates:
        return None
    named = sorted(" or ".join(f"`{feature}`" for feature in sorted(gate)) for gate in gates)
    return f"Needs the feature{'s' * (len(named) > 1)} {' and '.join(named)}"


def implies(gate, other, implied):
    return all(implied[feature] & other for feature in gate)


def implications():
    """The features that each one enables, with itself."""
    features = package()["features"]
    implied = {name: {name} for name in features}
    for _ in features:
        for name, reached in implied.items():
            implied[name] = reached.union(*(features.get(feature, ()) for feature in reached))
    return implied


def gates_of(item):
    conditions = [attribute["other"] for attribute in item["attrs"] if "CfgTrace" in str(attribute)]
    return {frozenset(GATED_BY.findall(condition)) for condition in conditions} - {frozenset(["full"]), frozenset()}


def label(unlabelled):
    """Writes each line below the summary of its item."""
    for name, part, text in unlabelled:
        path = Path(ROOT, part["span"]["filename"])
        lines = path.read_text().splitlines()
        at = documentation(lines, part)
        marker = lines[at].strip().split(" ")[0]
        while lines[at].strip().startswith(f"{marker} "):
            at += 1
        indent = lines[at - 1][: len(lines[at - 1]) - len(lines[at - 1].lstrip())]
        lines[at:at] = [f"{indent}{marker}", f"{indent}{marker} {text}."]
        path.write_text("\n".join(lines) + "\n")
        print(f"{name}: {text}")


def documentation(lines, item):
    """Where the item's documentation begins. What a macro makes has the macro's line, so the name is looked for."""
    if kind(item) == "module":
        return 0
    declared = re.compile(rf"\s*(pub )?(struct|enum|union|trait|type|const|(async )?fn) {item['name']}\b")
    found = [number for number, line in enumerate(lines) if declared.match(line)]
    at = min(found, key=lambda number: abs(number + 1 - item["span"]["begin"][0]))
    while not lines[at - 1].strip().startswith("///"):
        at -= 1
    while lines[at - 1].strip().startswith("///"):
        at -= 1
    return at


def no_example(paths):
    for item in paths.items():
        linked = present(paths.index, item["links"].values())
        # The page of a type shows its methods, too.
        shown = [part for name, part in parts(item, paths.of(item), paths.index) if name]
        if not any(EXAMPLE in (other["docs"] or "") for other in [*shown, *linked]):
            yield f"{paths.of(item)} has neither an example nor a link to one"


class Paths:
    """The paths by which a user can name the items of the modules, as {id: {path}}, and the features on the way."""

    def __init__(self, index):
        self.index = index
        self.found = defaultdict(set)
        self.gates = defaultdict(set)

    def walk(self, module, path, gates=frozenset()):
        self.add(module["id"], path, gates)
        for item in present(self.index, module["inner"]["module"]["items"]):
            use = item["inner"].get("use")
            gated = gates | gates_of(item)
            if not use:
                self.enter(item["id"], f"{path}::{item['name']}", gated)
            elif use["is_glob"]:
                sys.exit(f"{path} re-exports all of {use['source']}: name the items")
            else:
                self.enter(use["id"], f"{path}::{use['name']}", gated)

    def enter(self, id, path, gates):
        item = self.index.get(str(id))
        if item and kind(item) == "module":
            self.walk(item, path, gates)
        else:
            self.add(id, path, gates)

    def add(self, id, path, gates):
        self.found[id].add(path)
        self.gates[id] |= gates

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
