#!/usr/bin/env python3
"""What the dependencies may be: their licences, where they come from, and which may be there once or not at all.

    scripts/licences.py           # the licences there are, with how many packages have each
    scripts/licences.py --check   # fails for what is not allowed

Reads `cargo metadata --locked` of all features, with development dependencies and other platforms, so of every package that
Cargo.lock names. Does not look for known vulnerabilities or withdrawn versions: that takes the advisory database, which cargo-deny
fetches (docs/deny.toml is the same policy for it).
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
POLICY = ROOT / "docs" / "deny.toml"
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def policy():
    """The lists of docs/deny.toml, so that there is one policy. tomllib is there from Python 3.11 on."""
    import tomllib

    read = tomllib.loads(POLICY.read_text())
    exceptions = {one["crate"]: set(one["allow"]) for one in read["licenses"].get("exceptions", [])}
    once = {one["crate"] for one in read["bans"]["deny"] if one.get("deny-multiple-versions")}
    banned = {one["crate"] for one in read["bans"]["deny"]} - once
    return set(read["licenses"]["allow"]), exceptions, once, banned


def licence_of(package):
    """The expression; of a package that has a file instead, MIT if that is what the file says."""
    if package["license"] or not package["license_file"]:
        return package["license"]
    text = (pathlib.Path(package["manifest_path"]).parent / package["license_file"]).read_text()
    words = " ".join(text.split())
    is_mit = (
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software" in words
        and 'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND' in words
        and len(words) < 1500
    )
    return "MIT" if is_mit else None


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be satisfied. `/` is an old way to write OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def one():
        nonlocal at
        token = tokens[at]
        at += 1
        if token == "(":
            value = some()
            if at >= len(tokens) or tokens[at] != ")":
                raise ValueError(expression)
            at += 1
            return value
        if token in ("AND", "OR", "WITH", ")"):
            raise ValueError(expression)
        if at + 1 < len(tokens) and tokens[at] == "WITH":
            token = f"{token} WITH {tokens[at + 1]}"
            at += 2
        return token in allowed

    def both():
        nonlocal at
        value = one()
        while at < len(tokens) and tokens[at] == "AND":
            at += 1
            value = one() and value
        return value

    def some():
        nonlocal at
        value = both()
        while at < len(tokens) and tokens[at] == "OR":
            at += 1
            value = both() or value
        return value

    value = some()
    if at != len(tokens):
        raise ValueError(expression)
    return value


def faults(packages):
    allowed, exceptions, once, banned = policy()
    versions = collections.defaultdict(set)
    for package in packages:
        name, version = package["name"], package["version"]
        if package["source"] is None:
            continue  # This crate.
        versions[name].add(version)
        if package["source"] != REGISTRY:
            yield f"{name} {version} comes from {package['source']}"
        expression = licence_of(package)
        if not expression:
            yield f"{name} {version} has no licence expression (file: {package['license_file']})"
            continue
        try:
            fits = is_allowed(expression, allowed | exceptions.get(name, set()))
        except (ValueError, IndexError):
            fits = False
        if not fits:
            yield f"{name} {version} has the licence {expression}"
    for name in sorted(once):
        if len(versions[name]) > 1:
            yield f"{name} is there in several versions: {', '.join(sorted(versions[name]))}"
        if not versions[name]:
            yield f"{name} is listed in docs/deny.toml, and is not among the dependencies"
    for name in sorted(banned & versions.keys()):
        yield f"{name} is there, and must not be"


def selftest():
    allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"}
    for expression, expected in [
        ("MIT", True),
        ("GPL-3.0", False),
        ("GPL-3.0 OR MIT", True),
        ("MIT AND GPL-3.0", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("Unlicense/MIT", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0 WITH LLVM-exception", False),
        ("MIT OR (GPL-3.0 AND Apache-2.0)", True),
    ]:
        assert is_allowed(expression, allowed) == expected, expression


def main():
    selftest()
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked", "--quiet"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    if "--check" not in sys.argv[1:]:
        count = collections.Counter(str(licence_of(package)) for package in packages)
        for licence, number in count.most_common():
            print(f"{number:5}  {licence}")
        return 0
    found = list(faults(packages))
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        print(f"docs/deny.toml has what is allowed: {len(found)} to look at", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
