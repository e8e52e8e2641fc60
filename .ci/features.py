#!/usr/bin/env python3
"""Prints each feature of the crate, and fails where `full` is not all of them."""

import json
import subprocess
import sys

metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], check=True, stdout=subprocess.PIPE
    ).stdout
)
[package] = metadata["packages"]
features = package["features"]
single = sorted(features.keys() - {"default", "full"})
# A program must not get it by accident.
in_full = sorted(set(single) - {"testing"})

if features["default"]:
    sys.exit(f"`default` is to bring nothing, and brings {', '.join(features['default'])}")
if sorted(features["full"]) != in_full:
    differing = sorted(set(features["full"]) ^ set(in_full))
    sys.exit(f"`full` is to be all features but `testing`, and differs by {', '.join(differing)}")
print("\n".join(single))
