#!/usr/bin/env python3
"""Checks whose types and traits the public API shows, without features and with each alone, against the lists below.

A new major version of one of these crates is a breaking change of this one. The API is read from rustdoc's JSON.
"""

import sys

from rustdoc import package, public_api

# pin-project-lite bounds the `Unpin` that it writes by a type that nobody can name.
NAMED_BY_ALL = {"alloc", "core", "std", "pin_project_lite"}
NAMED_BY_FEATURE = {
    "": {"bytes", "http", "http_body", "serde_json", "tower", "tower_layer", "tower_service"},
    "aws-sts": set(),
    "axum": {"axum_core"},
    "config": {"schemars", "serde_core"},
    "dpop": set(),
    "full": set(),
    "hyper": {"hyper", "rustls"},
    "incoming": set(),
    "linking": set(),
    "metrics": set(),
    "private-key-jwt": set(),
    "redis": set(),
    "reqwest": {"reqwest"},
    # Some of it is what its trait `StreamableHttpClient` names.
    "rmcp": {"futures_core", "http_body_util", "rmcp", "sse_stream"},
    "testing": set(),
    "token-exchange": {"http_body_util"},
}


def main():
    features = package()["features"]
    if missing := features.keys() - {"default"} - NAMED_BY_FEATURE.keys():
        sys.exit(f"list what the API of each feature names: {', '.join(sorted(missing))}")

    faults = []
    for feature, named in NAMED_BY_FEATURE.items():
        allowed = NAMED_BY_FEATURE[""].union(*(NAMED_BY_FEATURE[name] for name in enabled_by(feature, features)))
        shown = external_types(public_api(feature, feature or "none"))
        for crate in sorted(shown.keys() - allowed):
            for place, path in sorted(shown[crate]):
                faults.append(f"feature {feature or 'none'}: {place} shows {path} of {crate}")
        for crate in sorted(named - shown.keys()):
            faults.append(f"feature {feature or 'none'}: its list has {crate}, which the API does not show")
    if faults:
        sys.exit("\n".join(faults))


def enabled_by(feature, features):
    enabled, left = set(), [feature]
    while left:
        name = left.pop()
        if name not in enabled:
            enabled.add(name)
            left += [other for other in features.get(name, []) if other in features]
    return enabled


def external_types(api):
    """The external types and traits that the API shows, as {crate: {(place, path)}}."""
    index = api["index"]
    parents = {child: key for key, item in index.items() for child in children(item)}
    shown = {}
    for key, item in index.items():
        ancestors = [index[ancestor] for ancestor in ancestry(key, parents)]
        if any(is_written_by_the_compiler(ancestor) for ancestor in ancestors):
            continue
        place = "::".join(label(ancestor) for ancestor in reversed(ancestors))
        for reference in references(item["inner"]):
            summary = api["paths"].get(str(reference))
            if summary and summary["crate_id"]:
                crate = api["external_crates"][str(summary["crate_id"])]["name"]
                if crate not in NAMED_BY_ALL:
                    shown.setdefault(crate, set()).add((place, "::".join(summary["path"])))
    return shown


def ancestry(key, parents):
    while key is not None:
        yield key
        key = parents.get(key)


def children(item):
    kind, inner = next(iter(item["inner"].items()))
    if kind in ("struct", "enum", "union"):
        return [str(child) for child in inner["impls"] + inner.get("variants", [])]
    if kind in ("module", "impl", "trait"):
        return [str(child) for child in inner["items"]]
    return []


def is_written_by_the_compiler(item):
    implementation = item["inner"].get("impl")
    return implementation and (implementation["is_synthetic"] or implementation["blanket_impl"])


def label(item):
    implementation = item["inner"].get("impl")
    if implementation:
        return f"<impl {implementation['trait']['path']}>" if implementation["trait"] else "<impl>"
    return item["name"] or "use"


def references(node):
    """The ids of the types and traits that are named somewhere in `node`; re-exports are among them."""
    if isinstance(node, list):
        for child in node:
            yield from references(child)
    elif isinstance(node, dict):
        if "id" in node and ("path" in node or "source" in node):
            yield node["id"]
        for child in node.values():
            yield from references(child)


if __name__ == "__main__":
    main()
