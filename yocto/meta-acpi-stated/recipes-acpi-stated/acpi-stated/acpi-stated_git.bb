# SPDX-License-Identifier: Apache-2.0
SUMMARY = "ACPI power state of the host"
DESCRIPTION = "Tracks the ACPI power state of a server's host, and keeps the BMC off the DIMM buses while firmware reads them"
HOMEPAGE = "https://github.com/openbmc/acpi-stated"
BUGTRACKER = "https://github.com/openbmc/acpi-stated/issues"
SECTION = "base"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# The daemon that it replaces: the same bus name, targets and, as an alias, unit.
PROVIDES = "acpi-power-state-daemon"
CVE_PRODUCT = "acpi-stated"

PV = "0.1.0+git"

SRC_URI = "git://github.com/openbmc/acpi-stated.git;protocol=https;branch=main"

# Both are made by `./dev yocto-layer`; the second is what `bitbake -c update_crates` writes.
require ${BPN}-revision.inc
require ${BPN}-crates.inc

inherit cargo cargo-update-recipe-crates systemd

# The command line tool, a package of its own, where the source has it.
PACKAGECONFIG ??= ""
PACKAGECONFIG[statectl] = "--bin acpi-statectl"

# The workspace also has a simulated board, doubles of services, a bench and a model, which are for developers. All of Cargo.lock is
# fetched all the same: a build that may not look anything up wants every package of the workspace at hand, used or not.
CARGO_BUILD_FLAGS:append = " --package acpi-stated --bin acpi-stated"
# Cargo must leave the symbols in; packaging puts them into -dbg.
export CARGO_PROFILE_RELEASE_STRIP = "none"

# Thumb code is a quarter smaller, and the tune of AST2600 machines (armv7ahf-vfpv4d16) does not ask for it; a 32-bit ARM kernel's
# pages are 4 KiB, so nothing has to be padded to 64.
RUSTFLAGS:append:armv7a = " -C target-feature=+thumb-mode -C link-arg=-Wl,-z,max-page-size=4096"

# Not obmc-phosphor-dbus-service, which would name the unit after the bus name, and write a D-Bus policy that is open to all.
SYSTEMD_SERVICE:${PN} = "acpi-stated.service"

do_install() {
    for program in acpi-stated ${@bb.utils.filter('PACKAGECONFIG', 'statectl', d).replace('statectl', 'acpi-statectl')}; do
        ${S}/tools/install.sh --root ${D} --prefix ${prefix} --etc-dir ${sysconfdir} --unit-dir ${systemd_system_unitdir} \
            --doc-dir ${docdir}/${BPN} --binary ${B}/target/${CARGO_TARGET_SUBDIR}/$program
    done
}

PACKAGE_BEFORE_PN = "acpi-statectl"
FILES:acpi-statectl += "${bindir}/acpi-statectl"

FILES:${PN} += "\
    ${systemd_system_unitdir} \
    ${nonarch_libdir}/systemd/catalog \
    "

RPROVIDES:${PN} = "acpi-power-state-daemon"
RREPLACES:${PN} = "acpi-power-state-daemon"
RCONFLICTS:${PN} = "acpi-power-state-daemon"
