#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# install.sh --root DIR --binary FILE... [--prefix DIR] [--etc-dir DIR] [--unit-dir DIR] [--doc-dir DIR]: puts what is shipped where OpenBMC
# looks for it, below --root (`/` for this machine). The one list of what is shipped: `./dev install`, the recipe and the
# tests all use it. Builds nothing, enables nothing, starts nothing; writes nowhere but below --root.
#
#   --binary    a program to install, by its own name; may be repeated
#   --prefix    default /usr
#   --etc-dir   default /etc
#   --unit-dir  default PREFIX/lib/systemd/system
#   --doc-dir   default PREFIX/share/doc/acpi-stated
set -euo pipefail

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

wrong() {
    echo "install.sh: $*" >&2
    exit 64
}

root='' prefix=/usr etc_dir=/etc unit_dir='' doc_dir='' binaries=()
while [ $# != 0 ]; do
    case $1 in
    --root | --binary | --prefix | --etc-dir | --unit-dir | --doc-dir)
        [ $# -ge 2 ] && [ -n "$2" ] || wrong "$1 needs a value"
        case $1 in
        --root) root=$2 ;;
        --binary) binaries+=("$2") ;;
        --prefix) prefix=${2%/} ;;
        --etc-dir) etc_dir=${2%/} ;;
        --unit-dir) unit_dir=${2%/} ;;
        --doc-dir) doc_dir=${2%/} ;;
        esac
        shift 2
        ;;
    -h | --help) sed -n '4,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    *) wrong "what is $1?" ;;
    esac
done
[ -n "$root" ] || wrong "--root DIR is missing (/ is this machine)"
[ ${#binaries[@]} != 0 ] || wrong "--binary FILE is missing"
for path in "$prefix" "$etc_dir" "$unit_dir" "$doc_dir"; do
    case $path in
    '' | /*) ;;
    *) wrong "$path: not an absolute path" ;;
    esac
done
for binary in "${binaries[@]}"; do
    [ -f "$binary" ] || wrong "$binary: no such file"
done
unit_dir=${unit_dir:-$prefix/lib/systemd/system}
doc_dir=${doc_dir:-$prefix/share/doc/acpi-stated}
root=${root%/}

for binary in "${binaries[@]}"; do
    install -D -m 755 "$binary" "$root$prefix/bin/$(basename "$binary")"
done
for unit in "$source"/systemd/*.service "$source"/systemd/*.target; do
    install -D -m 644 "$unit" "$root$unit_dir/$(basename "$unit")"
done
[ "$prefix" = /usr ] || sed -i "s|^\(Exec[A-Za-z]*=-\{0,1\}\)/usr/bin/|\1$prefix/bin/|" "$root$unit_dir"/acpi-stated.service
# Units that are ordered by the replaced daemon's name find this one, enabled or not; a link of an earlier
# `systemctl enable acpi-power-state.service` starts it.
ln -sfn acpi-stated.service "$root$unit_dir/acpi-power-state.service"
# In /etc, which both buses read after /usr/share: there OpenBMC's dbus-perms allows everyone everything, and the last rule
# counts. Within one directory they read in no order at all.
for policy in "$source"/dbus/*.conf; do
    install -D -m 644 "$policy" "$root$etc_dir/dbus-1/system.d/$(basename "$policy")"
done
install -D -m 644 "$source/systemd/acpi-stated.catalog" "$root$prefix/lib/systemd/catalog/acpi-stated.catalog"
for file in "$source"/examples/*.json "$source/docs/config.schema.json"; do
    install -D -m 644 "$file" "$root$doc_dir/$(basename "$file")"
done
