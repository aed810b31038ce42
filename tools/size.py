#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What each crate weighs: reads `nm -S -C` of a binary that was not stripped, prints a table of code and constants in KB.

A generic function counts for the crate that wrote it, wherever it was used. What has no name is not in it: text, tables for
unwinding, relocations.
"""

import collections
import re
import sys


def crate(symbol: str) -> str:
    """The first path segment of a demangled name: of the type in `<a::B as c::D>::e` that is a."""
    while symbol.startswith("<"):
        symbol = symbol[1:].lstrip("&*[(").removeprefix("mut ").removeprefix("dyn ")
    found = re.match(r"([a-z_][a-z0-9_]*)(?:\[[0-9a-f]+\])?::", symbol)
    return found[1] if found else "libc and others"


def main() -> None:
    sizes: collections.Counter[str] = collections.Counter()
    seen = set()
    for line in sys.stdin:
        found = re.match(r"([0-9a-f]+) ([0-9a-f]+) [tTrRdDvVwW] (.+)", line)
        # Functions that are the same were folded into one address.
        if not found or found[1] in seen:
            continue
        seen.add(found[1])
        sizes[crate(found[3])] += int(found[2], 16)
    print("| crate | KB |\n|---|---|")
    for name, size in sizes.most_common(16):
        print(f"| {name} | {size / 1000:.0f} |")
    others = sizes.most_common()[16:]
    print(f"| {len(others)} others | {sum(size for _, size in others) / 1000:.0f} |")


if __name__ == "__main__":
    main()
