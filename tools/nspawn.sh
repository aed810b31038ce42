#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# nspawn.sh BINARY CACHE DOUBLE: installs what is shipped into a bare Debian, boots it under systemd in a container, and looks
# whether it does there what it is for: the package as a whole, with its units, sandbox and D-Bus policy as they are.
# Each line is one check, `ok` or `FAILED`; the exit code is 1 if one failed. Needs root, cgroup2, mmdebstrap, systemd-nspawn.
#
# It never touches the machine's own systemd: the container has its own root, cgroup, network and process names.
# CACHE keeps the bare root, so that only the first run fetches packages. DOUBLE is acpi-sim's acpi-board-double.
set -euo pipefail

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=$1 cache=$2 double=$3
suite=bookworm
# Both buses: OpenBMC ships dbus-broker, google's daemon was written on dbus-daemon.
packages=systemd,systemd-sysv,dbus,dbus-broker,udev,procps
name=xyz.openbmc_project.Control.Power.ACPIPowerState
object=/xyz/openbmc_project/control/host0/acpi_power_state
service=acpi-stated.service
transition=$(sed -n 's/^-- \([0-9a-f]\{32\}\)$/\1/p;T;q' "$source/systemd/acpi-stated.catalog")

fail() {
    echo "nspawn.sh: $*" >&2
    exit 70
}

# ---- the container

# What the bare root depends on is its name.
bare_root() {
    local key
    key=$(echo "$suite $packages" | sha256sum | cut -c1-12)
    bare=$cache/nspawn-$suite-$key.tar
    [ -e "$bare" ] && return
    echo "nspawn.sh: making a bare root, $bare" >&2
    mkdir -p "$cache"
    mmdebstrap --quiet --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --format=tar "$suite" "$bare.new" >&2
    mv "$bare.new" "$bare"
}

# One of our own, in each hierarchy that nspawn moves processes in: the container takes its cgroup for the whole machine.
own_cgroups() {
    local mount path
    unified=
    for mount in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        [ -e $mount/cgroup.procs ] || continue
        case $mount in
        */systemd) path=$(sed -n 's/^[0-9]*:name=systemd://p' /proc/self/cgroup) ;;
        *)
            path=$(sed -n 's/^0:://p' /proc/self/cgroup)
            unified=$mount
            ;;
        esac
        cgroups+=("$mount${path%/}/acpi-stated-nspawn-$$")
        mkdir "${cgroups[-1]}"
    done
    [ -n "$unified" ] || fail "no cgroup2 is mounted here"
}

work='' nspawn='' cgroups=()
clean_up() {
    local own
    stop_machine
    for own in "${cgroups[@]}"; do
        for _ in $(seq 40); do
            find "$own" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$own" ] || break
            sleep 0.05
        done
    done
    [ -z "$work" ] || rm -rf --one-file-system "$work"
}

new_root() {
    root=$work/$1
    mkdir "$root"
    tar -xf "$bare" -C "$root"
    # The same name at each boot, and nothing that waits for a network or a terminal.
    echo acpi-bench >"$root/etc/hostname"
    systemctl --quiet --root="$root" mask console-getty.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer
}

start_machine() {
    (
        local own
        for own in "${cgroups[@]}"; do echo $BASHPID >"$own/cgroup.procs"; done
        # bpf: in cgroup2 that is how systemd keeps a unit from devices and addresses.
        SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit \
            --private-network --system-call-filter=bpf --console=read-only --kill-signal=SIGRTMIN+4 \
            </dev/null >"$work/console" 2>&1
    ) &
    nspawn=$!
    local state
    for _ in $(seq 300); do
        # The process 1 of the container.
        leader=$(cat /proc/$nspawn/task/$nspawn/children 2>/dev/null) || fail "systemd-nspawn ended: $(cat "$work/console")"
        leader=${leader%% *}
        if [ -n "$leader" ]; then
            state=$(in_machine systemctl is-system-running 2>/dev/null || true)
            case $state in running | degraded) return ;; esac
        fi
        sleep 0.1
    done
    fail "the container did not come up: $(tail -n 40 "$work/console")"
}

stop_machine() {
    [ -n "$nspawn" ] || return 0
    kill "$nspawn" 2>/dev/null || true
    for _ in $(seq 200); do
        kill -0 "$nspawn" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    nspawn=
}

in_machine() {
    timeout --kill-after=5 30 nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup -- "$@"
}
as_nobody() { in_machine setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }

# ---- checks

passed=0 failed=0
# check WHAT COMMAND...: a line, and if it failed what COMMAND said.
check() {
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        | /' <<<"$said"
    fi
}

# within SECONDS COMMAND...: as soon as COMMAND succeeds.
within() {
    local until=$((SECONDS + $1)) said
    shift
    until said=$("$@" 2>&1); do
        if [ $SECONDS -gt $until ]; then
            echo "waited in vain for: $*"
            echo "$said"
            in_machine systemctl status --no-pager --lines=20 $service "host-*" || true
            return 1
        fi
        sleep 0.1
    done
}

not() { ! "$@"; }
silent() {
    local said
    said=$("$@" 2>&1) && [ -z "$said" ] || { echo "$said" && return 1; }
}
# refused WORDS COMMAND...: it fails and says WORDS (an extended regular expression).
refused() {
    local words=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "it was let through: $said"
        return 1
    fi
    echo "$said"
    grep -Eq "$words" <<<"$said"
}
show() { in_machine systemctl show --value --property "$1" "$2"; }
is() { [ "$(show "$1" "$2")" = "$3" ] || { show "$1" "$2" && return 1; }; }
active() { is ActiveState "$1" active; }
inactive() { is ActiveState "$1" inactive; }
pid() { show MainPID $service; }
set_state() { in_machine busctl set-property $name $object $name SysACPIStatus s "$name.ACPI.$1"; }
state_is() {
    local said
    said=$(in_machine busctl get-property $name $object $name SysACPIStatus)
    [ "$said" = "s \"$name.ACPI.$1\"" ] || { echo "$said" && return 1; }
}
only_target() {
    local state
    for state in 0 2 5; do
        if [ "$state" = "$1" ]; then
            active "host-s$state-state.target" && active "host-s$state-state@0.target" || return 1
        else
            inactive "host-s$state-state.target" && inactive "host-s$state-state@0.target" || return 1
        fi
    done
}
# lines FILE N: FILE in the machine has so many lines.
lines() {
    local n
    n=$(wc -l <"$root$1" 2>/dev/null) || n=0
    [ "$n" = "$2" ] || { echo "$1: $n lines" && return 1; }
}
remembers() { grep -q " $2 " "$root/$1" || { cat "$root/$1" && return 1; }; }
journal_says() { in_machine journalctl --no-pager --boot | grep "$1" >/dev/null; }
# redfish_says ID ARGUMENTS: as rsyslog reads it.
redfish_says() {
    in_machine journalctl --no-pager --output=cat --output-fields=REDFISH_MESSAGE_ARGS "REDFISH_MESSAGE_ID=$1" | grep -x "$2" >/dev/null
}
new_pid() {
    local now
    now=$(pid)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && active $service
}

# What each bus says when it lets no message through; the daemon's own words are others. busctl would hide both.
by_the_bus='Rejected send message|not authorized to send message'

# ---- what a board brings along

write() {
    mkdir -p "$(dirname "$root$1")"
    cat >"$root$1"
}

board_units() {
    # Fan failsafe at a state, as meta-quanta's gbs has it: one shot for each time that the state is entered.
    local state
    for state in 0 5; do
        write /usr/lib/systemd/system/board-s$state.service <<EOF2
[Unit]
Description=Something at S$state
PartOf=host-s$state-state.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo ran >>/var/log/board-s$state'
[Install]
WantedBy=host-s$state-state.target
EOF2
    done
    # Regulators that are exported while the OS runs, and must not be read when firmware has the platform.
    write /usr/lib/systemd/system/board-regulators.service <<'EOF2'
[Unit]
Description=Voltage regulators, re-exported
Conflicts=host-s2-state.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo export >>/var/log/board-regulators'
ExecStop=/bin/sh -c 'echo unexport >>/var/log/board-regulators'
[Install]
WantedBy=host-s0-state.target
EOF2
    # As OpenBMC's dbus-perms: everyone may own and send everything. Ours must hold beside it.
    write /usr/share/dbus-1/system.d/org.openbmc.conf <<'EOF2'
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy context="default"><allow own="*"/><allow send_destination="*"/></policy></busconfig>
EOF2
    # The mapper, power control and fan control.
    install -D -m 755 "$double" "$root/usr/local/lib/board-double"
    write /usr/lib/systemd/system/board-double.service <<<$'[Service]\nExecStart=/usr/local/lib/board-double'
    # What is ordered by the old unit's name.
    write /usr/lib/systemd/system/board-after@.service <<EOF2
[Unit]
Description=Ordered after the old name
After=acpi-power-state.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/busctl get-property $name $object $name SysACPIStatus
[Install]
WantedBy=multi-user.target
EOF2
    # In the place of ipmid: it must find the object when it starts.
    write /usr/lib/systemd/system/phosphor-ipmi-host.service <<EOF2
[Unit]
Description=What answers the host
After=dbus.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/busctl get-property $name $object $name SysACPIStatus
[Install]
WantedBy=multi-user.target
EOF2
    systemctl --quiet --root="$root" enable board-s0.service board-s5.service board-regulators.service board-after@0.service \
        phosphor-ipmi-host.service
}

# The daemon's sandbox with another program in it, that tries the fences: the unit as installed, but for what it runs.
probe_unit() {
    sed -e 's/^Type=.*/Type=oneshot/' -e 's|^ExecStart=.*|ExecStart=/bin/bash /usr/local/lib/probe|' \
        -e '/^WatchdogSec=/d;/^Restart/d;/^Alias=/d;/^WantedBy=/d;/^Before=/d;/^ExecStopPost=/d' \
        "$root/usr/lib/systemd/system/$service" | write /usr/lib/systemd/system/acpi-probe.service
    write /etc/systemd/system/acpi-probe.service.d/probe.conf <<'EOF2'
[Service]
# Not ours while a probe tries it.
StateDirectory=
StateDirectory=acpi-probe
RuntimeDirectory=
RuntimeDirectory=acpi-probe
# A class of devices that every kernel has stands for the two that this one may not have.
DeviceAllow=char-misc rw
StandardOutput=truncate:/var/log/probe
StandardError=inherit
EOF2
    mkdir -p "$root/home/somebody" "$root/usr/share/entity-manager"
    echo '{"buses": [3]}' >"$root/usr/share/entity-manager/blacklist.json"
    write /usr/local/lib/probe <<'EOF2'
# can NAME COMMAND..., cannot NAME COMMAND...: one line each
can() { local n=$1 s; shift; s=$("$@" 2>&1) && echo "yes $n" || echo "no $n: $s"; }
can write-state touch /var/lib/acpi-probe/x
can write-run touch /run/acpi-probe/x
can write-usr touch /usr/bin/x
can write-etc touch /etc/x
can write-var touch /var/lib/x
can write-run-elsewhere touch /run/x
can write-dev touch /dev/shm/x
can see-home test -e /home/somebody
can read-boot-id cat /proc/sys/kernel/random/boot_id
can read-sys ls /sys/bus /sys/class
can read-entity-manager cat /usr/share/entity-manager/blacklist.json
can reach-bus busctl --timeout=5 call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus GetId
can reach-journal bash -c 'echo probe | systemd-cat'
can tcp bash -c 'exec 3<>/dev/tcp/127.0.0.1/1'
can mount mount -t tmpfs none /tmp
can unshare unshare --mount true
can set-clock date -s 2001-01-01
can chown chown 1:1 /var/lib/acpi-probe/x
can raise-priority nice -n -5 true
can setuid-bit chmod u+s /var/lib/acpi-probe/x
can ptrace-syscall setpriv --reuid=1 true
can dev-allowed bash -c 'exec 3<>/dev/probe-misc'
can dev-other bash -c 'exec 3<>/dev/probe-other'
can dev-i2c bash -c 'exec 3<>/dev/i2c-3'
exit 0
EOF2
}
# char-rtc comes with ProtectClock=.
devices_are() {
    local said
    said=$(show DeviceAllow $service | tr ';' '\n' | sort | xargs)
    is DevicePolicy $service closed && [ "$said" = "$1" ] || { echo "$said" && return 1; }
}
could() { grep -qx "yes $1" "$root/var/log/probe" || { grep " $1" "$root/var/log/probe" && return 1; }; }
could_not() { grep -Eq "^no $1: .*${2:-}" "$root/var/log/probe" || { grep " $1" "$root/var/log/probe" && return 1; }; }

# ---- the tests

bare_machine() {
    echo "-- a bare root, dbus-broker"
    new_root bare
    check "it installs" "$source/tools/install.sh" --root "$root" --binary "$binary"
    board_units
    probe_unit
    check "it can be enabled" systemctl --quiet --root="$root" enable $service
    check "systemd-analyze security: exposure at most 1.5" \
        systemd-analyze security --offline=true --no-pager --threshold=15 "$root/usr/lib/systemd/system/$service"
    systemctl --quiet --root="$root" enable dbus-broker.service
    install -D -m 644 "$source/examples/ast2600-one-socket.json" "$root/etc/acpi-stated/config.json"
    in_root journalctl --update-catalog
    start_machine
    check "the machine is running, no unit has failed" in_machine systemctl is-system-running
    check "the bus is dbus-broker" active dbus-broker.service
    check "systemctl status: active" in_machine systemctl status --no-pager $service
    check "READY came from the daemon, and its status text with it" \
        grep -q '^host0 Unknown' <(show StatusText $service)
    check "systemd-analyze verify is silent" silent in_machine systemd-analyze verify --man=no $service \
        acpi-power-state.service host-s{0,2,5}-state.target host-s{0,2,5}-state@0.target
    check "it says that fru-device may scan a guarded bus" grep -q UnguardedBus <(show StatusText $service)
    check "what answers IPMI starts when the object is there" active phosphor-ipmi-host.service
    check "so does what is ordered after acpi-power-state.service" active board-after@0.service
    check "acpi-power-state.service is the daemon" is Id acpi-power-state.service $service
    sets_and_gets
    targets
    check "the state is on storage" within 30 remembers var/lib/acpi-stated/host0 S0_G0_D0
    check "and in memory" in_machine grep -q ' S0_G0_D0 ' /run/acpi-stated/host0
    check "a transition is in the journal, with its explanation" \
        grep -q 'left Unknown for S5_G2' <(in_machine journalctl --no-pager --catalog MESSAGE_ID="$transition")
    sandbox
    crashes
    stop_machine
}

in_root() { chroot "$root" "$@"; }

sets_and_gets() {
    check "root may Set" set_state S5_G2
    check "and reads it back" state_is S5_G2
    check "nobody may Get" as_nobody busctl get-property $name $object $name SysACPIStatus
    check "nobody may look at everything" as_nobody busctl introspect $name $object
    check "nobody may not Set: refused by the bus" refused "$by_the_bus" \
        as_nobody dbus-send --system --print-reply --dest=$name $object org.freedesktop.DBus.Properties.Set \
        string:$name string:SysACPIStatus variant:string:$name.ACPI.S0_G0_D0
    check "and the state is untouched" state_is S5_G2
    check "nobody may not own the name" refused 'Access denied|not allowed to own|AccessDenied|not authorized' as_nobody busctl call \
        org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus RequestName su $name 0
}

targets() {
    check "S5 has its targets, and only them" within 5 only_target 5
    check "a unit of S5 has run" within 5 lines /var/log/board-s5 1
    set_state S2_D2
    check "S2 has its targets, and only them" within 5 only_target 2
    set_state S0_G0_D0
    check "S0 has its targets, and only them" within 5 only_target 0
    check "a unit of S0 has run" within 5 lines /var/log/board-s0 1
    check "the regulators are exported in S0" within 5 lines /var/log/board-regulators 1
    set_state S2_D2
    check "they are taken back in S2, by Conflicts= alone" within 5 lines /var/log/board-regulators 2
    check "and are not active then" within 5 inactive board-regulators.service
    set_state S0_G0_D0
    check "exported again in the next S0" within 5 lines /var/log/board-regulators 3
    check "the unit of S0 has run again" within 5 lines /var/log/board-s0 2
    set_state S5_G2
    set_state S0_G0_D0
    check "after a S5 that was short, S0 has its targets" within 5 only_target 0
}

sandbox() {
    local main
    main=$(pid)
    check "the daemon has no capability" not grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):.*[1-9a-f]' <(in_machine cat "/proc/$main/status")
    check "and cannot gain any" grep -q $'^NoNewPrivs:\t1' <(in_machine cat "/proc/$main/status")
    check "its system calls are filtered" grep -q $'^Seccomp:\t2' <(in_machine cat "/proc/$main/status")
    check "of devices it may open I2C buses and GPIO lines" devices_are 'char-gpiochip rw char-i2c rw char-rtc r'
    # Nodes of a class that is allowed to the probe, of one that is not, and of the one that the daemon is for.
    in_machine mknod /dev/probe-misc c 10 1
    in_machine mknod /dev/probe-other c 1 4
    in_machine mknod /dev/i2c-3 c 89 3
    check "the probe runs in the daemon's sandbox" in_machine systemctl start acpi-probe.service
    check "it writes its state" could write-state
    check "it writes to memory" could write-run
    check "it reads the boot id" could read-boot-id
    check "it reads /sys" could read-sys
    check "it reads entity-manager's blacklist" could read-entity-manager
    check "it reaches the bus" could reach-bus
    check "it reaches the journal" could reach-journal
    check "it cannot write to /usr" could_not write-usr 'Read-only'
    check "nor to /etc" could_not write-etc 'Read-only'
    check "nor elsewhere in /var" could_not write-var 'Read-only'
    check "nor elsewhere in /run" could_not write-run-elsewhere 'Read-only'
    check "nor in /dev" could_not write-dev 'Read-only'
    check "it sees no home" could_not see-home
    check "it has no TCP" could_not tcp 'not supported'
    check "it cannot mount" could_not mount "permission denied|not permitted"
    check "it cannot make namespaces" could_not unshare 'not permitted'
    check "it cannot set the clock" could_not set-clock 'not permitted'
    check "it cannot give files away" could_not chown 'not permitted'
    check "it cannot make a file setuid" could_not setuid-bit 'not permitted'
    check "it cannot change its user" could_not ptrace-syscall 'not permitted'
    check "a device class that is allowed is let through" not grep -q 'dev-allowed: .*not permitted' "$root/var/log/probe"
    check "one that is not is refused by the device policy" could_not dev-other 'not permitted'
    if grep -qw i2c /proc/devices; then
        check "/dev/i2c-3 is let through" not grep -q 'dev-i2c: .*not permitted' "$root/var/log/probe"
    else
        echo "note    this machine's kernel knows no I2C devices: char-i2c itself is not checked here"
    fi
}

fans_are() {
    [ "$(in_machine busctl get-property xyz.openbmc_project.State.FanCtrl /xyz/openbmc_project/settings/fanctrl/zone0 \
        xyz.openbmc_project.Control.Mode Manual)" = "b $1" ]
}
double_saw() { in_machine journalctl --no-pager -o cat -u board-double | grep -x "$1" >/dev/null; }

crashes() {
    local before
    before=$(pid)
    in_machine kill -KILL "$before"
    check "kill -9: systemd starts it again" within 10 new_pid "$before"
    check "and it serves" within 5 set_state S2_D2
    check "and remembers again" within 30 remembers var/lib/acpi-stated/host0 S2_D2

    # It dies while it holds fans: ExecStopPost gives them back, and the next life takes them again.
    in_machine systemctl start board-double.service
    check "in POST it holds the fans" within 10 fans_are true
    before=$(pid)
    in_machine kill -KILL "$before"
    check "kill -9 while it holds fans: they are given back" within 10 double_saw Manual=false
    check "and it is started again" within 10 new_pid "$before"
    check "and holds them again, since the host is in POST" within 20 fans_are true
    in_machine systemctl stop $service
    check "a daemon that is stopped gives the fans back" within 10 fans_are false
    in_machine systemctl stop board-double.service
    in_machine systemctl start $service
    set_state S2_D2

    # The watchdog as shipped, but for the time.
    write /etc/systemd/system/$service.d/watchdog.conf <<<$'[Service]\nWatchdogSec=2'
    in_machine systemctl daemon-reload
    in_machine systemctl restart $service
    before=$(pid)
    sleep 5
    check "it feeds the watchdog, from within the sandbox" is MainPID $service "$before"
    in_machine kill -STOP "$before"
    check "when it hangs, the watchdog has it started again" within 15 new_pid "$before"
    rm -r "$root/etc/systemd/system/$service.d"
    in_machine systemctl daemon-reload

    before=$(pid)
    in_machine systemctl stop $service
    check "SIGTERM ends it with success" is Result $service success
    echo '{ "hosts": [{ "id": 0, "nonsense": 1 }] }' >"$root/etc/acpi-stated/config.json"
    check "a configuration that cannot be used is refused" not in_machine systemctl start $service
    check "with exit code 78" is ExecMainStatus $service 78
    sleep 1.5
    check "and is not tried again" is NRestarts $service 0
    rm "$root/etc/acpi-stated/config.json"
    in_machine systemctl reset-failed
    # What the machine's rsyslog takes for bmcweb: a field of the journal's, so only a real journal shows it.
    echo '{ "hosts": [{ "id": 0 }], "events": { "redfish": true } }' >"$root/etc/acpi-stated/config.json"
    in_machine systemctl start $service
    set_state S0_G0_D0
    check "a transition is a Redfish event record, with the arguments of its message" within 5 redfish_says \
        ResourceEvent.1.0.ResourceStateChanged /redfish/v1/Systems/system,S0_G0_D0
    in_machine systemctl stop $service
    rm "$root/etc/acpi-stated/config.json"
    # A rival with all of root's powers, which a process without them cannot look into unless /proc is left open.
    write /usr/lib/systemd/system/rival.service <<<$'[Service]\nType=notify\nExecStart=/usr/bin/acpi-stated --state-dir /tmp/rival'
    in_machine systemctl daemon-reload
    in_machine systemctl start rival.service
    check "while another owns the name, it does not start" not in_machine systemctl start $service
    # Of the whole journal: journald may not learn any more which unit it was that had so little to say.
    check "the journal says who that is, and what to do" within 5 journal_says 'systemctl disable --now rival.service'
    in_machine systemctl stop rival.service
    check "when the other is gone, it starts by itself" within 10 active $service
}

# google's package: one unit and two targets that exclude each other.
old_package() {
    write /usr/lib/systemd/system/acpi-power-state.service <<'EOF2'
[Unit]
Description=The daemon that was there before
[Service]
Type=simple
Restart=always
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
EOF2
    write /usr/lib/systemd/system/host-s0-state.target <<<$'[Unit]\nDescription=Old S0\nConflicts=host-s5-state.target'
    write /usr/lib/systemd/system/host-s5-state.target <<<$'[Unit]\nDescription=Old S5\nConflicts=host-s0-state.target'
    systemctl --quiet --root="$root" enable acpi-power-state.service
}

upgrades() {
    echo "-- an upgrade over google's package, while it runs; dbus-daemon"
    new_root upgraded
    systemctl --quiet --root="$root" disable dbus-broker.service
    old_package
    board_units
    # Without the object, these two fail; they are not what is looked at before the upgrade.
    systemctl --quiet --root="$root" disable phosphor-ipmi-host.service board-after@0.service
    start_machine
    check "the bus is dbus-daemon" is Id dbus.service dbus.service
    check "the old daemon runs" is Description acpi-power-state.service "The daemon that was there before"
    in_machine systemctl start host-s0-state.target
    check "under the old target, the board's unit has run" within 5 lines /var/log/board-s0 1
    # What a package manager does: stop the old one, put the new files there, start.
    in_machine systemctl stop acpi-power-state.service
    rm "$root/usr/lib/systemd/system/acpi-power-state.service"
    check "the new files" "$source/tools/install.sh" --root "$root" --binary "$binary"
    in_machine systemctl daemon-reload
    in_machine systemctl enable --quiet $service
    check "the bus has read the new policy" in_machine busctl call org.freedesktop.DBus /org/freedesktop/DBus \
        org.freedesktop.DBus ReloadConfig
    check "it starts" in_machine systemctl start $service
    check "the old unit's name is the new daemon" is Id acpi-power-state.service $service
    check "restarting the old name restarts it" in_machine systemctl restart acpi-power-state.service
    sets_and_gets
    check "S5 has its targets, and only them: the old S0 is gone" within 5 only_target 5
    check "the board's unit of S5 has run" within 5 lines /var/log/board-s5 1
    set_state S2_D2
    check "S2 ends S5, which the old targets did not know" within 5 only_target 2
    stop_machine
    # Whether the old links in /etc hurt.
    systemctl --quiet --root="$root" enable phosphor-ipmi-host.service board-after@0.service
    start_machine
    check "after a reboot the machine is running, no unit has failed" in_machine systemctl is-system-running
    check "and the daemon" active $service
    check "ordered by the old name" active board-after@0.service
    stop_machine

    echo "-- a new image over an old /etc: nothing enabled it but the old daemon's link"
    new_root image
    old_package
    rm "$root"/usr/lib/systemd/system/{acpi-power-state.service,host-s0-state.target,host-s5-state.target}
    "$source/tools/install.sh" --root "$root" --binary "$binary"
    start_machine
    check "the old link starts the new daemon" active $service
    check "no unit has failed" in_machine systemctl is-system-running
    check "root may Set" set_state S0_G0_D0
    check "S0 has its targets" within 5 only_target 0
    stop_machine

    echo "-- and back: the new one is disabled, then an old image over our /etc"
    systemctl --quiet --root="$root" enable $service
    systemctl --quiet --root="$root" disable $service
    rm "$root"/usr/lib/systemd/system/{acpi-stated.service,acpi-power-state.service,host-s*} "$root/usr/bin/acpi-stated"
    old_package
    start_machine
    check "the old daemon runs" is Description acpi-power-state.service "The daemon that was there before"
    check "and is active" active acpi-power-state.service
    stop_machine
}

# ---- the package for the host

message() { sed -n "s/^$1 //p" "$source/host/messages.txt"; }

# told STATE...: what the BMC was told since the machine's root was made. A Get tells it nothing.
told() {
    local state wanted=
    for state; do wanted+=$(message "$state")$'\n'; done
    diff <(printf %s "$wanted") <(grep -vx "$(message Get)" "$root/var/log/ipmitool")
}

ended() {
    for _ in $(seq 300); do
        kill -0 "$nspawn" 2>/dev/null || return 0
        sleep 0.1
    done
    return 1
}

# Without a unit of its own, systemd-nspawn ends at a reboot, and leaves the next boot to who started it.
restart_by() {
    in_machine "$@" || true
    check "it ends by: $*" ended
    start_machine
}

# A shutdown by systemd-shutdown itself, which is what runs the hook; in a container as on a machine.
host_package() {
    echo "-- the package for the host, on a machine that is shut down in all ways"
    new_root host
    check "it installs" env DESTDIR="$root" "$source/host/install.sh"
    write /usr/local/bin/ipmitool <<<$'#!/bin/sh\necho "$*" >>/var/log/ipmitool\necho " 00 00"'
    chmod 755 "$root/usr/local/bin/ipmitool"
    systemctl --quiet --root="$root" enable acpi-state-host.service
    start_machine
    check "the machine is running, no unit has failed" in_machine systemctl is-system-running
    check "systemd-analyze verify is silent" silent in_machine systemd-analyze verify --man=no \
        acpi-state-host.service acpi-state-host-check.service acpi-state-host-check.timer
    check "a boot says S0" within 5 told S0
    check "the timer runs" active acpi-state-host-check.timer
    in_machine systemctl start acpi-state-host-check.service
    check "a check asks" grep -qx "$(message Get)" "$root/var/log/ipmitool"
    check "and tells nothing to a BMC that knows" told S0
    restart_by systemctl reboot
    check "a reboot says S2, and the next boot S0" within 5 told S0 S2 S0
    restart_by systemctl reboot --force
    check "so does one that stops no unit" within 5 told S0 S2 S0 S2 S0
    # In a container systemd-shutdown has the manager above restart it. Up to there it is a kexec.
    restart_by systemctl start --job-mode=replace-irreversibly --no-block kexec.target
    check "a kexec says nothing, and the next boot S0" within 5 told S0 S2 S0 S2 S0 S0
    in_machine systemctl poweroff || true
    check "a poweroff ends the machine" ended
    check "and says S5" told S0 S2 S0 S2 S0 S0 S5
    rm "$root/var/log/ipmitool"
    start_machine
    check "S0 again" within 5 told S0
    in_machine systemctl halt || true
    check "a halt ends the machine" ended
    check "and says nothing" told S0
    start_machine
    check "S0 again" within 5 told S0 S0
    in_machine systemctl disable --quiet --now acpi-state-host.service
    restart_by systemctl reboot
    check "where the service is disabled, a reboot says nothing" told S0 S0
    # An ipmitool that neither answers nor ends when it is asked to.
    systemctl --quiet --root="$root" enable acpi-state-host.service
    write /usr/local/bin/ipmitool <<<$'#!/bin/sh\ntrap "" TERM\necho "$*" >>/var/log/ipmitool\nsleep 1000 </dev/null >/dev/null 2>&1'
    write /etc/acpi-state-host.conf <<<'IPMITOOL_TIMEOUT=1'
    restart_by systemctl reboot
    check "a machine whose ipmitool hangs is running, no unit has failed" in_machine systemctl is-system-running
    local before=$SECONDS
    in_machine systemctl poweroff || true
    check "a poweroff ends it too" ended
    check "within 15 s" [ $((SECONDS - before)) -lt 15 ]
    check "S5 was tried twice" [ "$(grep -cx "$(message S5)" "$root/var/log/ipmitool")" = 2 ]
    stop_machine
}

[ "$EUID" = 0 ] || fail "this needs root"
[ -c /dev/null ] || fail "/dev/null is not a device"
trap clean_up EXIT
own_cgroups
bare_root
work=$(mktemp -d "${TMPDIR:-/tmp}/acpi-nspawn.XXXXXX")
began=$SECONDS
bare_machine
upgrades
host_package
outcome=ok
[ $failed = 0 ] || outcome=FAILED
echo "test result: $outcome. $passed passed; $failed failed; in $((SECONDS - began)) s"
[ $failed = 0 ]
