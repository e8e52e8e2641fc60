"""The public API of the crate, as rustdoc's JSON has it."""

import json
import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = ROOT / "target"


def cargo(*arguments, **environment):
    # A build directory of its own would have the dependencies checked once more.
    environment = {**os.environ, "CARGO_BUILD_BUILD_DIR": str(TARGET), **environment}
    return subprocess.run(
        ["cargo", arguments[0], "--locked", *arguments[1:]], check=True, stdout=subprocess.PIPE, env=environment
    ).stdout


def package(source=ROOT):
    metadata = cargo("metadata", "--no-deps", "--format-version", "1", "--manifest-path", str(source / "Cargo.toml"))
    [package] = json.loads(metadata)["packages"]
    return package


def public_api(feature, name, source=ROOT):
    """Documents the crate in `source` with that feature alone. `name` keeps it apart from others."""
    directory = TARGET / "api" / name
    cargo(
        *("rustdoc", "--quiet", "--lib", "--no-default-features", "--features", feature),
        *("--manifest-path", str(source / "Cargo.toml"), "--target-dir", str(directory)),
        RUSTDOC=str(HERE / "rustdoc_json"),
    )
    return json.loads((directory / "doc/tower_identity.json").read_text())
