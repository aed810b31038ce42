#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# user-manager.sh DAEMON CMD...: runs CMD beside a real `systemd --user` that has its own bus, in private mount and pid
# namespaces, with this repository's units, and acpi-stated.service running DAEMON. Ends with CMD's exit code.
# user-manager.sh --probe: only tries whether that is possible here, and says why not (exit 77).
#
# The user manager's bus stands for the system bus too: DBUS_SYSTEM_BUS_ADDRESS and DBUS_SESSION_BUS_ADDRESS are the same.
# What CMD finds in its environment: both, and
#   ACPI_UNITS  where the units lie: change them there, then `systemctl --user daemon-reload`
#   ACPI_LOGS   manager.log, and acpi-stated.log with what the service wrote
#
# Never a system manager: over a machine's own root it empties /tmp and renames network devices.
set -euo pipefail

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
self=$support/$(basename "${BASH_SOURCE[0]}")
systemd=/usr/lib/systemd/systemd
[ -x $systemd ] || systemd=/lib/systemd/systemd

fail() {
    echo "user-manager.sh: $*" >&2
    exit 77
}

# A cgroup of one's own, where one can be made: two managers in one cgroup would count each other's processes as theirs.
# In each hierarchy that systemd uses: the unified one, and name=systemd beside the v1 controllers.
own_cgroup() {
    local mount path own
    cgroups=()
    for mount in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        [ -e $mount/cgroup.procs ] || continue
        path=$(sed -n 's/^0:://p' /proc/self/cgroup)
        [ $mount != /sys/fs/cgroup/systemd ] || path=$(sed -n 's/^[0-9]*:name=systemd://p' /proc/self/cgroup)
        own=$mount${path%/}/acpi-stated-test-$$
        mkdir "$own" 2>/dev/null || continue
        cgroups+=("$own")
        echo $$ 2>/dev/null >"$own/cgroup.procs" || true
    done
}

leave_cgroup() {
    local own
    for own in "${cgroups[@]}"; do
        echo $$ 2>/dev/null >"$(dirname "$own")/cgroup.procs" || true
        # The kernel counts the last processes of the namespace for a moment after they are gone.
        for _ in $(seq 40); do
            find "$own" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$own" ] || break
            sleep 0.05
        done
    done
}

outside() {
    [ -x $systemd ] || fail "systemd is not installed (Debian: systemd, dbus-user-session)"
    [ -e /usr/lib/systemd/user/dbus.socket ] || fail "there is no bus for a user manager (Debian: dbus-user-session)"
    local namespaces=(--mount --pid --fork --mount-proc --kill-child)
    if [ "$(id -u)" != 0 ]; then
        if sudo -n true 2>/dev/null; then
            exec sudo -n env "ACPI_SCENARIO=${ACPI_SCENARIO:-}" "RUST_BACKTRACE=${RUST_BACKTRACE:-0}" bash "$self" "$@"
        fi
        namespaces+=(--user --map-root-user)
        unshare "${namespaces[@]}" true 2>/dev/null ||
            fail "private namespaces need root, or sudo without a password, or user namespaces and a cgroup of one's own"
    fi
    own_cgroup
    trap leave_cgroup EXIT
    local rc=0
    unshare "${namespaces[@]}" bash "$self" --inside "$@" || rc=$?
    exit $rc
}

install_units() {
    local unit=$ACPI_UNITS/acpi-stated.service.d
    mkdir -p "$unit" "$ACPI_UNITS/default.target.wants"
    install -m 644 "$support"/../../systemd/*.{service,target} "$ACPI_UNITS"
    # What `systemctl enable` would do; a user manager has no multi-user.target, and nothing is started before a test asks.
    ln -s acpi-stated.service "$ACPI_UNITS/acpi-power-state.service"
    # Of the sandbox, what needs a mount namespace is left out: the daemon, its bus and its state lie in /tmp, a home or
    # /run/u here. `./dev nspawn` has the unit as it is.
    cat >"$unit/10-test.conf" <<EOF
[Service]
ExecStart=
ExecStart=$daemon --bus session
ProtectSystem=no
ReadOnlyPaths=
ProtectHome=no
PrivateMounts=no
PrivateTmp=no
ProtectClock=no
ProtectControlGroups=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
PrivateNetwork=no
StandardOutput=append:$ACPI_LOGS/acpi-stated.log
StandardError=append:$ACPI_LOGS/acpi-stated.log
EOF
}

# A user manager logs to /dev/console, and only if that is a terminal. It is given one of its own.
console() {
    script --quiet --flush --command "tty >/run/u/tty && exec sleep infinity" "$ACPI_LOGS/manager.log" \
        >/dev/null 2>&1 </dev/null &
    for _ in $(seq 100); do
        [ ! -s /run/u/tty ] || break
        sleep 0.01
    done
    mount --bind "$(cat /run/u/tty)" /dev/console
}

inside() {
    daemon=$1
    shift
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /run
    # Without this directory a user manager ends at once and says nothing.
    mkdir -p /run/systemd/system
    mkdir -m 700 /run/u
    export XDG_RUNTIME_DIR=/run/u HOME=/run/u
    export DBUS_SESSION_BUS_ADDRESS=unix:path=/run/u/bus DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/u/bus
    export ACPI_UNITS=/run/u/systemd/user ACPI_LOGS=/run/u/logs
    unset XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME XDG_DATA_DIRS NOTIFY_SOCKET JOURNAL_STREAM
    mkdir -p "$ACPI_UNITS" "$ACPI_LOGS"
    # Not dbus-broker, should that be the machine's: it wants a journal.
    mkdir -p "$HOME/.config/systemd/user"
    ln -s /usr/lib/systemd/user/dbus.service "$HOME/.config/systemd/user/dbus.service"
    install_units
    console
    $systemd --user --log-target=console --log-level=info </dev/null &
    local manager=$! state=
    for _ in $(seq 200); do
        state=$(systemctl --user is-system-running 2>/dev/null || true)
        case $state in running | degraded) break ;; esac
        kill -0 $manager 2>/dev/null || break
        sleep 0.05
    done
    case $state in
    running | degraded) ;;
    *)
        cat "$ACPI_LOGS/manager.log" >&2
        fail "the user manager did not come up (${state:-no answer}); without root it needs a cgroup of its own"
        ;;
    esac
    "$@"
}

case ${1:-} in
--inside) shift && inside "$@" ;;
--probe) outside /bin/true true ;;
"" | -*) sed -n '4,14s/^# \{0,1\}//p' "$self" >&2 && exit 64 ;;
*) outside "$@" ;;
esac
