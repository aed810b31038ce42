# SPDX-License-Identifier: Apache-2.0
# fru-device scans every I2C bus when the host starts, which is when firmware reads the DIMMs: not the buses in blacklist.json.
FILESEXTRAPATHS:prepend:example := "${THISDIR}/${PN}:"

SRC_URI:append:example = " \
    file://blacklist.json \
    file://example-board.json \
    "

do_install:append:example() {
    install -D -m 0644 ${UNPACKDIR}/blacklist.json ${D}${datadir}/entity-manager/blacklist.json
    install -D -m 0644 ${UNPACKDIR}/example-board.json ${D}${datadir}/entity-manager/configurations/example-board.json
}
