#!/usr/bin/env python3
"""Checks that each dependency of the tests, benches and examples is named by one of them."""

import json
import pathlib
import re
import subprocess
import sys

metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], check=True, stdout=subprocess.PIPE
    ).stdout
)
[package] = metadata["packages"]
names = {
    (dependency["rename"] or dependency["name"]).replace("-", "_")
    for dependency in package["dependencies"]
    if dependency["kind"] == "dev"
}
root = pathlib.Path(package["manifest_path"]).parent
sources = "\n".join(
    file.read_text()
    for directory in ("src", "tests", "benches", "examples")
    for file in (root / directory).rglob("*.rs")
)
unused = sorted(name for name in names if not re.search(rf"\b{name}(::|\s+as\b|;)", sources))
if unused:
    sys.exit(f"no test, bench or example uses {', '.join(unused)}")
