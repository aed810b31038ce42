# SPDX-License-Identifier: Apache-2.0
# The emulated BMC: Debian's kernel, a device tree with KCS, a small armhf root as an initrd. Sourced after cross.sh.
# Owns: $ACPI_CACHE/guest-*, and what it is told to write. Must never need more than dpkg-deb to make the root.

guest_packages=(systemd systemd-sysv dbus kmod mount busybox-static)
# What the board needs of Debian's kernel modules, besides those built here.
guest_modules=(i2c-aspeed i2c-dev gpio-aspeed kcs_bmc_aspeed sdhci-of-aspeed crc32c_generic ext4)
# There, but not loaded at boot.
guest_other_modules=(jc42 i2c-mux-pca954x)

# Debian's part of the root, and the kernel; sets $guest.
guest_base() {
    local plan key tree name file line began=$SECONDS
    sed 's/^APT::Architecture .*/APT::Architecture "armhf";/; s/^APT::Architectures .*/APT::Architectures { "armhf"; };/' \
        "$debian/apt.conf" >"$debian/apt-armhf.conf"
    plan=$(debian_apt() { APT_CONFIG=$debian/apt-armhf.conf "$@"; } && debian_plan "${guest_packages[@]}")
    key=$({
        echo "$plan $kernel_version $modules"
        declare -f guest_base guest_device_tree guest_kernel_modules guest_settings
        declare -p guest_modules guest_other_modules
        cat "$root/qemu/guest/etc/dbus-perms.conf"
    } | key_of)
    guest=$ACPI_CACHE/guest-$key
    [ ! -e "$guest/done" ] || return 0
    say "making the guest's root of $(wc -l <<<"$plan") packages"
    rm -rf "$guest"
    tree=$guest/root
    mkdir -p "$tree"/usr/{bin,sbin,lib,libexec/acpi-test} "$tree"/{dev,proc,sys,run,tmp,root,etc/modules-load.d,var/lib}
    for name in bin sbin lib; do ln -s "usr/$name" "$tree/$name"; done
    ln -s ../run "$tree/var/run"
    local wanted=("linux-image-$kernel_release:armhf=$kernel_version")
    while read -r name line file; do wanted+=("$name:$line=$file"); done <<<"$plan"
    for file in $(debian_get "${wanted[@]}"); do
        case $file in
        */linux-image-*) dpkg-deb -x "$file" "$guest/kernel" ;;
        *)
            dpkg-deb --fsys-tarfile "$file" | tar -x -C "$tree" --keep-directory-symlink --no-same-owner \
                --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
                --exclude='./usr/share/bash-completion' --exclude='./usr/share/bug' --exclude='./usr/share/lintian' \
                --exclude='./usr/share/zsh' --exclude='./usr/lib/systemd/catalog/*'
            ;;
        esac
    done
    printf '%s\n' "$plan" >"$guest/packages"
    cp "$guest/kernel/boot/vmlinuz-$kernel_release" "$guest/vmlinuz"
    guest_device_tree
    guest_kernel_modules
    guest_settings
    rm -rf "$guest/kernel"
    touch "$guest/done"
    say "the guest's root took $((SECONDS - began)) s"
}

# The evaluation board's device tree with the host's KCS interface at its usual port, and a second serial line.
guest_device_tree() {
    cp "$guest/kernel/usr/lib/linux-image-$kernel_release/aspeed-ast2600-evb.dtb" "$guest/evb.dtb"
    fdtput -t s "$guest/evb.dtb" /ahb/apb/lpc@1e789000/kcs@2c status okay
    fdtput -t i "$guest/evb.dtb" /ahb/apb/lpc@1e789000/kcs@2c aspeed,lpc-io-reg 0xca2
    fdtput -t s "$guest/evb.dtb" /ahb/apb/serial@1e783000 status okay
    # As a boot loader gives it: without, the bus waits for the kernel to gather randomness. QEMU makes a new one at each boot.
    # shellcheck disable=SC2046
    fdtput -t x "$guest/evb.dtb" /chosen rng-seed $(od -An -v -tx4 -N64 /dev/urandom)
}

# The modules of the list with what they need, unpacked, so that the guest does not spend its time on it.
guest_kernel_modules() {
    local from=$guest/kernel/usr/lib/modules/$kernel_release into=$tree/usr/lib/modules/$kernel_release name file seen=" "
    mkdir -p "$into"
    # Found by name: modules.dep is made by the package's own scripts, which do not run here.
    local queue=("${guest_modules[@]}" "${guest_other_modules[@]}")
    while [ ${#queue[@]} != 0 ]; do
        name=${queue[0]//-/_}
        queue=("${queue[@]:1}")
        case $seen in *" $name "*) continue ;; esac
        seen+="$name "
        file=$(find "$from" -name "${name//_/[-_]}.ko.xz")
        [ -n "$file" ] || die "the kernel package has no module $name"
        xz -dc "$file" >"$into/$name.ko"
        for name in $(modinfo -F depends "$into/$name.ko" | tr , ' '); do
            ! grep -q "/${name//_/[-_]}\.ko$" "$from/modules.builtin" || continue
            queue+=("$name")
        done
    done
    cp "$modules/drivers/char/ipmi/kcs_bmc_cdev_ipmi.ko" "$modules/drivers/i2c/i2c-stub.ko" "$into/"
    cp "$from"/modules.{builtin,builtin.modinfo,order} "$into/"
    depmod -b "$tree" "$kernel_release"
    { printf '%s\n' "${guest_modules[@]}" kcs_bmc_cdev_ipmi; } >"$tree/etc/modules-load.d/board.conf"
}

# What Debian's maintainer scripts would have made, and as little to start as will do.
guest_settings() {
    local unit
    printf '%s\n' root:x:0:0:root:/root:/bin/sh messagebus:x:100:100::/nonexistent:/usr/sbin/nologin \
        nobody:x:65534:65534::/:/usr/sbin/nologin >"$tree/etc/passwd"
    printf '%s\n' root:x:0: messagebus:x:100: nogroup:x:65534: tty:x:5: systemd-journal:x:101: utmp:x:43: \
        >"$tree/etc/group"
    # A BMC keeps its machine id; it says nothing about this machine.
    echo 0123456789abcdef0123456789abcdef >"$tree/etc/machine-id"
    echo 'bmc' >"$tree/etc/hostname"
    for unit in sh ls cat kill sleep seq umount ps free dmesg; do
        [ -e "$tree/usr/bin/$unit" ] || ln -s busybox "$tree/usr/bin/$unit"
    done
    ln -sf /usr/lib/systemd/systemd "$tree/init"
    ln -sf /usr/lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
    for unit in getty.target systemd-tmpfiles-clean.timer systemd-update-utmp.service systemd-update-utmp-runlevel.service \
        systemd-random-seed.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-machine-id-commit.service \
        systemd-pcrmachine.service systemd-tpm2-setup.service systemd-logind.service systemd-user-sessions.service \
        systemd-sysusers.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-journal-flush.service \
        sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount e2scrub_reap.service \
        systemd-networkd.service systemd-networkd.socket systemd-pstore.service ldconfig.service systemd-sysext.socket systemd-hostnamed.socket systemd-update-done.service \
        systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup-dev-early.service kmod-static-nodes.service systemd-sysctl.service \
        systemd-remount-fs.service sys-kernel-config.mount sys-fs-fuse-connections.mount systemd-ask-password-console.path \
        systemd-ask-password-wall.path systemd-creds.socket systemd-initctl.socket; do
        ln -sf /dev/null "$tree/etc/systemd/system/$unit"
    done
    # What they would generate units from is not here; each is a process at every boot.
    rm -rf "$tree/usr/lib/systemd/system-generators"
    mkdir -p "$tree/etc/systemd/journald.conf.d" "$tree/usr/share/dbus-1/system.d"
    printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\nReadKMsg=no\nAudit=no\n' >"$tree/etc/systemd/journald.conf.d/bmc.conf"
    cp "$root/qemu/guest/etc/dbus-perms.conf" "$tree/usr/share/dbus-1/system.d/org.openbmc.conf"
}

# guest_image DIR gated|ungated CONFIG: the initrd, the storage and the links to the rest, ready to boot.
guest_image() {
    local into=$1 kind=$2 config=$3 over unit
    over=$into/over
    rm -rf "$into"
    mkdir -p "$over"/usr/libexec/acpi-test "$over"/usr/lib/systemd/system "$over"/etc/systemd/system/multi-user.target.wants \
        "$over"/etc/acpi-stated
    cp "$doubles"/{agent,board,ipmi,poller} "$over/usr/libexec/acpi-test/"
    cp "$root"/qemu/guest/units/*.service "$over/usr/lib/systemd/system/"
    local start=(storage board phosphor-ipmi-host agent)
    install_shipped "$over"
    cp "$config" "$over/etc/acpi-stated/config.json"
    if [ "$kind" = ungated ]; then start+=(poller); else start+=(acpi-stated); fi
    for unit in "${start[@]}"; do
        ln -s "/usr/lib/systemd/system/$unit.service" "$over/etc/systemd/system/multi-user.target.wants/$unit.service"
    done
    # Two archives one after the other are one initrd to the kernel: the second is laid over the first.
    if [ ! -e "$guest/base.cpio" ]; then
        (cd "$guest/root" && find . -print0 | sort -z | cpio --null --quiet -o -H newc -R 0:0) >"$guest/base.cpio.new"
        mv "$guest/base.cpio.new" "$guest/base.cpio"
    fi
    (cd "$over" && find . -mindepth 1 -print0 | sort -z | cpio --null --quiet -o -H newc -R 0:0) >"$into/over.cpio"
    cat "$guest/base.cpio" "$into/over.cpio" >"$into/initrd"
    rm "$into/over.cpio"
    # The SD controller's model wants a power of two.
    truncate -s 16M "$into/storage.img"
    mke2fs -q -t ext4 -F "$into/storage.img"
    mkdir -p "$into/storage"
    ln -sf "$guest/vmlinuz" "$guest/evb.dtb" "$into/"
}

# The daemon with all that its package has, by the list that the package is made from.
install_shipped() { bash "$root/tools/install.sh" --root "$1" --binary "$daemon"; }
