# SPDX-License-Identifier: Apache-2.0
# What `./dev` needs of Debian on this machine. Sourced by ./dev (needs its say, die, as_root, ACPI_CACHE).
# Must never remove a package. What would replace or start something of this machine's is unpacked in the cache instead.

# need FILE-OR-COMMAND:PACKAGE...: installs the packages whose file or command is not there.
need() {
    local item missing=()
    for item; do
        case $item in
        /*) [ -e "${item%%:*}" ] || missing+=("${item##*:}") ;;
        *) command -v "${item%%:*}" >/dev/null || missing+=("${item##*:}") ;;
        esac
    done
    [ ${#missing[@]} != 0 ] || return 0
    install_packages "${missing[@]}"
}

# One at a time, since CI prepares later steps beside the tests. Errors are handed on by hand: whoever looks at the exit code
# of a function turns `set -e` off in it.
install_packages() {
    command -v apt-get >/dev/null || die "please install what Debian calls: $*"
    mkdir -p "$ACPI_CACHE"
    (
        flock 9
        update_index || exit
        plan=$(apt_plan "$@") || die "apt cannot install $*: $plan"
        removed=$(sed -n 's/^Remv \([^ ]*\).*/\1/p' <<<"$plan" | paste -sd' ')
        [ -z "$removed" ] || die "installing $* would remove: $removed. Nothing was changed; install them, or others in their place, by hand"
        updated=$(sed -n 's/^Inst \([^ ]*\) \[.*/\1/p' <<<"$plan" | paste -sd' ')
        say "installing $*${updated:+, for which apt updates $updated}"
        # --no-remove also where the plan has changed since. A held package or an older version, it refuses with -y alone.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 --no-remove \
            --no-install-recommends install "$@" >&2
    ) 9>"$ACPI_CACHE/packages.lock" || die "what is needed is not there: $*"
}

update_index() { as_root apt-get -qq update >&2; }

apt_plan() { LC_ALL=C apt-get -s -qq -o Debug::NoLocking=true --no-install-recommends install "$@" 2>&1; }

# unpack DIR PACKAGE...: what is in these packages, below DIR.
unpack() {
    local dir=$1 file
    shift
    command -v apt-get >/dev/null || die "please install what Debian calls: $*"
    say "unpacking $* in $dir"
    rm -rf "$dir"
    mkdir -p "$dir"
    (cd "$dir" && apt-get -qq download "$@" >&2) || {
        update_index
        (cd "$dir" && apt-get -qq download "$@" >&2) || die "apt cannot fetch: $*"
    }
    for file in "$dir"/*.deb; do
        dpkg-deb -x "$file" "$dir" || die "$file cannot be unpacked"
        rm "$file"
    done
}

# need_unpacked COMMAND:PACKAGE...: puts the commands that are not there in PATH, without installing anything. They find the
# libraries that this machine lacks beside them.
need_unpacked() {
    local item command dir plan packages
    for item; do
        command=${item%%:*}
        ! command -v "$command" >/dev/null || continue
        dir=$ACPI_CACHE/unpacked-${item##*:}
        if [ ! -x "$dir/run/$command" ]; then
            command -v apt-get >/dev/null || die "please install what Debian calls: ${item##*:}"
            plan=$(apt_plan "${item##*:}") || { update_index && plan=$(apt_plan "${item##*:}"); } ||
                die "apt does not know how: $plan"
            # A libc fits only its own loader; that of the machine is of the same suite.
            mapfile -t packages < <(sed -n 's/^Inst \([^ ]*\) .*/\1/p' <<<"$plan" | grep -vx 'libc6\|libc-bin')
            unpack "$dir" "${packages[@]}"
            mkdir -p "$dir/run"
            cat >"$dir/run/$command.new" <<SCRIPT
#!/bin/sh
LD_LIBRARY_PATH='$(find "$dir" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)' exec '$dir/usr/bin/$command' "\$@"
SCRIPT
            chmod +x "$dir/run/$command.new"
            "$dir/run/$command.new" --version >/dev/null || die "$command does not run from $dir"
            mv "$dir/run/$command.new" "$dir/run/$command"
        fi
        export PATH=$PATH:$dir/run
    done
}
