# SPDX-License-Identifier: Apache-2.0
"""Plays a plan on a machine, and checks what can be checked on the way.

Owns: the order of things, what is expected when, and how long it may take. The verdict on the wire is the judge's.
"""

import random
import time

import judge
from host import CODES
from kcs import Failed
from machine import ACPI, ACPI_PATH, DIMMS, TRACKER, Asked, Broken

UNIT = "org.freedesktop.systemd1.Unit"
SENSORS = "/xyz/openbmc_project/sensors"
VALUE = "xyz.openbmc_project.Sensor.Value"
AVAILABLE = "xyz.openbmc_project.State.Decorator.Availability"
STATES = {"S0": "S0_G0_D0", "S2": "S2_D2", "S5": "S5_G2"}

BMC_BOOT = 180  # Seconds for the emulated BMC to come up, on a busy machine.
TARGET = 6.0  # A state's target, from when the host knows that the BMC has it.
READING = 4.0  # A first or a changed reading.
# The gate, later than `settle` says: the signal's way out included.
GATE = 2.5


def unit_path(name):
    return "/org/freedesktop/systemd1/unit/" + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)


class Result:
    def __init__(self, cycle):
        self.cycle = cycle
        self.begun = time.time()
        self.ended = None
        self.failures = []
        self.checks = 0
        self.delays = []  # (what, seconds)
        self.bad = self.unknowing = self.early = self.allowed = ()
        self.windows = []

    def check(self, good, what):
        self.checks += 1
        if not good:
            self.failures.append(what)
        return good


class Conductor:
    def __init__(self, machine, host, timing, gated, seed, say):
        self.machine, self.host, self.timing, self.gated, self.say = machine, host, timing, gated, say
        self.rng = random.Random(f"temperatures of {seed}")
        self.temperatures = {}
        self.boots = 1
        self.answered = None  # When the host was last answered, and what QEMU's threads had had by then.
        self.result = None
        self.service = "acpi-stated" if gated else "poller"

    # What the guest shows.

    def until(self, bound, condition):
        """Seconds until the condition holds, or None. A BMC that cannot be asked is one where it does not hold. Time in which the
        machine kept QEMU from running is not the BMC's, and does not count: three times the bound at most."""
        begun, before = time.monotonic(), self.machine.scheduled()
        while True:
            try:
                if condition():
                    return time.monotonic() - begun
            except Asked:
                pass
            passed = time.monotonic() - begun
            if passed > 3 * bound or (passed > bound and passed - self.machine.since(before)[1] > bound):
                return None
            time.sleep(0.05)

    def state(self):
        return self.machine.prop(ACPI, ACPI_PATH, ACPI, "SysACPIStatus").rpartition(".")[2]

    def gate(self):
        return self.machine.prop(ACPI, ACPI_PATH, TRACKER, "GateOpen")

    def expect_state(self, name, since, told=False, what=None, lost_after=None):
        """True if the state is this, and the signal that said so came in time. The poller knows only what it was told. `what`: of
        which delay the time to that signal is. `lost_after`: so long after its answer the BMC was reset, which may have lost it;
        then nothing is known, and the gate is closed."""
        if not self.gated and not told:
            return True
        value = STATES[name]

        def signalled():
            for at, path, _, args in reversed(self.machine.signals):
                if path == ACPI_PATH and args[0] == ACPI and args[1].get("SysACPIStatus", "").endswith("." + value):
                    return at
            return None

        took = self.until(judge.SEEN, lambda: self.state() == value)
        if took is None and lost_after is not None and self.state() == "Unknown":
            self.say(f"  {name} was lost: the BMC was reset {lost_after:.2f} s after its answer, and storage has {judge.STORED} s")
            self.result.check(not self.gate(), f"the gate is open, and {name} was lost")
            self.result.delays.append(("reset after an answer, which it lost", lost_after))
            return False
        if not self.result.check(took is not None, f"the state is not {value} {judge.SEEN} s after {name}"):
            return False
        at = signalled()
        if at is not None and at > since - 1:
            self.result.delays.append((what or f"{name} seen", max(0.0, at - since)))
        return True

    def expect_targets(self, name):
        if not self.gated:
            return
        wanted = {}
        for state in STATES:
            for form in (f"host-{state.lower()}-state.target", f"host-{state.lower()}-state@0.target"):
                wanted[form] = "active" if state == name else "inactive"
        seen = {}

        def right():
            for unit in wanted:
                if seen.get(unit) != wanted[unit]:
                    seen[unit] = self.machine.prop("org.freedesktop.systemd1", unit_path(unit), UNIT, "ActiveState")
            return seen == wanted

        took = self.until(TARGET, right)
        wrong = {unit: state for unit, state in seen.items() if state != wanted[unit]}
        self.result.check(took is not None, f"targets in {name}: {wrong}")

    def sensors(self):
        objects = self.machine.ask(f"objects {ACPI} {SENSORS}")[0]
        found = {}
        for path, interfaces in objects.items():
            found[path.rpartition("/")[2]] = (
                interfaces.get(VALUE, {}).get("Value"),
                interfaces.get(AVAILABLE, {}).get("Available"),
            )
        return found

    def expect_blind(self, when):
        if not self.gated:
            return
        shown = {}

        def blind():
            shown.update(self.sensors())
            return all(shown.get(name) == (None, False) for name, _, _ in DIMMS)

        took = self.until(judge.SEEN, blind)
        self.result.check(took is not None, f"sensors are not unavailable {when}: {shown or 'there are none'}")

    def expect_readings(self, bound, what):
        if not self.gated:
            return
        shown = {}

        def right():
            shown.update(self.sensors())
            return all(
                shown.get(name, (None, None))[1] is True
                and shown[name][0] is not None
                and abs(shown[name][0] - self.temperatures[name]) < 0.5
                for name, _, _ in DIMMS
            )

        took = self.until(bound, right)
        if self.result.check(took is not None, f"{what}: shown {shown or 'none'}, true {self.temperatures}"):
            self.result.delays.append((what, took))

    def expect_gate(self, since, settle):
        """Opens, and not before `settle`."""
        if not self.gated:
            time.sleep(settle + 1)
            return
        took = self.until(settle + GATE, self.gate)
        after = time.time() - since
        if self.result.check(took is not None, f"the gate is closed {after:.1f} s after S0"):
            self.result.check(after >= settle * 0.95, f"the gate opened {after:.2f} s after S0, settle is {settle} s")
            self.result.delays.append(("gate open after S0", after))

    def manners(self):
        """The bench's own part in the guest answers as ipmid does."""
        try:
            wrong = self.host.manners()
        except Failed as error:
            wrong = [str(error)]
        if wrong:
            raise Broken(f"the responder in the guest: {'; '.join(wrong)}")

    def heat(self):
        for name, _, _ in DIMMS:
            self.temperatures[name] = self.rng.randint(20, 60)
            self.machine.temperature(name, self.temperatures[name])

    # Trouble.

    def trouble(self, phase, state=None, working=False):
        cycle = self.result.cycle
        if cycle.phase != phase or not cycle.trouble:
            return
        before, lost_after = time.time(), self._lost_after(cycle.trouble)
        if cycle.trouble == "kill":
            self.host.note("kill")
            group = f"/sys/fs/cgroup/system.slice/{self.service}.service/cgroup.procs"
            status, output = self.machine.run(f"kill -9 $(cat {group})")
            if status:
                raise Broken(f"the daemon cannot be killed: {output}")
            back = self.until(8, lambda: self._owned_since(before))
            self.result.check(back is not None, "the daemon is not back 8 s after a kill -9")
            settle = self.timing["settle"]
        else:
            self.host.note(cycle.trouble)
            if cycle.trouble == "bmc-reset":
                self.machine.qmp("system_reset")
            else:
                resets = len(self.machine.resets)
                try:
                    self.machine.run("systemctl --no-block reboot", 5)
                except Asked:
                    pass  # It is on its way down.
                if self.until(90, lambda: len(self.machine.resets) > resets) is None:
                    raise Broken("the BMC does not restart")
            self.boots += 1
            self.machine.wait_hello(self.boots, BMC_BOOT)
            for name, degrees in self.temperatures.items():
                self.machine.temperature(name, degrees)
            settle = self.timing["restore_settle"]
            self.say(f"  the BMC was back after {time.time() - before:.1f} s")
        self.host.note("bmc-up")
        if state:
            if self.expect_state(state, before, what="state after a kill or a restart", lost_after=lost_after):
                self.expect_targets(state)
        if working and self.gated:
            self._gate_again(settle)
            self.expect_readings(READING, "reading after a restart")

    def _lost_after(self, trouble):
        """Seconds since the host was last answered, if what it reported may be lost now."""
        if self.answered is None:
            return None
        at, before = self.answered
        after = time.time() - at - self.machine.since(before)[1]
        return after if judge.may_be_lost(trouble, after) else None

    def _gate_again(self, settle):
        # How long since the daemon began is not known from outside; that it opens at all is what counts.
        took = self.until(settle + GATE, self.gate)
        self.result.check(took is not None, f"the gate is closed {settle + GATE} s after the daemon's restart in S0")

    def _owned_since(self, before):
        owners = [args[2] for at, _, member, args in self.machine.signals if member == "NameOwnerChanged" and at >= before]
        return bool(owners) and owners[-1] != ""

    # The host's life.

    def uefi(self, post):
        """From power or reset to S0. False if it hangs."""
        cycle, host = self.result.cycle, self.host
        try:
            host.device_id()
        except Failed as error:
            self.result.check(False, f"Get Device ID: {error}")
        self.say_state("S2", give_up=post == "kcs-retry")
        if post == "repeat-s2":
            self.say_state("S2")
        self.expect_blind("in POST")
        self.expect_targets("S2")
        if post != "again":
            self.trouble("post", "S2")
        time.sleep(cycle.training)
        if post == "reset":
            # A reset during POST moves no line: firmware begins anew, and says so.
            host.note("silent-reset")
            time.sleep(cycle.early)
            self.say_state("S2")
            time.sleep(cycle.training)
        if post == "hang":
            host.note("hang")
            time.sleep(cycle.training + 1)
            return False
        if self.rng.random() < 0.5:
            host.post_complete_rises()
            self.say_state("S0")
        else:
            self.say_state("S0")
            host.post_complete_rises()
        return True

    def say_state(self, name, give_up=False):
        exchange = self.host.report(name, give_up)
        good = exchange is not None and exchange.response[2] == 0
        got = "no answer" if exchange is None else f"completion code {exchange.response[2]:02X}h"
        if good:
            self.answered = exchange.answered, self.machine.scheduled()
        if self.result.check(good, f"Set {name}: {got}"):
            self.expect_state(name, exchange.answered, told=True)
            try:
                got = self.host.reported()
                self.result.check(got == CODES[name], f"Get ACPI Power State after {name} gives {got}")
            except Failed as error:
                self.result.check(False, f"Get ACPI Power State: {error}")

    def working(self):
        sent = next(at for at, what, _ in reversed(self.host.facts) if what == "s0-sent")
        self.expect_gate(sent, self.timing["settle"])
        self.expect_readings(READING, "first reading")
        self.heat()
        self.expect_readings(READING, "changed reading")
        self.expect_targets("S0")

    def cycle(self, cycle):
        result = self.result = Result(cycle)
        host = self.host
        host.note("cycle", cycle.number)
        self.heat()
        self.trouble("off", "S5")
        self.expect_state("S5", time.time())
        self.expect_targets("S5")
        host.power_on()
        self.trouble("early")
        time.sleep(cycle.early)
        if self.uefi(cycle.post):
            self.working()
            self.trouble("s0", "S0", working=True)
            time.sleep(cycle.working)
            self.ending(cycle)
        else:
            self.lose_power()
        time.sleep(cycle.off)
        self.expect_blind("when off")
        result.ended = time.time()
        return result

    def lose_power(self):
        lost = time.time()
        self.host.power_off()
        self.expect_state("S5", lost)

    def ending(self, cycle):
        host = self.host
        if cycle.ending in ("warm-reset", "os-reboot"):
            if cycle.ending == "os-reboot":
                # While nothing shows a reset yet.
                self.say_state("S2")
                self.expect_blind("before a reboot")
                self.expect_targets("S2")
            host.note("warm-reset")
            host.post_complete_falls()
            time.sleep(0.3 + cycle.early)
            self.uefi("again")
            self.working()
        elif cycle.ending == "power-cycle":
            # Without S5, and shorter than BMCs like it.
            self.lose_power()
            time.sleep(cycle.off / 2)
            host.power_on()
            time.sleep(cycle.early)
            self.uefi("again")
            self.working()
        if cycle.ending != "dc-loss":
            self.say_state("S5")
            time.sleep(cycle.early / 2)
        self.lose_power()

    def restart(self):
        """So that the time to READY=1 is measured on a machine that does nothing else, not in the middle of its boot."""
        status, output = self.machine.run(f"systemctl restart {self.service}")
        if status:
            raise Broken(f"the service does not restart: {output}")

    def measure(self):
        """What the daemon costs in there."""
        figures = {}
        status, output = self.machine.run(
            f"systemctl show {self.service} -p ExecMainStartTimestampMonotonic -p ExecMainHandoffTimestampMonotonic"
            f" -p ActiveEnterTimestampMonotonic; cat /proc/$(cat /sys/fs/cgroup/system.slice/{self.service}.service/cgroup.procs)/smaps_rollup"
        )
        if status == 0:
            values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
            memory = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
            forked, executed, ready = (
                int(values[f"{name}TimestampMonotonic"]) for name in ("ExecMainStart", "ExecMainHandoff", "ActiveEnter")
            )
            # Systemd's own part, sandbox and all, up to exec; and ours, from exec to READY=1.
            figures["sandbox_ms"] = round((executed - forked) / 1000, 1)
            figures["ready_ms"] = round((ready - executed) / 1000, 1)
            figures["pss_kb"] = int(memory["Pss"].split()[0])
            figures["rss_kb"] = int(memory["Rss"].split()[0])
        return figures
