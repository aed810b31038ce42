#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test-packages.sh: what tools/packages.sh does to a machine, shown on one whose apt-get, dpkg-deb and sudo are told what to say
# and only write down what they were asked. Nothing is installed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
cat >"$work/bin/apt-get" <<'SCRIPT'
#!/bin/sh
echo "apt-get $*" >>"$ASKED"
case " $* " in
*" -s "*) echo "$PLAN" ;;
*" download "*) : >package.deb ;;
esac
SCRIPT
cat >"$work/bin/dpkg-deb" <<'SCRIPT'
#!/bin/sh
echo "dpkg-deb $*" >>"$ASKED"
mkdir -p "$3/usr/bin" "$3/usr/lib/there"
: >"$3/usr/lib/there/libthing.so.1"
printf '#!/bin/sh\necho "$LD_LIBRARY_PATH"\n' >"$3/usr/bin/no-such-command"
chmod +x "$3/usr/bin/no-such-command"
SCRIPT
printf '#!/bin/sh\n[ "$1" != -n ] || shift\nexec "$@"\n' >"$work/bin/sudo"
chmod +x "$work"/bin/*
export PATH=$work/bin:$PATH ASKED=$work/asked ACPI_CACHE=$work/cache PLAN

as_root() { "$@"; }
say() { echo "dev: $*" >&2; }
die() {
    say "$@"
    exit 1
}
# shellcheck source-path=SCRIPTDIR
. "$root/tools/packages.sh"

failed=0
check() { # WHAT COMMAND...
    if "${@:2}" >/dev/null; then echo "ok: $1"; else echo "FAILED: $1" && failed=1; fi
}
try() { # COMMAND...: what it says is in $work/said, what was asked of apt in $work/asked
    : >"$work/asked"
    ("$@") 2>"$work/said"
}
fails() { ! "$@"; }
asked() { grep -q -e "$1" "$work/asked"; }
said() { grep -q -e "$1" "$work/said"; }

PLAN='Remv another-tool [10.0]
Inst no-such-package (7.2 Debian:12 [amd64])
Conf no-such-package (7.2 Debian:12 [amd64])'
check "an installation that would remove a package fails" fails try need no-such-command:no-such-package
check "it names what would be removed" said 'would remove: another-tool\.'
check "it has not been begun" fails asked '-y'

PLAN='Inst libthing1 [1.0] (1.1 Debian:12 [amd64])
Inst no-such-package (7.2 Debian:12 [amd64])'
check "one that removes nothing is made" try need no-such-command:no-such-package
check "it says what it updates" said 'updates libthing1$'
check "apt itself is told to remove nothing" asked '-y .*--no-remove .*install no-such-package'

check "what is there is not asked for" try need sh:no-such-package
check "so apt is not asked at all" fails asked .

check "what must not be installed is unpacked" try need_unpacked no-such-command:no-such-package
check "with what the machine lacks" asked 'download libthing1 no-such-package$'
check "nothing is installed for it" fails asked '-y'
check "and it finds its libraries" grep -q . <("$work/cache/unpacked-no-such-package/run/no-such-command")

# A trial run (-s) changes nothing.
others() {
    grep -rnE '\b(apt|apt-get|aptitude)\b.* (install|remove|purge|upgrade|full-upgrade|dist-upgrade|autoremove)\b|\bdpkg (-i|-r|-P|--install|--remove|--purge)\b' \
        "$root"/{dev,qemu,tests,sim,doubles,bench,yocto,.ci,tools/[!pt]*} | grep -v 'apt-get -s '
}
check "nobody else here changes the machine's packages" fails others
exit $failed
