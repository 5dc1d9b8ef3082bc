"""Checks that every dependency has a licence that `deny.toml` allows, and that files taken from
others are as they published them, with the text of their licence beside them.

Usage: licences.py [MANIFEST]; the workspace's, where none is given.

Stands in for `cargo deny check licenses`, which takes longer to build than all else that runs here.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path


def main() -> int:
    with open("deny.toml", "rb") as file:
        allowed = set(tomllib.load(file)["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    command += ["--manifest-path", sys.argv[1]] if len(sys.argv) > 1 else []
    packages = json.loads(subprocess.check_output(command))["packages"]
    refused = [
        f"{package['name']} {package['version']}: {package['license'] or 'no licence given'}"
        for package in packages
        if not is_allowed(package["license"] or "", allowed)
    ]
    vendored = sorted(Path("crates").glob("*/assets/vendor/*"))
    wrong = [line for folder in vendored for line in vendor_problems(folder, allowed)]
    for line in refused + wrong:
        print(line, file=sys.stderr)
    print(f"{len(packages) - len(refused)} packages passed, {len(refused)} refused")
    print(f"{len(vendored)} vendored, {len(wrong)} problems with them")
    return 1 if refused or wrong else 0


def vendor_problems(folder: Path, allowed: set[str]) -> list[str]:
    """What is wrong with a folder of files that others made."""
    about_file = folder / "about.toml"
    if not about_file.is_file():
        return [f"{folder}: no about.toml says what it is"]
    about = tomllib.loads(about_file.read_text())
    problems = []
    for part in [about, *about.get("contains", [])]:
        if not is_allowed(part["licence"], allowed):
            problems.append(f"{folder}: {part['name']} {part['version']}: {part['licence']}")
    if not any(folder.glob("LICENSE*")):
        problems.append(f"{folder}: the text of the licence is missing")
    if hashlib.sha256((folder / about["file"]).read_bytes()).hexdigest() != about["sha256"]:
        problems.append(f"{folder}: {about['file']} is not the file that was published")
    return problems


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression: `OR` offers a choice, `AND` binds tighter."""
    # Old manifests write `MIT/Apache-2.0` for `MIT OR Apache-2.0`.
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    value, rest = any_of(tokens, allowed)
    return value and not rest


def any_of(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    value, tokens = all_of(tokens, allowed)
    while tokens and tokens[0] == "OR":
        other, tokens = all_of(tokens[1:], allowed)
        value = value or other
    return value, tokens


def all_of(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    value, tokens = one(tokens, allowed)
    while tokens and tokens[0] == "AND":
        other, tokens = one(tokens[1:], allowed)
        value = value and other
    return value, tokens


def one(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] == "(":
        value, tokens = any_of(tokens[1:], allowed)
        return value and tokens[:1] == [")"], tokens[1:]
    name, tokens = tokens[0], tokens[1:]
    if tokens[:1] == ["WITH"]:
        name, tokens = f"{name} WITH {tokens[1]}", tokens[2:]
    return name in allowed, tokens


if __name__ == "__main__":
    sys.exit(main())
