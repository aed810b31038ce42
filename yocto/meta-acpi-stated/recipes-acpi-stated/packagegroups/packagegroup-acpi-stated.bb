# SPDX-License-Identifier: Apache-2.0
SUMMARY = "ACPI power state tracking"
DESCRIPTION = "What an OpenBMC image takes in to track its host's ACPI power state"
HOMEPAGE = "https://github.com/openbmc/acpi-stated"
BUGTRACKER = "https://github.com/openbmc/acpi-stated/issues"
SECTION = "base"

inherit packagegroup

RDEPENDS:${PN} = "acpi-stated"
# Only where it is built: PACKAGECONFIG:append:pn-acpi-stated = " statectl".
RRECOMMENDS:${PN} = "acpi-statectl"
