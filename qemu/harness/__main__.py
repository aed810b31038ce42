# SPDX-License-Identifier: Apache-2.0
"""`./dev qemu`: boots the emulated BMC, plays the plan, judges, reports. The exit code is the verdict."""

import argparse
import json
import os
import random
import signal
import sys
import time

import judge
import plan
import report
from conductor import Conductor
from host import Host
from machine import ACPI, ACPI_PATH, DIMM_BUSES, Asked, Broken, Machine

BROKEN = 70


def arguments():
    about = "Power cycles the host of an emulated AST2600 under the real daemon."
    parser = argparse.ArgumentParser(prog="./dev qemu", description=about)
    parser.add_argument("--cycles", type=int, default=10, help="default: 10")
    parser.add_argument("--seed", type=int, help="repeats the plan of an earlier run; default: a new one, which is printed")
    parser.add_argument("--ungated", action="store_true", help="an ungated poller in the daemon's place; the run must fail")
    parser.add_argument(
        "--must-see",
        type=int,
        metavar="N",
        help="with --ungated: good if the judge sees at least N transfers in closed windows",
    )
    parser.add_argument("--out", help="where the report goes (default: target/qemu)")
    # From ./dev.
    parser.add_argument("--image", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--config", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--versions", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.cycles < 1:
        parser.error("--cycles: at least one")
    if chosen.must_see is not None and not chosen.ungated:
        parser.error("--must-see is for --ungated")
    return chosen


def main():
    chosen = arguments()
    seed = random.randrange(1 << 31) if chosen.seed is None else chosen.seed
    gated = not chosen.ungated
    work = chosen.out
    os.makedirs(work, exist_ok=True)
    for old in ("trace.log", "console.log", "journal.txt", "machine.txt"):
        if os.path.exists(os.path.join(work, old)):
            os.remove(os.path.join(work, old))
    with open(chosen.config, encoding="utf-8") as config:
        timing = json.load(config)["hosts"][0]["timing"]

    def say(text):
        print(text, flush=True)

    def interrupted(*_):
        raise KeyboardInterrupt

    # A shell that starts this in the background lets it ignore SIGINT; either signal still leaves a report, and no QEMU.
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)

    run = report.Run(seed, gated, plan.make(seed, chosen.cycles), chosen.versions, timing)
    machine = Machine(chosen.image, work)
    say(f"seed {seed}, {chosen.cycles} cycles, {'the daemon' if gated else 'an ungated poller in its place'}")
    trace = judge.Trace(machine.trace, DIMM_BUSES)
    host = None
    try:
        run.begun = time.time()
        machine.start()
        host = Host(machine)
        host.note("begin", at=run.begun)
        machine.wait_hello(1, 180)
        run.up = time.time()
        say(f"the BMC was up after {run.up - run.begun:.1f} s")
        conductor = Conductor(machine, host, timing, gated, seed, say)
        conductor.manners()
        # What was so before anyone listened; the signals say only what changes.
        shown = [ACPI, {"SysACPIStatus": conductor.state()}, []]
        machine.signals.insert(0, (run.up, ACPI_PATH, "PropertiesChanged", shown))
        run.figures = conductor.measure()
        for cycle in run.plan:
            try:
                result = conductor.cycle(cycle)
            except Asked as error:
                result = conductor.result
                result.check(False, f"the guest does not answer: {error}")
                result.ended = time.time()
            run.results.append(result)
            judge_cycle(run, result, host, trace, timing, machine.signals)
            say(report.line(result))
        conductor.restart()
        run.figures_at_end = conductor.measure()
        journal = f"journalctl --no-pager -o short-monotonic -u {conductor.service}"
        run.journal = machine.run(f"{journal} | tail -c 15000")[1]
    except (Broken, Asked, OSError) as error:
        run.broken = str(error)
        say(f"broken: {error}")
    except KeyboardInterrupt:
        run.broken = "interrupted"
    finally:
        run.ended = time.time()
        machine.stop()
    if host:
        run.facts, run.exchanges, run.signals = host.facts, host.exchanges, machine.signals
        judge_run(run, trace)
    report.write(run, work)
    for text in report.summary_lines(run, work):
        say(text)
    if run.broken:
        return BROKEN
    if chosen.must_see is not None:
        seeing = len(run.bad) >= chosen.must_see
        verdict = "good" if seeing else "it is blind"
        say(f"the judge saw {len(run.bad)} of at least {chosen.must_see} transfers in closed windows: {verdict}")
        return 0 if seeing else 1
    return 0 if run.passed() else 1


def judge_cycle(run, result, host, trace, timing, signals):
    time.sleep(0.1)  # The last lines of the trace are on their way.
    trace.read()
    # The cycle's own part of the run: from the end of the one before.
    begin = run.results[-2].ended if len(run.results) > 1 else run.begun
    mine = [t for t in trace.transfers if begin <= t.begun < result.ended]
    offs = judge.heard_off(signals)
    result.windows = judge.closed_windows(host.facts, result.ended, offs)
    bad, result.unknowing = judge.offences(result.windows, mine)
    # `settle` is the daemon's promise; the poller never made it.
    result.early = judge.too_early(host.facts, mine, timing["settle"]) if run.gated else []
    result.bad = bad
    result.allowed = [t for t in mine if t not in bad and t not in result.unknowing and t not in result.early]
    where = judge.described(result.windows, bad)
    result.check(not bad, f"{len(bad)} transfers on the DIMM buses in closed windows: {where}")
    for state, exchange in host.exchanges:
        if state == "S2" and result.begun <= exchange.asked:
            after = judge.stored_after(exchange.asked, exchange.answered, trace.writes)
            if after is not None:
                result.delays.append(("storage quiet after the answer to S2", max(0.0, after)))
    for at, what, _ in host.facts:
        if what in ("power-lost", "post-complete-falls") and result.begun <= at:
            said = next((off for off in offs if off >= at), None)
            if said is not None:
                result.delays.append(("line to power control's signal", said - at))
    result.check(not result.early, f"{len(result.early)} transfers before settle was over")
    if result.cycle.post != "hang":
        result.check(len(result.allowed) > 0, "no transfer at all: the sensors were not read in S0")


def judge_run(run, trace):
    """Once more over the whole run, from the notes alone: what no cycle claimed must not fall through."""
    trace.read()
    if trace.device_starts > trace.starts:
        run.broken = f"the judge misreads the trace: {trace.starts} STARTs, but devices saw {trace.device_starts}"
    run.transfers = trace.transfers
    run.windows = judge.closed_windows(run.facts, run.ended, judge.heard_off(run.signals))
    run.bad, run.unknowing = judge.offences(run.windows, trace.transfers)


if __name__ == "__main__":
    sys.exit(main())
