# SPDX-License-Identifier: Apache-2.0
# `./dev full`: what a change is only asked for a part of. Sourced by ./dev (needs its root, say, need_rust, need_test_parts, need_broker).
# Owns: the table in docs/reliability.md, and target/full with what each part said.

# The commit at which all mutants were last noticed, or nothing.
last_full_run() { sed -n 's/^| all mutants | passed | .* | `\([0-9a-f]*\)` |$/\1/p' "$root/docs/reliability.md"; }

# run_full [NAME...]: every part, or those with such a word in their name.
run_full() {
    local logs=$root/target/full failed=0 commit wanted=("$@")
    need_rust
    need_test_parts
    need_broker
    mkdir -p "$logs"
    commit=$(git rev-parse HEAD)
    # What the parts before this one have found is no change.
    [ -z "$(git status --porcelain -- . ':!docs/reliability.md')" ] || commit+=" and changes"

    # Read by the tests: src/logic/machine/tests/reachability.rs and properties.rs, tests/it/killed.rs; and by proptest.
    export ACPI_FULL=1 PROPTEST_CASES=20000
    part "search through all reachable states" 'states,' cargo test --locked --lib -- reachability --nocapture --test-threads 2
    part "random lives of a host, invariants" '^test result' cargo test --locked --lib -- properties
    part "fuzzing: every other property test" '^test result' cargo test --workspace --locked --lib -- \
        --skip reachability --skip properties
    part "fuzzing: configuration files and what is near them" '^test result' cargo test --locked --test it config::
    part "SIGKILL at any moment, next lives" '^test result' cargo test --locked --test it killed::
    part "each call of the store fails, or is the last" '^test result' cargo test --locked --test it store_faults::
    unset ACPI_FULL PROPTEST_CASES
    for bus in dbus-daemon dbus-broker; do
        part "500,000 messages with anything in them, through $bus" '^test result' \
            env ACPI_BUS="$bus" ACPI_BUS_FUZZ=500000 cargo test --locked --test it hostile::
    done
    for kind in f f-late f-retry m n; do
        part "200 boots, firmware $kind" '^All |^NOT ' "$root/dev" demo --boots 200 --firmware "$kind"
    done
    part "all mutants" 'mutants, all noticed' "$root/dev" mutants
    part "100 power cycles on the emulated BMC" '^(passed|FAILED|broken)' "$root/dev" qemu --cycles 100
    say "docs/reliability.md has the results; what each part said is in $logs"
    return $failed
}

# part WHAT WORDS COMMAND...: runs it, and writes its row; WORDS is a pattern for the line that says most, the last one that
# has it.
part() {
    local what=$1 words=$2 log verdict=passed since=$SECONDS said word is_wanted=
    shift 2
    [ ${#wanted[@]} != 0 ] || is_wanted=yes
    for word in "${wanted[@]}"; do [[ $what != *"$word"* ]] || is_wanted=yes; done
    [ -n "$is_wanted" ] || return 0
    log=$logs/${what//[^A-Za-z0-9]/-}.log
    say "$what: $*"
    # A command of its own: were it a function, looking at its exit code would turn `set -e` off in it.
    "$@" >"$log" 2>&1 </dev/null || {
        verdict=**FAILED** failed=1
        tail -n 20 "$log" >&2
    }
    said=$(grep -E "$words" "$log" | tail -n 1 | tr '|' ' ')
    record "$what" "| $what | $verdict | ${said:0:200} | $(((SECONDS - since + 30) / 60)) | $(date -u +%F) | \`$commit\` |"
    say "$verdict: ${said:-nothing}"
}

# record WHAT ROW: the row takes the place of the part's last one, or is a new one; each part is written down when it ends.
record() {
    local page=$root/docs/reliability.md
    if grep -qF "| $1 |" "$page"; then
        awk -v begins="| $1 |" -v row="$2" 'index($0, begins) == 1 { $0 = row } { print }' "$page" >"$logs/page"
        cp "$logs/page" "$page"
    else
        printf '%s\n' "$2" >>"$page"
    fi
}
