# SPDX-License-Identifier: Apache-2.0
# `./dev armv7` and `./dev qemu`. Sourced by ./dev; needs its root, say, die, need, need_rust, as_root, ACPI_CACHE.

# shellcheck source-path=SCRIPTDIR
. "$root/qemu/packages.sh"
. "$root/qemu/cross.sh"
. "$root/qemu/image.sh"

# What was built of what, one "name version" a line.
versions_used() {
    local name
    echo "kernel linux-image-armmp $kernel_version"
    for name in rustc-web gcc-arm-linux-gnueabihf libc6; do
        sed -n "s/^$name [^ ]* \(.*\)/$name \1/p" "$cross.packages" | head -n1
    done
    if [ -n "${guest:-}" ]; then
        for name in systemd dbus; do sed -n "s/^$name [^ ]* \(.*\)/$name \1/p" "$guest/packages"; done
        echo "qemu $(qemu-system-arm --version | sed -n '1s/.*version //p')"
    fi
    name=$(git -C "$root" describe --always --dirty 2>/dev/null) || name=unknown
    echo "acpi-stated $name, $(stat -c %s "$daemon") bytes"
}

# armv7 [--all]: with it also the search through all reachable states, half an hour in user mode emulation.
run_armv7() {
    local skip=(--skip logic::machine::reachability)
    case ${1:-} in
    --all) skip=() ;;
    ?*) die "./dev armv7 [--all]" ;;
    esac
    # Installed, it would have the machine's kernel run armv7 programs by itself.
    need_unpacked qemu-arm-static:qemu-user-static
    need dbus-daemon:dbus busctl:systemd timeout:coreutils git:git
    cross_root
    build_daemon
    versions_used
    echo "armv7 $(cross_size "$daemon")"
    echo "armv7 $(in_cross "$(dirname "$daemon")=/target" -- arm-linux-gnueabihf-readelf -A /target/acpi-stated |
        sed -n 's/^ *Tag_\(CPU_arch\|FP_arch\|ABI_VFP_args\): /\1 /p' | paste -sd,)"
    test_armv7_logic
    test_armv7_bus
    say "armv7: done"
}

# size [--by-crate]: what the binary weighs; with it also bare zbus, and what of it each crate is. Limits: docs/performance.md.
run_size() {
    local program most=1500000 bytes
    case ${1:-} in
    '' | --by-crate) ;;
    *) die "./dev size [--by-crate]" ;;
    esac
    need xz:xz-utils
    cross_root
    build_daemon
    if [ -n "${1:-}" ]; then
        need python3:python3
        cross_cargo build --quiet --release --locked --target "$armv7_target" -p acpi-bench --examples >&2 ||
            die "they do not build"
        for program in empty bare_tokio bare_zbus; do
            echo "$program: $(cross_size "$ACPI_CACHE/armv7/$armv7_target/release/examples/$program")"
        done
        # With names, to be told apart by crate. In a directory of its own: it is not what ships.
        symbols=false cross_cargo build --quiet --release --locked --target "$armv7_target" --target-dir /target/symbols \
            -p acpi-stated >&2 || die "it does not build with symbols"
        size_by_crate "$ACPI_CACHE/armv7/symbols/$armv7_target/release/acpi-stated"
    fi
    bytes=$(stat -c %s "$daemon")
    echo "acpi-stated, armv7: $(cross_size "$daemon"); limit $most bytes"
    [ "$bytes" -le "$most" ] || die "the daemon is $((bytes - most)) bytes over its limit"
}

size_by_crate() {
    in_cross "$(dirname "$1")=/target" -- arm-linux-gnueabihf-nm -S -C "/target/$(basename "$1")" | python3 "$root/tools/size.py"
}

cross_size() { echo "$(stat -c %s "$1") bytes, $(xz -9e -c "$1" | wc -c) as xz"; }

# The tests of logic/ as armv7 code, in QEMU's user mode.
test_armv7_logic() {
    local program began=$SECONDS out=$ACPI_CACHE/armv7/tests.log
    say "building the tests of logic/ for armv7"
    program=$(cross_cargo test --quiet --locked --target "$armv7_target" -p acpi-stated --lib --no-run \
        --message-format=json | sed -n 's/.*"executable":"\/target\/\([^"]*\)".*/\1/p') || die "the tests do not build for armv7"
    [ -n "$program" ] || die "cargo names no test program"
    say "running them (built in $((SECONDS - began)) s)"
    began=$SECONDS
    (cd "$root" && timeout 3600 qemu-arm-static -L "$cross" "$ACPI_CACHE/armv7/$program" logic:: "${skip[@]}" \
        --test-threads 2) >"$out" 2>&1 || {
        tail -n 40 "$out" >&2
        die "tests of logic/ fail on armv7"
    }
    grep '^test result' "$out"
    grep -q '^test result: ok. [1-9]' "$out" || die "no test of logic/ was run"
    [ ${#skip[@]} = 0 ] || echo "armv7: not run here: logic::machine::reachability (./dev armv7 --all)"
    say "they took $((SECONDS - began)) s"
}

# The shipped binary on a real bus: a Set is obeyed, garbage is refused, SIGTERM ends it well.
test_armv7_bus() {
    local work bus name=xyz.openbmc_project.Control.Power.ACPIPowerState
    local path=/xyz/openbmc_project/control/host0/acpi_power_state
    local value state pids=() failed=
    work=$(mktemp -d)
    bus=unix:path=$work/bus
    cat >"$work/bus.conf" <<CONF
<busconfig><type>session</type><listen>$bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow own="*"/><allow eavesdrop="true"/></policy></busconfig>
CONF
    dbus-daemon --config-file="$work/bus.conf" --nofork --nopidfile &
    pids+=($!)
    for _ in $(seq 100); do
        [ ! -S "$work/bus" ] || break
        sleep 0.1
    done
    qemu-arm-static -L "$cross" "$daemon" --bus "$bus" --config "$root/examples/ast2600-one-socket.json" \
        --state-dir "$work/state" 2>"$work/log" &
    pids+=($!)
    ask() { timeout 20 busctl --address="$bus" "$@"; }
    for _ in $(seq 200); do
        ! ask status $name >/dev/null 2>&1 || break
        sleep 0.1
    done
    for state in S2_D2 S0_G0_D0 S5_G2; do
        ask set-property $name $path $name SysACPIStatus s "$name.ACPI.$state" || failed="Set $state"
        value=$(ask get-property $name $path $name SysACPIStatus) || failed="Get after $state"
        [ "$value" = "s \"$name.ACPI.$state\"" ] || failed="after Set $state it is $value"
    done
    ! ask set-property $name $path $name SysACPIStatus s garbage 2>/dev/null || failed="garbage was accepted"
    ask get-property $name $path $name.Tracker GateOpen GateReasons Cause || failed="Tracker"
    kill -TERM "${pids[1]}" || failed="it was gone before SIGTERM"
    for _ in $(seq 100); do
        kill -0 "${pids[1]}" 2>/dev/null || break
        sleep 0.1
    done
    wait "${pids[1]}" || failed="SIGTERM: exit code $?"
    kill "${pids[0]}" && wait "${pids[0]}" || true
    if [ -n "$failed" ]; then
        tail -n 20 "$work/log" >&2
        rm -rf "$work"
        die "armv7 on D-Bus: $failed"
    fi
    rm -rf "$work"
    echo "armv7 on D-Bus: S2, S0 and S5 set and read, garbage refused, SIGTERM obeyed"
}

# build_machine OUT gated|ungated CONFIG: all that the harness boots, in OUT/image.
build_machine() {
    # Installed, it removes the tools of another version of QEMU.
    need_unpacked qemu-system-arm:qemu-system-arm
    need python3:python3 fdtput:device-tree-compiler cpio:cpio /usr/sbin/depmod:kmod \
        /usr/sbin/mke2fs:e2fsprogs git:git
    PATH=$PATH:/usr/sbin:/sbin
    (cd "$root/qemu/harness" && python3 -B test_judge.py 2>&1 | tail -n 3 >&2) || die "the judge is not to be trusted"
    cross_root
    build_daemon
    build_guest_parts
    guest_base
    mkdir -p "$1"
    guest_image "$1/image" "$2" "$3"
}

# The kernel's I2C as the daemon meets it: registers, absent devices, drivers that have an address, a bus that comes late.
run_i2c() {
    local out=${1:-$root/target/i2c}
    build_machine "$out" gated "$root/qemu/guest/registers.json"
    versions_used
    python3 -B "$root/qemu/harness/registers.py" --image "$out/image" --out "$out"
}

run_qemu() {
    local kind=gated out=$root/target/qemu config argument arguments=() wants_out=
    for argument; do
        if [ -n "$wants_out" ]; then
            out=$argument wants_out=
            continue
        fi
        case $argument in
        --ungated) kind=ungated arguments+=("$argument") ;;
        --out) wants_out=1 ;;
        --out=*) out=${argument#--out=} ;;
        -h | --help) exec python3 -B "$root/qemu/harness" --image '' --config '' --help ;;
        *) arguments+=("$argument") ;;
        esac
    done
    [ -z "$wants_out" ] || die "--out needs a directory"
    config=$root/qemu/guest/config.json
    build_machine "$out" "$kind" "$config"
    versions_used
    python3 -B "$root/qemu/harness" --image "$out/image" --config "$config" --versions "$(versions_used)" \
        --out "$out" "${arguments[@]}"
}
