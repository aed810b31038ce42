#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# install.sh [--uninstall]: puts the package where systemd looks for it, below DESTDIR. Enables nothing, starts nothing.
# From the environment:
#
#   DESTDIR       root of an image, or of a package (default: this machine)
#   PREFIX        default /usr
#   UNITDIR       default PREFIX/lib/systemd/system
#   SHUTDOWNDIR   default /usr/lib/systemd/system-shutdown, the only place where systemd looks for hooks
set -eu

source=$(cd "$(dirname "$0")" && pwd)
DESTDIR=${DESTDIR:-} PREFIX=${PREFIX:-/usr}
UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system} SHUTDOWNDIR=${SHUTDOWNDIR:-/usr/lib/systemd/system-shutdown}
doc=$PREFIX/share/doc/acpi-state-host

# put MODE FILE DIRECTORY: with our own paths in place of /usr's.
put() {
    mkdir -p "$DESTDIR$3"
    sed "s|/usr/sbin/acpi-state-host|$PREFIX/sbin/acpi-state-host|; s|/usr/share/doc/|$PREFIX/share/doc/|" \
        "$source/$2" >"$DESTDIR$3/$2"
    chmod "$1" "$DESTDIR$3/$2"
}
# all COMMAND: for each file of the package.
all() {
    "$1" 755 acpi-state-host "$PREFIX/sbin"
    for unit in acpi-state-host.service acpi-state-host-check.service acpi-state-host-check.timer; do
        "$1" 644 $unit "$UNITDIR"
    done
    "$1" 755 acpi-state-host.shutdown "$SHUTDOWNDIR"
    "$1" 644 README.md "$doc"
}
remove() { rm -f "$DESTDIR$3/$2"; }

case ${1:-} in
'') all put ;;
--uninstall)
    all remove
    rmdir "$DESTDIR$doc" 2>/dev/null || true
    ;;
*)
    sed -n '4,11s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
