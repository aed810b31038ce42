#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sbom.py [TARGET]: what the shipped daemon is built from, as a CycloneDX 1.5 bill of materials on standard output.

TARGET (default: armv7-unknown-linux-gnueabihf) says for which machine. Only what goes into the program is in it: no tests, no
simulator; crates that run while it is built (macros) are marked `excluded`. From `cargo metadata` and Cargo.lock alone, so the
same source gives the same file.
"""

import json
import pathlib
import subprocess
import sys
import tomllib

SOURCE = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "acpi-stated"


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], cwd=SOURCE, check=True, capture_output=True, text=True).stdout


def tree(target, edges):
    """The packages below the daemon, (name, version). `cargo metadata` would count what other members' features add."""
    lines = cargo(
        "tree", "--locked", "--package", PACKAGE, "--target", target, "--edges", edges,
        "--prefix", "none", "--no-dedupe", "--format", "{p}",
    ).splitlines()
    return {(name, version.removeprefix("v")) for name, version in (line.split()[:2] for line in lines)}


def main(target):
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", target))
    lock = tomllib.loads((SOURCE / "Cargo.lock").read_text())["package"]
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock}
    packages = {package["id"]: package for package in metadata["packages"]}
    in_program, in_build = tree(target, "normal,no-proc-macro"), tree(target, "normal,build")
    # Whether it only runs while the program is built.
    reached = {
        node: (p["name"], p["version"]) not in in_program
        for node, p in packages.items()
        if (p["name"], p["version"]) in in_build
    }
    root = next(node for node in reached if packages[node]["name"] == PACKAGE)
    edges = {
        node["id"]: {
            dep["pkg"]
            for dep in node["deps"]
            if dep["pkg"] in reached and {kind["kind"] for kind in dep["dep_kinds"]} & {None, "build"}
        }
        for node in metadata["resolve"]["nodes"]
        if node["id"] in reached
    }

    def purl(node):
        return f"pkg:cargo/{packages[node]['name']}@{packages[node]['version']}"

    def component(node):
        package = packages[node]
        said = {
            "type": "application" if node == root else "library",
            "bom-ref": purl(node),
            "name": package["name"],
            "version": package["version"],
            "scope": "excluded" if reached[node] else "required",
            # Older crates write MIT/Apache-2.0, which is no SPDX expression.
            "licenses": [{"expression": package["license"].replace("/", " OR ")}],
            "purl": purl(node),
        }
        if node == root:
            del said["scope"]
        checksum = checksums[package["name"], package["version"]]
        if checksum:
            said["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if package.get("repository"):
            said["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return said

    order = sorted(reached, key=purl)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": component(root),
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": [component(node) for node in order if node != root],
        "dependencies": [{"ref": purl(n), "dependsOn": sorted(purl(d) for d in edges[n])} for n in order],
    }
    print(json.dumps(bill, indent=2, sort_keys=True))


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] == ["--help"]:
        sys.exit(__doc__)
    main(sys.argv[1] if len(sys.argv) == 2 else "armv7-unknown-linux-gnueabihf")
