#!/usr/bin/env python3
"""Counts the instructions of a request on the hot path, and fails where they grew by more than 3 %, or where the layers
cost too much more than what somebody would write by hand.

    .ci/instructions.py            compares with .ci/instructions.txt
    .ci/instructions.py --write    writes that file

Unlike a time, the count is the same in each run. It includes building the request and dropping it, which the scenario
`bare` has alone.
"""

import shutil
import subprocess
import sys
from pathlib import Path

CRATE = Path(__file__).resolve().parents[1]
HARNESS = CRATE / "tests" / "instructions"
EXPECTED = CRATE / ".ci" / "instructions.txt"
SCENARIOS = [
    *("bare", "minimum", "inject", "placed", "fallback_minimum", "fallback", "cache_hit", "statement_hit", "remembered"),
]
ALLOWED = 1.03
# The layers, the same by hand, and how many instructions may lie between them.
ABOVE_MINIMUM = [("inject", "minimum", 380), ("fallback", "fallback_minimum", 420)]
FEW, MANY = 100, 1100


def main():
    program = build()
    counted = {scenario: instructions(program, scenario) for scenario in SCENARIOS}
    if sys.argv[1:] == ["--write"]:
        EXPECTED.write_text("".join(f"{scenario} {count}\n" for scenario, count in counted.items()))
        return
    expected = dict(line.split() for line in EXPECTED.read_text().splitlines())
    grown = []
    print(f"{'scenario':<12} {'instructions':>12} {'expected':>9}")
    for scenario, count in counted.items():
        limit = int(expected[scenario])
        print(f"{scenario:<12} {count:>12} {limit:>9}")
        if count > limit * ALLOWED:
            grown.append(scenario)
    for layers, minimum, limit in ABOVE_MINIMUM:
        above = counted[layers] - counted[minimum]
        print(f"{layers} - {minimum}: {above}, at most {limit}")
        if above > limit:
            sys.exit(f"{layers} has {above} instructions more than {minimum}, and may have {limit}")
    if grown:
        sys.exit(f"more than 3 % more instructions: {', '.join(grown)}; if that has to be, run with --write and say why")


def build():
    # Its lock file is not committed: it has the versions that the tests have.
    shutil.copy(CRATE / "Cargo.lock", HARNESS)
    target = CRATE / "target"
    manifest = HARNESS / "Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", manifest, "--target-dir", target]
    subprocess.run(command, check=True)
    return target / "release" / "instructions"


def instructions(program, scenario):
    """The instructions of one request: those of many less those of few, so that starting the program does not count."""
    return round((total(program, scenario, MANY) - total(program, scenario, FEW)) / (MANY - FEW))


def total(program, scenario, times):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, scenario, str(times)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    [collected] = [line for line in ran.stderr.splitlines() if "Collected" in line]
    return int(collected.split(":")[1])


if __name__ == "__main__":
    main()
