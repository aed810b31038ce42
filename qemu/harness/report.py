# SPDX-License-Identifier: Apache-2.0
"""What is left of a run: a line per cycle, JUnit, JSON, and a page with a timeline. Must never judge."""

import html
import json
import os
from xml.sax.saxutils import escape, quoteattr

from machine import ACPI, ACPI_PATH, TRACKER
from plan import as_dict


class Run:
    def __init__(self, seed, gated, plan, versions, timing):
        self.seed, self.gated, self.plan, self.timing = seed, gated, plan, timing
        self.versions = dict(line.split(" ", 1) for line in versions.splitlines() if " " in line)
        self.results, self.facts, self.exchanges, self.signals = [], [], [], []
        self.transfers, self.windows, self.bad, self.unknowing = [], [], [], []
        self.begun = self.up = self.ended = 0.0
        self.figures, self.figures_at_end, self.journal, self.broken = {}, {}, "", None

    def passed(self):
        return not self.broken and not self.bad and len(self.results) == len(self.plan) and not any(
            result.failures for result in self.results
        )


def line(result):
    verdict = "ok  " if not result.failures else "FAIL"
    text = (
        f"{verdict} {result.cycle.number:3} {result.ended - result.begun:5.1f} s  {len(result.bad)} in closed windows,"
        f" {len(result.allowed)} in S0  {result.cycle.title()}"
    )
    return "\n".join([text] + [f"       {failure}" for failure in result.failures])


def _spread(values):
    values = sorted(values)
    if not values:
        return None

    def at(part):
        return round(values[min(len(values) - 1, int(part * len(values)))], 4)

    return {"count": len(values), "min": at(0), "p50": at(0.5), "p95": at(0.95), "max": round(values[-1], 4)}


def gate_spans(run):
    """[(from, to)] in which the daemon says that the gate is open, as heard outside."""
    spans, since = [], None
    for at, path, member, args in run.signals:
        if member == "NameOwnerChanged":
            opened = False if args[2] == "" else None
        elif path == ACPI_PATH and args[0] == TRACKER:
            opened = args[1].get("GateOpen")
        else:
            opened = None
        if opened and since is None:
            since = at
        elif opened is False and since is not None:
            spans.append((since, at))
            since = None
    # A BMC that is reset says nothing more.
    resets = [at for at, what, _ in run.facts if what in ("bmc-reset", "bmc-reboot")]
    if since is not None:
        spans.append((since, run.ended))
    return [(a, min([b] + [r for r in resets if a < r < b])) for a, b in spans]


def state_spans(run):
    """[(from, to, state)] of SysACPIStatus, as heard outside."""
    spans, since, state = [], run.begun, "?"
    for at, path, member, args in run.signals:
        if member == "PropertiesChanged" and path == ACPI_PATH and args[0] == ACPI and "SysACPIStatus" in args[1]:
            spans.append((since, at, state))
            since, state = at, args[1]["SysACPIStatus"].rpartition(".")[2]
        elif member == "NameOwnerChanged" and args[2] == "":
            spans.append((since, at, state))
            since, state = at, "?"
    spans.append((since, run.ended, state))
    return spans


def working_spans(run):
    """[(from, to)] in which the BMC may read: everything between the windows."""
    spans, last = [], None
    for window in sorted(run.windows, key=lambda w: w.begin):
        if last is not None and window.begin > last:
            spans.append((last, window.begin))
        last = window.end
    return spans


def summary(run):
    delays = {}
    for result in run.results:
        for what, seconds in result.delays:
            delays.setdefault(what, []).append(seconds)
    acks = {}
    for state, exchange in run.exchanges:
        acks.setdefault(state, []).append(exchange.ack)
    open_time = sum(b - a for a, b in gate_spans(run))
    working = sum(b - a for a, b in working_spans(run))
    elapsed = max(0.001, run.ended - (run.up or run.ended))
    return {
        "passed": run.passed(),
        "broken": run.broken,
        "seed": run.seed,
        "gated": run.gated,
        "cycles": {"planned": len(run.plan), "run": len(run.results), "failed": sum(bool(r.failures) for r in run.results)},
        "checks": sum(r.checks for r in run.results),
        "transfers": {
            "in_closed_windows": len(run.bad),
            "before_the_bmc_could_know": len(run.unknowing),
            "before_settle": sum(len(r.early) for r in run.results),
            "all": len(run.transfers),
            "bytes": sum(t.bytes for t in run.transfers),
        },
        "closed_windows": {"count": len(run.windows), "seconds": round(sum(w.end - w.begin for w in run.windows), 1)},
        "ack_seconds": {state: _spread(values) for state, values in sorted(acks.items())},
        "delays_seconds": {what: _spread(values) for what, values in sorted(delays.items())},
        "gate_open_ratio": round(open_time / elapsed, 3) if run.gated else None,
        "gate_open_of_s0": round(open_time / working, 3) if run.gated and working else None,
        "seconds": {
            "boot": round(max(0.0, run.up - run.begun), 1),
            "cycles": round(run.ended - run.up if run.up else 0.0, 1),
        },
        "daemon": {"at_start": run.figures, "at_end": run.figures_at_end},
        "timing": run.timing,
        "versions": run.versions,
        "plan": [as_dict(cycle) for cycle in run.plan],
        "failures": {str(r.cycle.number): r.failures for r in run.results if r.failures},
    }


def summary_lines(run, work):
    s = summary(run)
    acks = ", ".join(f"{k} {1000 * v['p50']:.0f}/{1000 * v['max']:.0f} ms" for k, v in s["ack_seconds"].items() if v)
    yield (
        f"{'passed' if s['passed'] else 'FAILED'}: {s['cycles']['run']} of {s['cycles']['planned']} cycles,"
        f" {s['cycles']['failed']} failed; {s['transfers']['in_closed_windows']} transfers in {s['closed_windows']['count']}"
        f" closed windows ({s['closed_windows']['seconds']} s), {s['transfers']['all']} in all"
    )
    yield f"answers as the host sees them (median/longest): {acks or 'none'}"
    if run.gated:
        yield f"gate open {100 * (s['gate_open_ratio'] or 0):.0f} % of the run, {100 * (s['gate_open_of_s0'] or 0):.0f} % of S0"
    if s["transfers"]["before_the_bmc_could_know"]:
        yield f"{s['transfers']['before_the_bmc_could_know']} transfers right after a line fell, before the BMC could know"
    if run.figures:
        yield f"the service in the guest: {run.figures}"
    yield f"boot {s['seconds']['boot']} s, cycles {s['seconds']['cycles']} s; report: {os.path.join(work, 'index.html')}"
    if not s["passed"]:
        yield f"seed {run.seed} repeats this plan"


def write(run, work):
    os.makedirs(work, exist_ok=True)
    files = {
        "summary.json": json.dumps(summary(run), indent=1) + "\n",
        "junit.xml": junit(run),
        "index.html": page(run),
        "timeline.svg": '<?xml version="1.0"?>\n' + timeline(run),
        "journal.txt": run.journal + "\n",
    }
    for name, text in files.items():
        with open(os.path.join(work, name), "w", encoding="utf-8") as out:
            out.write(text)


def junit(run):
    failed = sum(bool(r.failures) for r in run.results)
    missing = run.plan[len(run.results):]
    out = ['<?xml version="1.0" encoding="utf-8"?>']
    out.append(
        f'<testsuite name="qemu" tests="{len(run.plan)}" failures="{failed}" errors="{len(missing)}"'
        f' time="{run.ended - run.begun:.1f}">'
    )
    out.append(f'<properties><property name="seed" value="{run.seed}"/></properties>')
    for result in run.results:
        name = quoteattr(f"{result.cycle.number} {result.cycle.title()}")
        out.append(f'<testcase classname="qemu" name={name} time="{result.ended - result.begun:.1f}">')
        if result.failures:
            out.append(f"<failure message={quoteattr(result.failures[0])}>{escape(chr(10).join(result.failures))}</failure>")
        out.append("</testcase>")
    for cycle in missing:
        name = quoteattr(f"{cycle.number} {cycle.title()}")
        out.append(f'<testcase classname="qemu" name={name}><error message={quoteattr(str(run.broken))}/></testcase>')
    out.append("</testsuite>")
    return "\n".join(out) + "\n"


# The picture: one strip a cycle, all to the same scale.

LEFT, TOP, STRIP, GAP = 150, 20, 72, 8
STATE_FILL = {"S0_G0_D0": "#bfe3c0", "S2_D2": "#fbd9a5", "S5_G2": "#d9dde3", "Unknown": "#e6d3ee", "?": "#ffffff"}
STATE_TEXT = {"S0_G0_D0": "S0", "S2_D2": "S2", "S5_G2": "S5", "Unknown": "Unknown", "?": ""}
MARKS = {
    "power-on": ("on", "#2b6cb0"),
    "power-lost": ("power lost", "#2b6cb0"),
    "post-complete-falls": ("reset", "#2b6cb0"),
    "silent-reset": ("silent reset", "#2b6cb0"),
    "hang": ("hang", "#2b6cb0"),
    "kill": ("kill -9", "#c0392b"),
    "bmc-reset": ("BMC reset", "#c0392b"),
    "bmc-reboot": ("BMC reboot", "#c0392b"),
    "bmc-up": ("up", "#c0392b"),
    "kcs-failed": ("KCS failed", "#c0392b"),
}
STYLE = (
    "text{font:10px sans-serif;fill:#222}.c{font-weight:bold}.n{fill:#666}.f{fill:#c0392b;font-weight:bold}"
    ".w{fill:#f4c7c3}.g{fill:#2e8b57}.s{stroke:#fff;stroke-width:.5}.k{stroke:#555;stroke-width:1}"
)


class Axis:
    """Time to x, for one strip. While the BMC restarts nothing happens; those spans are cut short."""

    CUT = 6.0  # Seconds' worth of width that is left of one.

    def __init__(self, begin, end, cuts):
        self.begin, self.end = begin, end
        self.cuts = [(a, b) for a, b in cuts if begin <= a and b <= end and b - a > self.CUT]
        self.scale = 1.0

    def seconds(self, at):
        at = min(max(at, self.begin), self.end)
        width = at - self.begin
        for a, b in self.cuts:
            if at > a:
                width -= (min(at, b) - a) * (1 - self.CUT / (b - a))
        return width

    def x(self, at):
        return LEFT + self.seconds(at) * self.scale


def _restarts(run):
    spans, since = [], None
    for at, what, _ in run.facts:
        if what in ("bmc-reset", "bmc-reboot"):
            since = at
        elif what == "bmc-up" and since is not None:
            spans.append((since, at))
            since = None
    return spans


def timeline(run):
    if not run.results:
        return '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="40"><text x="10" y="20">no cycle was run</text></svg>'
    restarts = _restarts(run)
    axes = [Axis(r.begun, r.ended, restarts) for r in run.results]
    longest = max(axis.seconds(axis.end) for axis in axes)
    scale = min(70.0, 1500 / longest)
    width, height = int(LEFT + longest * scale + 60), TOP + 20 + len(axes) * (STRIP + GAP)
    states, gates = state_spans(run), gate_spans(run)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">']
    out.append(f"<style>{STYLE}</style><rect width='{width}' height='{height}' fill='white'/>")
    for second in range(0, int(longest) + 1):
        x = LEFT + second * scale
        out.append(f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{height}' stroke='#eee'/>")
        out.append(f"<text class='n' x='{x:.1f}' y='{TOP - 6}' text-anchor='middle'>{second} s</text>")
    for number, (axis, result) in enumerate(zip(axes, run.results)):
        axis.scale = scale
        out.append(_strip(run, result, axis, TOP + 8 + number * (STRIP + GAP), states, gates))
    out.append("</svg>")
    return "\n".join(out)


def _strip(run, result, axis, y, states, gates):
    out, x, begin, end = [], axis.x, axis.begin, axis.end

    def box(a, b, top, high, attributes):
        if b > begin and a < end:
            out.append(f"<rect x='{x(a):.1f}' y='{top}' width='{max(0.5, x(b) - x(a)):.1f}' height='{high}' {attributes}/>")

    bad = {id(t) for t in result.bad}
    title = html.escape(result.cycle.title() + "".join("\n" + f for f in result.failures))
    kind = "f" if result.failures else "c"
    out.append(f"<g><title>{title}</title><text class='{kind}' x='4' y='{y + 12}'>{result.cycle.number}"
               f" {'FAILED' if result.failures else ''}</text>")
    for row, part in enumerate(result.cycle.title().split("; ")):
        out.append(f"<text class='n' x='4' y='{y + 25 + 12 * row}'>{html.escape(part)}</text>")
    out.append("</g>")
    # States; below them the host's windows with what was on the wire; below these the gate.
    for a, b, state in states:
        box(a, b, y, 14, f"class='s' fill='{STATE_FILL.get(state, '#e6d3ee')}'")
        if b > begin and a < end and x(b) - x(a) > 16:
            out.append(f"<text x='{x(a) + 3:.1f}' y='{y + 11}'>{STATE_TEXT.get(state, state)}</text>")
    for window in run.windows:
        box(window.begin, window.end, y + 16, 16, "class='w'")
    for a, b in gates:
        box(a, b, y + 34, 6, "class='g'")
    for a, b in axis.cuts:
        box(a, b, y, 42, "fill='white' fill-opacity='.75'")
        out.append(f"<text class='n' x='{(x(a) + x(b)) / 2:.1f}' y='{y + 26}' text-anchor='middle'>BMC away for {b - a:.0f} s</text>")
    for t in run.transfers:
        if begin <= t.begun <= end:
            colour, wide = ("#c0392b", 1.5) if id(t) in bad else ("#1a5276", 1)
            low = y + 16 + (0 if t.bus == 3 else 8)
            out.append(f"<line x1='{x(t.begun):.1f}' x2='{x(t.begun):.1f}' y1='{low}' y2='{low + 8}'"
                       f" stroke='{colour}' stroke-width='{wide}'><title>bus {t.bus} {t.address:#04x}</title></line>")
    free = [0.0, 0.0, 0.0]  # Where each row of labels is empty again.
    for at, what, detail in sorted(run.facts, key=lambda fact: fact[0]):
        if not begin <= at <= end:
            continue
        if what == "answered":
            state, code, ack = detail
            out.append(f"<line class='k' x1='{x(at):.1f}' x2='{x(at):.1f}' y1='{y - 3}' y2='{y + 42}'>"
                       f"<title>{state} answered {code:02X}h after {1000 * ack:.0f} ms</title></line>")
            label, colour = f"{state} {1000 * ack:.0f} ms" if code == 0 else f"{state}: {code:02X}h", "#444"
        elif what in MARKS:
            label, colour = MARKS[what]
            out.append(f"<line x1='{x(at):.1f}' x2='{x(at):.1f}' y1='{y}' y2='{y + 42}' stroke='{colour}' stroke-dasharray='2,2'/>")
        else:
            continue
        row = next((r for r in range(3) if free[r] <= x(at)), min(range(3), key=lambda r: free[r]))
        free[row] = x(at) + 6 * len(label)
        out.append(f"<text x='{x(at) + 2:.1f}' y='{y + 50 + 9 * row}' style='fill:{colour};font-size:9px'>{html.escape(label)}</text>")
    return "\n".join(out)


def page(run):
    s = summary(run)
    verdict = "passed" if s["passed"] else "failed"
    rows = [
        ("Verdict", verdict + (f": {html.escape(run.broken)}" if run.broken else "")),
        ("In the guest", "the daemon as shipped" if run.gated else "an ungated poller in the daemon's place"),
        ("Seed", str(run.seed)),
        ("Cycles", f"{s['cycles']['run']} of {s['cycles']['planned']}, {s['cycles']['failed']} failed, {s['checks']} checks"),
        ("Transfers in closed windows", f"{s['transfers']['in_closed_windows']} (in {s['closed_windows']['count']} windows,"
                                        f" {s['closed_windows']['seconds']} s)"),
        ("Transfers in all", f"{s['transfers']['all']}, {s['transfers']['bytes']} bytes"),
        ("Before the BMC could know", str(s["transfers"]["before_the_bmc_could_know"])),
    ]
    for state, spread in s["ack_seconds"].items():
        rows.append((f"Set {state}: last byte of the request to first of the answer",
                     f"median {1000 * spread['p50']:.0f} ms, 95 % {1000 * spread['p95']:.0f} ms, longest {1000 * spread['max']:.0f} ms"
                     f" ({spread['count']})"))
    for what, spread in s["delays_seconds"].items():
        rows.append((what, f"median {spread['p50']:.2f} s, longest {spread['max']:.2f} s ({spread['count']})"))
    if run.gated:
        rows.append(("Gate open", f"{100 * (s['gate_open_ratio'] or 0):.0f} % of the run,"
                                  f" {100 * (s['gate_open_of_s0'] or 0):.0f} % of the time that the host allows"))
    rows += [(f"The service: {k}", str(v)) for k, v in run.figures.items()]
    rows += [(k, html.escape(v)) for k, v in run.versions.items()]
    table = "".join(f"<tr><th>{html.escape(a)}</th><td>{b}</td></tr>" for a, b in rows)
    failures = "".join(
        f"<li>Cycle {number}: " + "; ".join(html.escape(f) for f in texts) + "</li>" for number, texts in s["failures"].items()
    )
    legend = (
        "Each strip is a cycle. On top the ACPI state as the BMC shows it. Below, red: the host's windows in which there must be no"
        " transfer; in it each transfer on the DIMM buses, bus 3 above bus 4, dark where it may be, red where it may not. Green:"
        " the gate is open. Upright lines: answers over KCS (solid; with the time that the host waited), what the host did (blue), what befell the BMC (red)."
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>acpi-stated, {len(run.results)} boots: {verdict}</title>
<style>body{{font:14px sans-serif;margin:1.5em;max-width:1750px}}th{{text-align:left;font-weight:normal;color:#555;padding-right:1em}}
td,th{{vertical-align:top;padding-top:2px}}h1 b{{color:{'#2e8b57' if s['passed'] else '#c0392b'}}}svg{{max-width:none}}</style></head>
<body><h1>{len(run.results)} boots on an emulated AST2600: <b>{verdict}</b></h1>
<table>{table}</table>
{'<h2>What was wrong</h2><ul>' + failures + '</ul>' if failures else ''}
<h2>What happened</h2><p>{legend}</p>
{timeline(run)}
</body></html>
"""
