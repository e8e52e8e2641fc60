#!/usr/bin/env python3
"""Fails where the public API has changed since a revision as only another version may: `.ci/semver.py v0.1.0`.

It compares what rustdoc says of both. It is stricter than need be (a bound that was given up is a change to it), and sees
nothing of behaviour. cargo-semver-checks knows more, and takes longer to build than all other gates to run.
"""

import io
import shutil
import subprocess
import sys
import tarfile

from rustdoc import TARGET, package, public_api

# Traits of the compiler's own, which nobody can name.
UNSTABLE = {"Freeze", "StructuralPartialEq", "UnsafeUnpin"}

def main(revision):
    source = TARGET / "api" / revision / "source"
    shutil.rmtree(source, ignore_errors=True)
    archive = subprocess.run(["git", "archive", revision], check=True, stdout=subprocess.PIPE).stdout
    tarfile.open(fileobj=io.BytesIO(archive)).extractall(source)

    before, now = public_api(of(package(source)), revision, source), public_api(of(package()), "now")
    faults = list(breaks(entries(before), entries(now)))
    gone = package(source)["features"].keys() - package()["features"].keys()
    faults += [f"feature {feature} is gone" for feature in sorted(gone)]

    versions = f"{before['crate_version']} -> {now['crate_version']}"
    for fault in faults:
        print(fault)
    if faults and compatible(before["crate_version"]) == compatible(now["crate_version"]):
        sys.exit(f"{versions} says that this breaks nobody")
    print(f"{versions}: {len(faults)} changes that may break somebody")


def of(package):
    """All features, one of which `full` does not contain."""
    return ",".join({"full", "testing"} & package["features"].keys())


def compatible(version):
    """What two versions have in common that a user may exchange for each other."""
    major, minor, patch = (int(number) for number in version.split("-")[0].split("."))
    return (major,) if major else (0, minor) if minor else (0, 0, patch)


def breaks(before, now):
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield f"{name} is gone"
        elif name in before and before[name] != now[name]:
            yield f"{name} is another"
        elif name not in before and is_closed(name.rpartition("::")[0], before, now[name]):
            yield f"{name} is new, where others list or implement all there is"


def is_closed(parent, before, new):
    kind, _, closed = before.get(parent, (None, None, False))
    return closed and (kind != "trait" or new[2])


def entries(api):
    """All that users can name or rely on, as {name: (kind, shape, closed)}."""
    walk = Walk(api)
    walk.module(walk.index[str(api["root"])], "tower_identity")
    return walk.entries


class Walk:
    def __init__(self, api):
        self.index = api["index"]
        self.paths = api["paths"]
        self.entries = {}

    def module(self, module, name):
        for item in self.items(module["inner"]["module"]["items"]):
            if use := item["inner"].get("use"):
                self.use(use, name)
            elif "module" in item["inner"]:
                self.module(item, f"{name}::{item['name']}")
            else:
                self.item(item, f"{name}::{item['name']}")

    def use(self, use, name):
        target = self.index.get(str(use["id"]))
        if target is None:
            self.entries[f"{name}::{use['name']}"] = ("use", use["source"], False)
        elif "module" in target["inner"]:
            self.module(target, name if use["is_glob"] else f"{name}::{use['name']}")
        else:
            self.item(target, f"{name}::{use['name']}")

    def item(self, item, name):
        kind, inner = next(iter(item["inner"].items()))
        shape = self.shape(inner)
        if "non_exhaustive" in item["attrs"]:
            shape = ("non_exhaustive", shape)
        self.entries[name] = (kind, shape, self.is_closed(item))
        if not isinstance(inner, dict):
            return
        for child in self.items(members(kind, inner)):
            self.item(child, f"{name}::{child['name']}")
        for implementation in self.items(inner.get("impls", [])):
            self.implementation(implementation["inner"]["impl"], name)

    def implementation(self, implementation, name):
        if implementation["blanket_impl"] or implementation["is_negative"]:
            return
        if implementation["trait"] and implementation["trait"]["path"].split("::")[-1] in UNSTABLE:
            return
        context = self.shape([implementation["for"], implementation["generics"]])
        items = self.items(implementation["items"])
        if implementation["trait"]:
            name = f"{name} as {self.shape(implementation['trait'])}"
            self.entries[name] = ("impl", context, False)
            items = [item for item in items if "assoc_type" in item["inner"]]
        for item in items:
            self.item(item, f"{name}::{item['name']}")
            kind, shape, closed = self.entries[f"{name}::{item['name']}"]
            self.entries[f"{name}::{item['name']}"] = (kind, (context, shape), closed)

    def is_closed(self, item):
        """Whether one more member breaks somebody; of a member of a trait, whether everybody has to implement it."""
        kind, inner = next(iter(item["inner"].items()))
        if kind in ("enum", "struct", "variant"):
            return "non_exhaustive" not in item["attrs"] and not has_hidden_fields(inner)
        if kind == "function":
            return not inner["has_body"]
        if kind in ("assoc_type", "assoc_const"):
            return inner.get("type") is None and inner.get("value") is None
        return kind == "trait"

    def shape(self, node):
        """What is written in the source, without what may change by itself: ids, and the names of parameters."""
        if isinstance(node, list):
            return [self.shape(child) for child in node if not (child is None or isinstance(child, int))]
        if not isinstance(node, dict):
            return node
        if "id" in node and "path" in node:
            summary = self.paths.get(str(node["id"]))
            path = summary["path"] if summary else [node["path"]]
            return f"{path[0]}::{path[-1]}{self.shape(node['args']) or ''}"
        if "sig" in node:
            inputs = [kind for _, kind in node["sig"]["inputs"]]
            node = {**node, "sig": {**node["sig"], "inputs": inputs}}
        return {key: self.shape(value) for key, value in node.items()}

    def items(self, ids):
        found = (self.index.get(str(key)) for key in ids if key is not None)
        return [item for item in found if item]


def has_hidden_fields(inner):
    content = inner.get("kind")
    if not isinstance(content, dict):
        return False
    [content] = content.values()
    return content["has_stripped_fields"] if isinstance(content, dict) else None in content


def members(kind, inner):
    if kind == "enum":
        return inner["variants"]
    if kind == "trait":
        return inner["items"]
    if kind in ("struct", "variant") and isinstance(inner["kind"], dict):
        [content] = inner["kind"].values()
        return content["fields"] if isinstance(content, dict) else content
    return []


if __name__ == "__main__":
    main(*sys.argv[1:])
