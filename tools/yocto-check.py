#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""yocto-check.py LAYERS BINARY: whether the exported layers can be what they should be.

BitBake's own parser and fetcher (PyPI: bitbake-setup) read them. The classes of openembedded-core are not to be had there;
stubs below stand for them, with no more than what the recipe relies on. Nothing is fetched and nothing is built; the recipe's
do_install is run, with BINARY in the place of what cargo would have built.
Each line is one check, `ok` or `FAILED`; the exit code is 1 if one failed.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import types
from fnmatch import fnmatch

# The servers of BitBake that PyPI leaves out; nothing here calls them.
for server in ("hashserv", "hashserv.client", "prserv"):
    sys.modules[server] = types.ModuleType(server)
sys.modules["hashserv"].create_client = None
sys.modules["hashserv"].client = sys.modules["hashserv.client"]

import bb
import bb.data
import bb.event
import bb.fetch2
import bb.parse
import bb.siggen

SOURCE = pathlib.Path(__file__).resolve().parent.parent

# Of bitbake.conf and the classes (openembedded-core, wrynose), what the recipe sees of them.
STUBS = {
    "conf/bitbake.conf": """
prefix = "/usr"
bindir = "${prefix}/bin"
datadir = "${prefix}/share"
docdir = "${datadir}/doc"
sysconfdir = "/etc"
localstatedir = "/var"
libdir = "${prefix}/lib"
nonarch_libdir = "${prefix}/lib"
systemd_system_unitdir = "${nonarch_libdir}/systemd/system"
FILE_DIRNAME = "${@os.path.dirname(d.getVar('FILE', False))}"
THISDIR = "${FILE_DIRNAME}"
PN = "${@os.path.splitext(os.path.basename(d.getVar('FILE', False)))[0].split('_')[0]}"
BPN = "${PN}"
PV = "1.0"
BP = "${BPN}-${PV}"
BASE_WORKDIR = "/nonexistent"
WORKDIR = "${BASE_WORKDIR}/${PN}"
UNPACKDIR = "${WORKDIR}/sources"
S = "${UNPACKDIR}/${BP}"
D = "${WORKDIR}/image"
FILESEXTRAPATHS ?= "__default:"
FILESPATH = "${@d.getVar('FILESEXTRAPATHS').replace('__default:', '')}${FILE_DIRNAME}/${BP}:${FILE_DIRNAME}/${BPN}:${FILE_DIRNAME}/files"
OVERRIDES = "${MACHINEOVERRIDES}:pn-${PN}"
MACHINEOVERRIDES = "${MACHINE}"
MACHINE ??= "other"
PACKAGE_BEFORE_PN ?= ""
PACKAGES = "${PN}-dbg ${PN}-dev ${PN}-doc ${PACKAGE_BEFORE_PN} ${PN}"
FILES = ""
FILES:${PN} = "${bindir}/* ${sysconfdir} ${localstatedir} ${datadir}/${BPN} ${libdir}/${BPN}/*"
FILES:${PN}-doc = "${docdir}"
FILES:${PN}-dbg = ""
FILES:${PN}-dev = ""
DL_DIR = "/nonexistent"
""",
    "classes/cargo.bbclass": """
B = "${WORKDIR}/build"
CARGO_TARGET_SUBDIR = "some-target/release"
CARGO_BUILD_FLAGS = "-v --frozen"
cargo_do_compile() {
    cargo build ${CARGO_BUILD_FLAGS} ${PACKAGECONFIG_CONFARGS}
}
cargo_do_install() {
    false
}
EXPORT_FUNCTIONS do_compile do_install
""",
    "classes/cargo-update-recipe-crates.bbclass": """
CARGO_LOCK_SRC_DIR ??= "${S}"
do_update_crates() {
    :
}
addtask do_update_crates
""",
    "classes/systemd.bbclass": "",
    "classes/packagegroup.bbclass": "",
}

failed = passed = 0


def check(what, problems):
    """One line; `problems` is what is wrong, or nothing."""
    global failed, passed
    problems = [problems] if isinstance(problems, str) else list(problems or [])
    print(f"{'FAILED' if problems else 'ok':8}{what}")
    for problem in problems:
        print(f"        | {problem}")
    failed, passed = failed + bool(problems), passed + (not problems)


def differ(got, wanted):
    return [] if got == wanted else [f"it is {got!r}, and should be {wanted!r}"]


class Parser:
    """BitBake's parser, with the stubs in its path."""

    def __init__(self, scratch):
        self.scratch = scratch
        for name, text in STUBS.items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def parse(self, recipe, machine="other", appends=(), layers=(), **variables):
        d = bb.data.init()
        d.setVar("BBPATH", ":".join(map(str, [self.scratch, *layers])))
        d.setVar("BB_NO_NETWORK", "1")
        d.setVar("__bbclasstype", "recipe")
        bb.parse.siggen = bb.siggen.init(d)
        d = bb.parse.handle(str(self.scratch / "conf/bitbake.conf"), d, True)
        for name, value in {"MACHINE": machine, "BASE_WORKDIR": str(self.scratch / "work"), **variables}.items():
            d.setVar(name, value)
        d.setVar("__BBAPPEND", " ".join(map(str, appends)))
        # What it has to say of a bad recipe comes with the exception.
        with contextlib.redirect_stdout(io.StringIO()):
            return bb.parse.handle(str(recipe), d)[""]


def crates(d, lock):
    """Whether the crates that would be fetched are those of the lock file, each with its checksum."""
    wanted = {
        (package["name"], package["version"]): package["checksum"]
        for package in tomllib.loads(lock.read_text())["package"]
        if "source" in package
    }
    problems, got = [], set()
    for uri in d.getVar("SRC_URI").split():
        if not uri.startswith("crate://"):
            continue
        # The fetcher itself: how it understands the line, and which checksum it would ask for.
        fetched = bb.fetch2.FetchData(uri, d)
        key = tuple(uri.split("/")[-2:])
        got.add(key)
        if fetched.type != "crate" or fetched.sha256_expected != wanted.get(key):
            problems.append(f"{uri}: {fetched.type}, {fetched.sha256_expected}")
    problems += [f"not fetched: {key}" for key in sorted(wanted.keys() - got)]
    problems += [f"not in Cargo.lock: {key}" for key in sorted(got - wanted.keys())]
    return problems


def install(d, binary, files):
    """Runs do_install: what is there afterwards, relative to ${D}."""
    s, b, image, unpack = (pathlib.Path(d.getVar(name)) for name in ("S", "B", "D", "UNPACKDIR"))
    built = b / "target" / d.getVar("CARGO_TARGET_SUBDIR")
    for directory in (s.parent, built, image, unpack):
        directory.mkdir(parents=True, exist_ok=True)
    s.exists() or s.symlink_to(SOURCE)
    shutil.copy(binary, built / "acpi-stated")
    for name, path in files.items():
        shutil.copy(path, unpack / name)
    done = subprocess.run(["sh", "-euc", d.getVar("do_install")], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {"/" + str(path.relative_to(image)) for path in image.rglob("*") if path.is_symlink() or not path.is_dir()}


def packaged(d, installed):
    """Which package each file goes into: the first whose FILES has it, as do_package does it."""
    left, packages = set(installed), {}
    for package in d.getVar("PACKAGES").split():
        patterns = (d.getVar(f"FILES:{package}") or "").split()
        mine = {f for f in left if any(fnmatch(f, p) or f.startswith(p.rstrip("/") + "/") for p in patterns)}
        packages[package], left = mine, left - mine
    return packages, left


def main(layers, binary):
    layers = pathlib.Path(layers)
    layer, machine = layers / "meta-acpi-stated", layers / "meta-example-machine"
    recipe = layer / "recipes-acpi-stated/acpi-stated/acpi-stated_git.bb"
    lock = SOURCE / "Cargo.lock"
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="acpi-yocto."))
    try:
        parser = Parser(scratch)
        for name, conf in (("acpi-stated", layer), ("example-machine", machine)):
            d = bb.data.init()
            d.setVar("LAYERDIR", str(conf))
            d = bb.parse.handle(str(conf / "conf/layer.conf"), d, True)
            check(
                f"layer.conf of {name} parses, and names the releases",
                differ(d.getVar(f"LAYERSERIES_COMPAT_{name}"), "whinlatter wrynose blacksail"),
            )
        d = parser.parse(recipe)
        check("the recipe parses", None)
        check("it would fetch all crates of Cargo.lock, with their checksums", crates(d, lock))
        revision = d.getVar("SRCREV") or ""
        check("it builds a revision", None if re.fullmatch("[0-9a-f]{40}", revision) else f"SRCREV = {revision!r}")
        licence = hashlib.md5((SOURCE / "LICENSE").read_bytes()).hexdigest()
        check("the licence is the one in the source", differ(d.getVar("LIC_FILES_CHKSUM"), f"file://LICENSE;md5={licence}"))
        version = tomllib.loads((SOURCE / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        check("the version is that of Cargo.toml", differ(d.getVar("PV"), f"{version}+git"))
        flags = d.getVar("CARGO_BUILD_FLAGS")
        check("it builds the shipped package only", None if "--package acpi-stated --bin acpi-stated" in flags else flags)
        check("cargo leaves the symbols in, for -dbg", differ(d.getVar("CARGO_PROFILE_RELEASE_STRIP"), "none"))
        for relation in ("RPROVIDES", "RREPLACES", "RCONFLICTS"):
            check(f"{relation}: the old daemon", differ(d.getVar(f"{relation}:acpi-stated"), "acpi-power-state-daemon"))

        installed = install(d, binary, {})
        packages, left = packaged(d, installed)
        check("all that it installs is in a package", [f"in none: {f}" for f in sorted(left)])
        wanted = {
            "/usr/bin/acpi-stated",
            "/usr/lib/systemd/catalog/acpi-stated.catalog",
            "/usr/lib/systemd/system/acpi-power-state.service",
            "/etc/dbus-1/system.d/xyz.openbmc_project.Control.Power.ACPIPowerState.conf",
            *(f"/usr/lib/systemd/system/{unit.name}" for unit in (SOURCE / "systemd").glob("*.[st][ea]r*")),
        }
        check("the package holds what the contract says, and no more", differ(sorted(packages["acpi-stated"]), sorted(wanted)))

        d = parser.parse(layer / "recipes-acpi-stated/packagegroups/packagegroup-acpi-stated.bb")
        check("the packagegroup wants the daemon", differ(d.getVar("RDEPENDS:packagegroup-acpi-stated"), "acpi-stated"))

        append = machine / "recipes-acpi-stated/acpi-stated/acpi-stated_%.bbappend"
        config = append.parent / "acpi-stated/config.json"
        d = parser.parse(recipe, "example", [append])
        found = bb.utils.which(d.getVar("FILESPATH"), "config.json")
        check("on the example machine its configuration is found", differ(found, str(config)))
        installed = install(d, binary, {"config.json": config})
        packages, left = packaged(d, installed)
        there = "/usr/share/acpi-stated/config.json" in packages["acpi-stated"]
        check("and is in the package", None if there else sorted(installed))
        d = parser.parse(recipe, "other", [append])
        check("on other machines it is not", None if "config.json" not in d.getVar("SRC_URI") else d.getVar("SRC_URI"))
        said = subprocess.run([binary, "--check-config", config], capture_output=True, text=True)
        check("the daemon takes it", said.stderr.splitlines() if said.returncode else None)
        guarded = {bus["bus"] for bus in json.loads(config.read_text())["buses"]}
        entity = machine / "recipes-phosphor/configuration/entity-manager"
        skipped = set(json.loads((entity / "blacklist.json").read_text())["buses"])
        check("fru-device skips the guarded buses", [f"not bus {bus}" for bus in sorted(guarded - skipped)])
        exposes = json.loads((entity / "example-board.json").read_text())["Exposes"]
        sensors = {sensor["name"] for sensor in json.loads(config.read_text())["sensors"]}
        inputs = [e for e in exposes if sensors & set(e.get("Inputs", []))]
        check(
            "fan control does not take our unavailable sensors for failed",
            [e["Name"] for e in inputs if e.get("InputUnavailableAsFailed") is not False] or (None if inputs else "no zone has them"),
        )

        # That these checks can fail.
        broken = scratch / "broken" / recipe.name
        shutil.copytree(recipe.parent, broken.parent)
        list_of_crates = broken.parent / "acpi-stated-crates.inc"
        good = list_of_crates.read_text()
        list_of_crates.write_text(re.sub(r'(sha256sum\] = ")[0-9a-f]', r"\1x", good, count=1))
        check("a wrong checksum would be noticed", None if crates(parser.parse(broken), lock) else "it was not")
        list_of_crates.write_text(re.sub(r"\n    crate://.*", "", good, count=1))
        check("a missing crate would be noticed", None if crates(parser.parse(broken), lock) else "it was not")
        list_of_crates.write_text(good)
        broken.write_text(broken.read_text().replace('PV = "', 'PV = "\n', 1))
        try:
            parser.parse(broken)
            check("a recipe that is not BitBake's language would be noticed", "it was not")
        except (bb.BBHandledException, bb.parse.ParseError):
            check("a recipe that is not BitBake's language would be noticed", None)
    finally:
        shutil.rmtree(scratch)
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
