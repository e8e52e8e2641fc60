#!/usr/bin/env python3
"""Checks that the dependencies of each feature need no newer Rust than the crate says, with the lock file of a manifest:
`.ci/rust_versions.py Cargo.toml`.
"""

import json
import subprocess
import sys

from external_types import enabled_by

# The others need what `rust-version` says.
NEEDED_BY_FEATURE = {"aws-sts": "1.94.1"}


def main(manifest):
    host = run("rustc", "--print", "host-tuple").strip()
    metadata = json.loads(
        run(
            *("cargo", "metadata", "--locked", "--manifest-path", manifest),
            *("--all-features", "--filter-platform", host, "--format-version", "1"),
        )
    )
    packages = {f"{package['name']} v{package['version']}": package for package in metadata["packages"]}
    [root] = [package for package in packages.values() if package["id"] == metadata["resolve"]["root"]]

    faults = []
    for feature in ("", *sorted(root["features"])):
        enabled = enabled_by(feature, root["features"])
        versions = [NEEDED_BY_FEATURE[name] for name in enabled & NEEDED_BY_FEATURE.keys()]
        allowed = max([root["rust_version"], *versions], key=number)
        tree = run(
            *("cargo", "tree", "--locked", "--manifest-path", manifest, "--no-default-features", "--features", feature),
            *("--edges", "normal,build", "--prefix", "none", "--format", "{p}"),
        )
        for name in sorted({" ".join(line.split()[:2]) for line in tree.splitlines()}):
            needed = packages[name]["rust_version"]
            if needed and number(needed) > number(allowed):
                faults.append(f"feature {feature or 'none'}: {name} needs Rust {needed}, which is newer than {allowed}")
    if faults:
        sys.exit("\n".join(faults))


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def number(version):
    major, minor, patch = f"{version}.0".split(".")[:3]
    return int(major), int(minor), int(patch)


if __name__ == "__main__":
    main(*sys.argv[1:])
