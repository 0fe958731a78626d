#!/usr/bin/env python3
"""The public API as a sorted list, docs/public-api.txt: what a release may not take away.

    scripts/public_api.py            # writes the list
    scripts/public_api.py --check    # fails if the list is not what the code has, and shows the difference

Reads rustdoc's JSON of all features, which is for nightly: with RUSTC_BOOTSTRAP=1 a stable rustdoc writes it. The format changes
with the toolchain; FORMATS has those that this was tried with. Of traits that are implemented, only those of this crate and a few
of std's that callers see are listed.
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "docs" / "public-api.txt"
FORMATS = range(45, 70)
# Implementations by std that are worth a line; others (blanket, auto) follow from the types.
TRAITS = {"Clone", "Copy", "Debug", "Default", "Display", "Error", "From", "FromStr", "Eq", "Hash", "Ord", "PartialEq", "PartialOrd",
          "Serialize", "Deserialize", "Drop", "Future", "IntoFuture", "TryFrom", "AsRef", "Deref"}


def rustdoc():
    command = ["cargo", "rustdoc", "--quiet", "--lib", "--all-features", "--", "-Z", "unstable-options", "--output-format", "json",
               "--cap-lints", "allow"]
    with tempfile.TemporaryDirectory() as directory:
        # For rustdoc alone: build scripts see the variable, too, and dependencies would be built again.
        wrapper = pathlib.Path(directory) / "rustdoc"
        wrapper.write_text('#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "${REAL_RUSTDOC:-rustdoc}" "$@"\n')
        wrapper.chmod(0o755)
        environment = os.environ | {"RUSTDOC": str(wrapper), "REAL_RUSTDOC": os.environ.get("RUSTDOC", "rustdoc")}
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"], cwd=ROOT, check=True,
                              stdout=subprocess.PIPE)
    target = pathlib.Path(json.loads(metadata.stdout)["target_directory"])
    return json.loads((target / "doc" / "temporal_eventstore.json").read_text())


class Api:
    """Walks from the crate's root along what is public, and writes a line for each item under each path that it has."""

    def __init__(self, read):
        self.index, self.paths, self.lines = read["index"], read["paths"], set()
        self.seen = set()
        self.module(self.index[str(read["root"])], "temporal_eventstore")

    def item(self, number):
        return self.index.get(str(number))

    # What types look like.

    def type(self, of):
        if of is None:
            return "_"
        (kind, what), = of.items()
        if kind == "resolved_path":
            return self.path(what)
        if kind in ("generic", "primitive"):
            return what
        if kind == "borrowed_ref":
            lifetime = f"{what['lifetime']} " if what["lifetime"] else ""
            return f"&{lifetime}{'mut ' if what['is_mutable'] else ''}{self.type(what['type'])}"
        if kind == "tuple":
            return f"({', '.join(map(self.type, what))})"
        if kind == "slice":
            return f"[{self.type(what)}]"
        if kind == "array":
            return f"[{self.type(what['type'])}; {what['len']}]"
        if kind == "impl_trait":
            return "impl " + self.bounds(what)
        if kind == "dyn_trait":
            parts = [self.path(one["trait"]) for one in what["traits"]]
            return "dyn " + " + ".join(parts + ([what["lifetime"]] if what["lifetime"] else []))
        if kind == "qualified_path":
            of_trait = what.get("trait")
            owner = self.type(what["self_type"])
            if of_trait and of_trait.get("path"):
                return f"<{owner} as {self.path(of_trait)}>::{what['name']}"
            return f"{owner}::{what['name']}"
        if kind == "raw_pointer":
            return f"*{'mut' if what['is_mutable'] else 'const'} {self.type(what['type'])}"
        if kind == "function_pointer":
            return "fn" + self.signature(what["sig"])
        return kind

    def path(self, of):
        name = (of.get("path") or of.get("name") or "?").split("::")[-1]
        return name + self.arguments(of.get("args"))

    def arguments(self, args):
        if not args:
            return ""
        if "parenthesized" in args:
            of = args["parenthesized"]
            output = f" -> {self.type(of['output'])}" if of["output"] else ""
            return f"({', '.join(map(self.type, of['inputs']))}){output}"
        if "angle_bracketed" not in args:
            return ""
        parts = []
        for one in args["angle_bracketed"]["args"]:
            (kind, what), = one.items() if isinstance(one, dict) else (("infer", "_"),)
            parts.append(self.type(what) if kind == "type" else what if isinstance(what, str) else str(what.get("expr", "_")))
        for one in args["angle_bracketed"].get("constraints", args["angle_bracketed"].get("bindings", [])):
            binding = one["binding"]
            if "equality" in binding:
                term = binding["equality"]
                parts.append(f"{one['name']} = {self.type(term['type']) if 'type' in term else term['constant']['expr']}")
            else:
                parts.append(f"{one['name']}: {self.bounds(binding['constraint'])}")
        return f"<{', '.join(parts)}>" if parts else ""

    def bounds(self, bounds):
        parts = []
        for one in bounds:
            if "trait_bound" in one:
                modifier = {"maybe": "?"}.get(one["trait_bound"]["modifier"], "")
                parts.append(modifier + self.path(one["trait_bound"]["trait"]))
            elif "outlives" in one:
                parts.append(one["outlives"])
        return " + ".join(parts)

    def generics(self, of):
        parts = []
        for one in of["params"]:
            (kind, what), = one["kind"].items()
            if kind == "type" and not what.get("is_synthetic"):
                bounds = self.bounds(what["bounds"])
                parts.append(f"{one['name']}: {bounds}" if bounds else one["name"])
            elif kind == "lifetime":
                parts.append(one["name"])
            elif kind == "const":
                parts.append(f"const {one['name']}: {self.type(what['type'])}")
        where = []
        for one in of["where_predicates"]:
            if "bound_predicate" in one:
                where.append(f"{self.type(one['bound_predicate']['type'])}: {self.bounds(one['bound_predicate']['bounds'])}")
        return f"<{', '.join(parts)}>" if parts else "", f" where {', '.join(where)}" if where else ""

    def signature(self, sig):
        inputs = []
        for name, of in sig["inputs"]:
            text = self.type(of)
            if name == "self":
                text = {"Self": "self", "&Self": "&self", "&mut Self": "&mut self"}.get(text, f"self: {text}")
            else:
                text = f"{name}: {text}" if name else text
            inputs.append(text)
        output = f" -> {self.type(sig['output'])}" if sig["output"] else ""
        return f"({', '.join(inputs)}){output}"

    # What there is.

    def add(self, line):
        self.lines.add(" ".join(line.split()))

    def function(self, item, path):
        of = item["inner"]["function"]
        generics, where = self.generics(of["generics"])
        header = of["header"]
        words = "".join(f"{word} " for word in ("const", "async", "unsafe") if header.get(f"is_{word}"))
        self.add(f"{words}fn {path}{generics}{self.signature(of['sig'])}{where}")

    def attributes(self, item):
        texts = [one if isinstance(one, str) else next(iter(one)) if isinstance(one, dict) else "" for one in item.get("attrs", [])]
        return "#[non_exhaustive] " if any("non_exhaustive" in text for text in texts) else ""

    def module(self, item, path):
        if (item["id"], path) in self.seen:
            return
        self.seen.add((item["id"], path))
        if path != "temporal_eventstore":
            self.add(f"mod {path}")
        for number in item["inner"]["module"]["items"]:
            if child := self.item(number):
                self.any(child, path)

    def any(self, item, parent):
        if item["visibility"] not in ("public", "default") or "doc(hidden)" in str(item.get("attrs")):
            return
        (kind, of), = item["inner"].items()
        if kind == "use":
            target = self.item(of["id"]) if of["id"] is not None else None
            if of.get("is_glob") and target:
                for number in target["inner"].get("module", target["inner"].get("enum", {})).get("items", []):
                    if child := self.item(number):
                        self.any(child, parent)
            elif target is None:
                self.add(f"use {parent}::{of['name']} = {of['source']}")
            else:
                self.named(target, f"{parent}::{of['name']}")
            return
        if item["name"]:
            self.named(item, f"{parent}::{item['name']}")

    def named(self, item, path):
        (kind, of), = item["inner"].items()
        if kind == "module":
            # The guide's pages are no API.
            if not path.startswith("temporal_eventstore::guide"):
                self.module(item, path)
        elif kind == "function":
            self.function(item, path)
        elif kind == "struct":
            self.add(f"{self.attributes(item)}struct {path}{self.generics(of['generics'])[0]}")
            shape = of["kind"]
            fields = shape.get("plain", {}).get("fields", []) if isinstance(shape, dict) else []
            for field in filter(None, map(self.item, fields)):
                if field["visibility"] == "public":
                    self.add(f"field {path}::{field['name']}: {self.type(field['inner']['struct_field'])}")
            self.impls(of["impls"], path)
        elif kind == "enum":
            self.add(f"{self.attributes(item)}enum {path}{self.generics(of['generics'])[0]}")
            for variant in filter(None, map(self.item, of["variants"])):
                self.variant(variant, path)
            self.impls(of["impls"], path)
        elif kind == "trait":
            bounds = self.bounds(of["bounds"])
            self.add(f"trait {path}{self.generics(of['generics'])[0]}{': ' + bounds if bounds else ''}")
            for member in filter(None, map(self.item, of["items"])):
                (what, inner), = member["inner"].items()
                if what == "function":
                    self.function(member, f"{path}::{member['name']}")
                else:
                    self.add(f"{what} {path}::{member['name']}")
        elif kind == "type_alias":
            self.add(f"type {path}{self.generics(of['generics'])[0]} = {self.type(of['type'])}")
        elif kind == "constant":
            self.add(f"const {path}: {self.type(of['type'])}")
        elif kind == "static":
            self.add(f"static {path}: {self.type(of['type'])}")
        elif kind in ("macro", "proc_macro"):
            self.add(f"macro {path}!")

    def variant(self, item, path):
        shape = item["inner"]["variant"]["kind"]
        name = f"{path}::{item['name']}"
        if shape == "plain":
            self.add(f"{self.attributes(item)}variant {name}")
        elif "tuple" in shape:
            types = [self.type(field["inner"]["struct_field"]) for field in filter(None, map(self.item, shape["tuple"]))]
            self.add(f"{self.attributes(item)}variant {name}({', '.join(types)})")
        else:
            fields = [f"{field['name']}: {self.type(field['inner']['struct_field'])}"
                      for field in filter(None, map(self.item, shape["struct"]["fields"]))]
            self.add(f"{self.attributes(item)}variant {name} {{ {', '.join(fields)} }}")

    def impls(self, numbers, path):
        for block in filter(None, map(self.item, numbers)):
            of = block["inner"]["impl"]
            if of.get("is_synthetic") or of.get("blanket_impl"):
                continue
            trait = of["trait"]
            if trait is None:
                for member in filter(None, map(self.item, of["items"])):
                    if member["visibility"] != "public":
                        continue
                    (what, inner), = member["inner"].items()
                    if what == "function":
                        self.function(member, f"{path}::{member['name']}")
                    elif what == "assoc_const":
                        self.add(f"const {path}::{member['name']}: {self.type(inner['type'])}")
                continue
            name = self.path(trait)
            known = self.paths.get(str(trait["id"]))
            if name.split("<")[0] in TRAITS or (known and known["crate_id"] == 0):
                self.add(f"impl {name} for {path}")


def main():
    read = rustdoc()
    if read["format_version"] not in FORMATS:
        print(f"rustdoc's format {read['format_version']} is not one that this was tried with", file=sys.stderr)
        return 1
    # By path, so that all of a type is together.
    lines = sorted(Api(read).lines, key=lambda line: (line[line.find("temporal_eventstore"):], line))
    text = "".join(f"{line}\n" for line in lines)
    if "--check" not in sys.argv[1:]:
        LIST.write_text(text)
        return 0
    before = LIST.read_text() if LIST.exists() else ""
    difference = list(difflib.unified_diff(before.splitlines(), text.splitlines(), "docs/public-api.txt", "the code", lineterm="", n=0))
    if difference:
        print("\n".join(difference))
        print("the public API is not what docs/public-api.txt says; scripts/public_api.py writes it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
