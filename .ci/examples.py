#!/usr/bin/env python3
"""Fails where examples/README.md does not list each example with its features, or `.ci/run` does not run each."""

import re
import sys

from rustdoc import HERE, ROOT, package

ROW = re.compile(r"^\| \[(\w+)\]\((\S+)\) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def main():
    [*targets] = (target for target in package()["targets"] if "example" in target["kind"])
    examples = {
        target["name"]: (
            target["src_path"].removeprefix(f"{ROOT}/examples/"),
            ", ".join(f"`{feature}`" for feature in target.get("required-features", [])),
        )
        for target in targets
    }
    listed = {name: (path, features) for name, path, features in ROW.findall((ROOT / "examples/README.md").read_text())}
    gate = (HERE / "run").read_text()

    faults = [f"{name} is listed, and is no example" for name in listed.keys() - examples.keys()]
    for name, (path, features) in examples.items():
        if listed.get(name) != (path, features):
            faults.append(f"examples/README.md needs the row: | [{name}]({path}) | what it shows | {features} |")
        if f"--example {name}\n" not in gate:
            faults.append(f".ci/run does not run {name}")
    if faults:
        sys.exit("\n".join(sorted(faults)))
    print(f"{len(examples)} examples")


if __name__ == "__main__":
    main()
