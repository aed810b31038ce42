# SPDX-License-Identifier: Apache-2.0
# The armhf cross toolchain: Debian's own compilers in a root of their own; the daemon, the guest's tools and kernel
# modules built in it. Sourced after packages.sh. Owns: $ACPI_CACHE/cross-*, $ACPI_CACHE/vendor-*, $ACPI_CACHE/armv7.

cross_packages=(rustc-web cargo-web libstd-rust-web-dev:armhf gcc-arm-linux-gnueabihf libc6-dev:armhf libsystemd-dev:armhf
    ca-certificates make xz-utils)
armv7_target=armv7-unknown-linux-gnueabihf
# As the recipe in yocto/ has them: Thumb code is a quarter smaller, and pages of 4 KiB need no padding to 64.
armv7_flags="-Ctarget-feature=+thumb-mode -Clink-arg=-Wl,-z,max-page-size=4096"

# Makes the root if that of these versions is not in the cache; sets $cross, $kernel_version, $kernel_release.
cross_root() {
    local plan image key began=$SECONDS
    debian_index
    kernel_version=$(debian_version linux-image-armmp:armhf)
    image=$(debian_apt apt-cache depends linux-image-armmp:armhf | sed -n 's/^ *Depends: \(linux-image-[^:]*\).*/\1/p')
    kernel_release=${image#linux-image-}
    [ -n "$kernel_release" ] || die "linux-image-armmp of $suite names no kernel"
    plan=$(debian_plan "${cross_packages[@]}")
    key=$(printf '%s\n' "$plan" "linux $kernel_version" | key_of)
    cross=$ACPI_CACHE/cross-$key
    if [ ! -e "$cross.done" ]; then
        as_root rm -rf --one-file-system "$cross"
        say "making the cross root of $(wc -l <<<"$plan") packages of $suite"
        # Not a run of apt's on this machine: mmdebstrap has its own directories.
        as_root mmdebstrap --quiet --variant=apt --architectures=amd64,armhf \
            --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
            --include="$(IFS=,; echo "${cross_packages[*]}")" "$suite" "$cross" "$mirror" >&2 ||
            die "the cross root cannot be made (mmdebstrap)"
        local file
        for file in $(debian_get "linux-headers-$kernel_release:armhf=$kernel_version" \
            "linux-headers-${kernel_release%-armmp}-common:all=$kernel_version" \
            "linux-kbuild-${kernel_release%-armmp}:amd64=$kernel_version"); do
            as_root dpkg-deb -x "$file" "$cross"
        done
        printf '%s\n' "$plan" >"$cross.packages"
        touch "$cross.done"
        say "the cross root took $((SECONDS - began)) s"
    fi
}

# in_cross DIR=PLACE... -- COMMAND...: runs it in the root, with these directories in these places.
in_cross() {
    local binds=()
    while [ "$1" != -- ]; do
        binds+=("$1")
        shift
    done
    shift
    as_root unshare -m bash -euc '
        root=$1 count=$2
        shift 2
        mount --make-rprivate /
        for ((i = 0; i < count; i++)); do
            mkdir -p "$root${1#*=}"
            mount --bind "${1%%=*}" "$root${1#*=}"
            shift
        done
        mount -t proc proc "$root/proc"
        for dev in null zero random urandom; do [ -c "$root/dev/$dev" ] || mount --bind /dev/$dev "$root/dev/$dev"; done
        exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C "$@"
    ' in_cross "$cross" ${#binds[@]} "${binds[@]}" "$@"
}

# The crates of Cargo.lock, so that nothing is fetched inside; sets $vendor.
vendored() {
    vendor=$ACPI_CACHE/vendor-$(key_of <"$root/Cargo.lock")
    [ ! -e "$vendor.done" ] || return 0
    need_rust
    rm -rf "$vendor"
    say "fetching the crates of Cargo.lock"
    (cd "$root" && cargo vendor --quiet --locked --versioned-dirs "$vendor" >/dev/null) || die "cargo vendor failed"
    touch "$vendor.done"
}

# cross_cargo ARGUMENTS...: cargo in the root on this checkout, for $armv7_target unless they say otherwise.
cross_cargo() {
    mkdir -p "$ACPI_CACHE/armv7"
    cat >"$ACPI_CACHE/armv7/config.toml" <<CONF
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/vendor"
[net]
offline = true
[target.$armv7_target]
linker = "arm-linux-gnueabihf-gcc"
rustflags = [$(printf '"%s", ' $armv7_flags)]
CONF
    in_cross "$root=/src" "$vendor=/vendor" "$ACPI_CACHE/armv7=/target" -- \
        env CARGO_TARGET_DIR=/target CARGO_HOME=/target/home RUST_BACKTRACE=0 \
        CARGO_PROFILE_RELEASE_STRIP="${symbols:-true}" \
        bash -euc 'cd /src && exec cargo --config /target/config.toml "$@"' cargo "$@"
}

# The daemon as shipped; sets $daemon.
build_daemon() {
    vendored
    cross_cargo build --quiet --release --locked --target "$armv7_target" -p acpi-stated >&2 ||
        die "the daemon does not build for armv7"
    daemon=$ACPI_CACHE/armv7/$armv7_target/release/acpi-stated
    [ -x "$daemon" ] || die "built, but there is no $daemon"
}

# The guest's test doubles and the kernel modules that Debian does not build; sets $doubles, $modules.
build_guest_parts() {
    local here=$root/qemu/guest key name sources
    key=$({ cat "$here"/*.[ch] "$cross.packages" && declare -f build_guest_parts; } | key_of)
    doubles=$ACPI_CACHE/doubles-$key
    if [ ! -e "$doubles/done" ]; then
        as_root rm -rf --one-file-system "$doubles"
        mkdir -p "$doubles"
        for name in ipmi board poller agent; do
            in_cross "$root=/src" "$doubles=/target" -- arm-linux-gnueabihf-gcc -O2 -std=gnu11 -Wall -Wextra -Werror \
                -o "/target/$name" "/src/qemu/guest/$name.c" -lsystemd >&2 || die "qemu/guest/$name.c does not build"
        done
        touch "$doubles/done"
    fi
    key=$({ echo "$kernel_release $kernel_version" && declare -f build_guest_parts; } | key_of)
    modules=$ACPI_CACHE/modules-$key
    if [ ! -e "$modules/done" ]; then
        say "building the KCS character device and i2c-stub for $kernel_release"
        as_root rm -rf --one-file-system "$modules"
        mkdir -p "$modules"
        sources=linux-source-${kernel_release%%.*}.$(cut -d. -f2 <<<"$kernel_release")
        # Of the whole kernel only these are unpacked, and the rest not read: the pipe breaks, and what counts is the files.
        (
            set +o pipefail
            dpkg-deb --fsys-tarfile "$(debian_get "$sources:all=$kernel_version")" |
                tar -xO "./usr/src/$sources.tar.xz" | xz -dc -T0 | tar -x -C "$modules" --strip-components=1 --occurrence=1 \
                "$sources"/drivers/char/ipmi/{kcs_bmc.h,kcs_bmc_client.h,kcs_bmc_device.h,kcs_bmc_cdev_ipmi.c} \
                "$sources"/drivers/i2c/i2c-stub.c
        ) 2>/dev/null || true
        [ -s "$modules/drivers/i2c/i2c-stub.c" ] && [ -s "$modules/drivers/char/ipmi/kcs_bmc_cdev_ipmi.c" ] ||
            die "$sources does not have the modules' sources"
        echo 'obj-m := kcs_bmc_cdev_ipmi.o' >"$modules/drivers/char/ipmi/Makefile"
        echo 'obj-m := i2c-stub.o' >"$modules/drivers/i2c/Makefile"
        for name in char/ipmi i2c; do
            in_cross "$modules=/target" -- make -s -C "/usr/src/linux-headers-$kernel_release" "M=/target/drivers/$name" \
                ARCH=arm CROSS_COMPILE=arm-linux-gnueabihf- modules >&2 || die "drivers/$name of $sources does not build"
        done
        touch "$modules/done"
    fi
}
