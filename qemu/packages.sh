# SPDX-License-Identifier: Apache-2.0
# Debian packages of another suite and architecture, without touching this machine's own package system.
# Sourced by ./dev (needs its say, die, need, as_root). Owns: $ACPI_CACHE/debian. Must never install anything.

# What the emulated BMC and the cross compiler are taken from: one suite for both, so that what is built against
# its C library runs in the guest.
suite=trixie
# The mirror that this machine's own packages come from.
mirror=${ACPI_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | sed -n 's|/debian/*$|/debian|p' | sed -n 1p)}
[ -n "$mirror" ] || die "apt names no Debian mirror here; give one in ACPI_DEBIAN_MIRROR"
debian=$ACPI_CACHE/debian

# What is kept of packages is named after their versions; the names and versions come from the suite's index.
debian_apt() {
    APT_CONFIG=$debian/apt.conf "$@"
}

# Fetches the suite's index (at most once in six hours). Without it, what is in the cache must do.
debian_index() {
    need mmdebstrap:mmdebstrap dpkg-deb:dpkg xz:xz-utils
    local dir
    for dir in state/lists/partial cache/archives/partial etc/preferences.d pool; do mkdir -p "$debian/$dir"; done
    : >"$debian/status"
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    need "$keyring:debian-archive-keyring"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$debian/etc/sources.list"
    cat >"$debian/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "armhf"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Dir "/";
Dir::Etc "$debian/etc";
Dir::Etc::sourcelist "$debian/etc/sources.list";
Dir::Etc::sourceparts "/dev/null/none";
Dir::Etc::main "/dev/null/none";
Dir::Etc::parts "/dev/null/none";
Dir::Etc::preferences "/dev/null/none";
Dir::Etc::preferencesparts "$debian/etc/preferences.d";
Dir::State "$debian/state";
Dir::State::status "$debian/status";
Dir::Cache "$debian/cache";
Dir::Log "$debian/state";
CONF
    if [ -n "$(find "$debian/state/stamp" -mmin -360 2>/dev/null)" ]; then return; fi
    say "fetching the package index of $suite"
    if debian_apt timeout 300 apt-get -qq -o APT::Update::Error-Mode=any update >&2; then
        touch "$debian/state/stamp"
    elif [ -e "$debian/state/stamp" ]; then
        say "the index cannot be fetched now; going by the one of $(date -r "$debian/state/stamp" +%F)"
    else
        die "the package index of $suite cannot be fetched from $mirror"
    fi
}

# debian_plan PACKAGE...: what would be installed on a bare system, one "name architecture version" a line.
# A package that is not there ends it, by its name.
debian_plan() {
    local out
    out=$(debian_apt apt-get -s -o Debug::NoLocking=true install "$@" 2>&1) ||
        die "$suite cannot give: $* ($(grep -m1 '^E:' <<<"$out"))"
    sed -n 's/^Inst \([^ :]*\)[^ ]* (\([^ ]*\) .*\[\([a-z0-9]*\)\]).*/\1 \3 \2/p' <<<"$out" | sort
}

# debian_version PACKAGE[:ARCH]
debian_version() {
    local version
    version=$(debian_apt apt-cache policy "$1" | sed -n 's/^ *Candidate: //p')
    [ -n "$version" ] && [ "$version" != "(none)" ] || die "$suite has no package $1"
    echo "$version"
}

# debian_get PACKAGE[:ARCH]=VERSION...: prints the path of each .deb, fetched if it is not in the pool.
debian_get() {
    local item name arch version file missing=() files=()
    for item; do
        version=${item#*=}
        name=${item%%=*}
        arch=${name#*:}
        name=${name%%:*}
        file=$(find "$debian/pool" -maxdepth 1 -name "${name}_${version//:/%3a}_*.deb" \
            \( -name "*_$arch.deb" -o -name '*_all.deb' \) -print -quit)
        [ -n "$file" ] || missing+=("$item")
    done
    if [ ${#missing[@]} != 0 ]; then
        say "fetching ${#missing[@]} packages: ${missing[*]%%:*}"
        (cd "$debian/pool" && debian_apt timeout 900 apt-get -qq -o Acquire::Retries=3 download "${missing[@]}" >&2) ||
            die "cannot fetch: ${missing[*]}"
    fi
    for item; do
        version=${item#*=}
        name=${item%%=*}
        arch=${name#*:}
        name=${name%%:*}
        file=$(find "$debian/pool" -maxdepth 1 -name "${name}_${version//:/%3a}_*.deb" \
            \( -name "*_$arch.deb" -o -name '*_all.deb' \) -print -quit)
        [ -n "$file" ] || die "fetched, but not there: $item"
        files+=("$file")
    done
    printf '%s\n' "${files[@]}"
}

key_of() { sha256sum | cut -c1-16; }
