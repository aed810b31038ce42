# SPDX-License-Identifier: Apache-2.0
# The board's configuration, in /usr/share: /etc/acpi-stated/config.json remains for who must change it on one BMC.
FILESEXTRAPATHS:prepend:example := "${THISDIR}/${PN}:"

SRC_URI:append:example = " file://config.json"

do_install:append:example() {
    install -D -m 0644 ${UNPACKDIR}/config.json ${D}${datadir}/acpi-stated/config.json
}
