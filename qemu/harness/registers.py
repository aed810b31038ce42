# SPDX-License-Identifier: Apache-2.0
"""`./dev i2c`: the daemon and Linux's I2C. Register maps behind i2c-stub, TMP105s behind the ASPEED controllers, one of them
behind a mux.

Each check is a line `ok` or `FAILED`; the exit code follows. The judges are the kernel's smbus tracepoints and QEMU's trace.
"""

import argparse
import os
import sys
import time

from conductor import AVAILABLE, SENSORS, VALUE
from host import Host
from judge import Mux, Trace
from machine import ACPI, ACPI_PATH, TRACKER, Asked, Broken, Machine

STUB = 16  # The first number behind the AST2600's own sixteen.
TRACING = "/sys/kernel/tracing"
FUNCTIONAL = "xyz.openbmc_project.State.Decorator.OperationalStatus"
CRITICAL = "xyz.openbmc_project.Sensor.Threshold.Critical"


# A PCA9546 with a DIMM on its channel 0 and nothing on the others, and a sensor on the bus that it is on. Its channels are
# Linux's buses after the stub's.
ABOVE, CHANNEL = 5, STUB + 1
MUX = Mux(ABOVE, 0x70)
DEVICES = (
    f"pca9546,bus=aspeed.i2c.bus.{ABOVE},address={MUX.address:#x}",
    "tmp105,bus=i2c.0,address=0x18,id=MUX_DIMM",
    f"tmp105,bus=aspeed.i2c.bus.{ABOVE},address=0x49,id=MUX_ABOVE",
)


def swapped(value):
    return (value & 0xFF) << 8 | value >> 8


# JC42.4 registers have their high byte first; SMBus words their low byte. 0x0054 and 0x0400 are an MCP9808's, which Linux's
# jc42 knows and takes; 0x1131 with 0x9999 is none that it knows, so that address stays ours.
def jc42(address, manufacturer, device, sixteenths):
    registers = {0: 0x00EF, 1: 0x0000, 5: sixteenths & 0x1FFF, 6: manufacturer, 7: device}
    return [(address, register, swapped(value)) for register, value in registers.items()]


# JESD300-5: device type, capability, sensor configuration, temperature in quarters of a degree at bit 2.
def spd5118(address, sixteenths):
    return [(address, 0x00, 0x1851), (address, 0x05, 0x0003), (address, 0x1A, 0x0000), (address, 0x31, sixteenths & 0x1FFC)]


MAPS = (
    jc42(0x18, 0x1131, 0x9999, 25 * 16)
    + spd5118(0x50, 36 * 16 + 4)
    + jc42(0x1B, 0x0054, 0x0400, 47 * 16)
    + jc42(0x1C, 0x0054, 0x0400, 48 * 16)
)


class Bench:
    def __init__(self, machine):
        self.machine, self.failed = machine, 0

    def check(self, good, what, detail=""):
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {what}{'' if good else ': ' + str(detail)}", flush=True)

    def sh(self, command):
        status, output = self.machine.run(command)
        if status != 0:
            raise Broken(f"in the guest, `{command}` gives {status}: {output}")
        return output

    def poke(self, registers):
        self.sh("; ".join(f"busybox i2cset -f -y {STUB} {a:#x} {r:#x} {v:#x} w || exit 1" for a, r, v in registers))

    def sensor(self, name):
        """Value, available, functional."""
        objects = self.machine.ask(f"objects {ACPI} {SENSORS}")[0]
        interfaces = objects[f"{SENSORS}/temperature/{name}"]
        return interfaces[VALUE]["Value"], interfaces[AVAILABLE]["Available"], interfaces[FUNCTIONAL]["Functional"]

    def until(self, what, condition, bound=20):
        deadline, seen = time.monotonic() + bound, None
        while time.monotonic() < deadline:
            try:
                seen = condition()
                if seen is True:
                    break
            except Asked as error:
                seen = error
            time.sleep(0.2)
        self.check(seen is True, what, seen)

    def shows(self, name, degrees, bound=20):
        wanted = (degrees, True, True)
        self.until(f"{name} shows {degrees}", lambda: self.sensor(name) == wanted or self.sensor(name), bound)

    def gone(self, name):
        self.until(f"{name} is unavailable", lambda: self.sensor(name) == (None, False, False) or self.sensor(name))

    def gate(self):
        return self.machine.prop(ACPI, ACPI_PATH, TRACKER, "GateOpen")

    def traced(self):
        """What the kernel transferred since the last call, one line a transfer; the stub's as well as the real ones."""
        text = self.sh(f"cat {TRACING}/trace; echo > {TRACING}/trace")
        return [line for line in text.splitlines() if "smbus_read:" in line or "smbus_write:" in line]

    def journal(self):
        return self.sh("journalctl --no-pager -o cat -u acpi-stated")


def play(bench, host, wire):
    machine = bench.machine
    bench.sh(f"mount -t tracefs tracefs {TRACING}; echo 1 > {TRACING}/events/smbus/enable")
    bench.traced()
    host.power_on()
    host.report("S2")
    host.report("S0")
    bench.until("the gate opens", lambda: bench.gate() is True, 30)
    bench.shows("REAL_TMP75", 0)
    machine.set("/machine/peripheral/DIMM_TEMP_A1", "temperature", 31500)
    bench.shows("REAL_TMP75", 31.5)
    text = bench.journal()
    bench.check(text.count(f"I2C bus {STUB} cannot be opened") == 1, "a bus that is not there is said once", text)

    # The driver is probed late. An MCP9808 each at 0x1b and 0x1c is taken by the kernel's own driver.
    bench.sh(f"modprobe i2c-stub chip_addr=0x18,0x50,0x51,0x1b,0x1c")
    bench.check(os.path.basename(bench.sh("ls -d /sys/bus/i2c/devices/i2c-16").strip()) == "i2c-16", "i2c-stub is bus 16")
    bench.poke(MAPS)
    bench.sh("modprobe jc42")
    bench.shows("STUB_JC42", 25, 90)
    bench.shows("STUB_SPD5118", 36.25)
    bench.shows("STUB_HWMON", 47)
    bench.check("I2C bus 16 is there now" in bench.journal(), "a bus that comes late is found, and said")

    # Changed from outside.
    bench.poke([(0x18, 5, swapped(-10 * 16 & 0x1FFF)), (0x50, 0x31, 83 * 16)])
    bench.shows("STUB_JC42", -10)
    bench.shows("STUB_SPD5118", 83)
    bench.poke([(0x18, 5, swapped(0xC000 | 97 * 16))])
    bench.shows("STUB_JC42", 97)
    path = f"{SENSORS}/temperature/STUB_JC42"
    bench.until("and is a critical alarm", lambda: machine.prop(ACPI, path, CRITICAL, "CriticalAlarmHigh"))
    bench.poke([(0x50, 0x1A, 0x0001)])
    bench.until("an SPD5118 whose sensor is switched off fails", lambda: bench.sensor("STUB_SPD5118")[2] is False, 60)
    bench.poke([(0x50, 0x1A, 0x0000)])
    bench.shows("STUB_SPD5118", 83, 30)

    # Nobody answers: ENXIO of the ASPEED controller, ENODEV of the stub. And a driver has it: EBUSY.
    for name in ("REAL_ABSENT", "STUB_ABSENT"):
        bench.gone(name)
    # There is a device, and it cannot be read: fan control must see that.
    taken = lambda: bench.sensor("STUB_TAKEN")
    bench.until("one that a driver has is shown as failed", lambda: taken() == (None, True, False) or taken(), 90)
    text = bench.journal()
    for name in ("REAL_ABSENT", "STUB_ABSENT"):
        said = [line for line in text.splitlines() if line.startswith(f"{name}:")]
        bench.check(len(said) == 1, f"{name} is said once: {said[:1]}", said)
    bench.check("the kernel driver jc42 has address 0x1c" in text, "the driver that has an address is named", text)

    seen = bench.traced()
    pages = [line for line in seen if "smbus_write:" in line and "i2c-16 a=050" in line and of_page(line)]
    bench.check(len(seen) > 20, f"the kernel traced {len(seen)} transfers with the gate open")
    writes = [line for line in seen if "smbus_write:" in line]
    # The pokes are the only writes: this program's.
    bench.check(not pages, "the page register of an SPD5118 that shows its registers was never written", pages)
    print(f"       ({len(writes)} writes, all of this program's pokes)")
    hub_behind_a_page(bench)

    # The host goes into POST: from the answer on, nothing.
    host.report("S2")
    answered = time.time()
    bench.traced()
    for name in ("REAL_TMP75", "STUB_JC42", "STUB_SPD5118", "STUB_HWMON"):
        bench.gone(name)
    time.sleep(6)
    # The sensor on bus 5 is a CPU's, as long as nothing hangs there.
    quiet = [line for line in bench.traced() if f"i2c-{ABOVE} " not in line]
    bench.check(not quiet, "no transfer in POST, by the kernel's tracepoints", quiet[:5])
    late = [transfer for transfer in wire.read().transfers if transfer.begun > answered and transfer.bus == 3]
    bench.check(not late, "nor by QEMU's controllers", late[:5])
    host.report("S0")
    bench.shows("STUB_JC42", 97, 30)
    bench.shows("REAL_TMP75", 31.5)
    bench.check(len(bench.traced()) > 0 and len(wire.read().transfers) > 0, "and then it reads again: the judges can see")

    behind_a_mux(bench, host, wire)

    # The limits of the adapter while it is in use, and after.
    bench.sh("systemctl stop acpi-stated")
    bench.traced()
    time.sleep(3)
    bench.check(not bench.traced(), "a daemon that is stopped transfers nothing")


def of_page(line):
    """Whether it is about register 11, MR11."""
    return " c=b " in line or " c=0b " in line


def hub_behind_a_page(bench):
    """A hub that gives 0 in all registers but MR11: page 0 is written once, read back, and then it is believed."""
    bench.traced()
    # MR11 first: a look at the hub between the pokes must find the page.
    bench.poke([(0x51, 0x0B, 3), (0x51, 0x03, 0), (0x51, 0x00, 0)])
    bench.until("a hub behind another page has its page 0 selected", lambda: "0x00" in bench.sh(
        f"busybox i2cget -f -y {STUB} 0x51 0x0b"), 90)
    bench.until("a device that answers and does not fit is shown as failed",
                lambda: bench.sensor("STUB_PAGE") == (None, True, False) or bench.sensor("STUB_PAGE"), 60)
    bench.poke(spd5118(0x51, 41 * 16))
    bench.shows("STUB_PAGE", 41, 30)
    # Ours has one byte of data; the pokes are words.
    hub = [line for line in bench.traced() if "a=051" in line]
    seen = [line for line in hub if "smbus_write:" in line and of_page(line) and "BYTE_DATA" in line]
    bench.check(len(seen) == 1, "by one write", hub)


def behind_a_mux(bench, host, wire):
    """A DIMM behind a mux that stays on its channel, and then disconnects; a CPU's sensor on the bus that it is on."""
    machine, idle = bench.machine, f"/sys/bus/i2c/devices/{ABOVE}-0070/idle_state"
    machine.set("/machine/peripheral/MUX_ABOVE", "temperature", 21000)
    machine.set("/machine/peripheral/MUX_DIMM", "temperature", 42000)
    bench.shows("MUX_ABOVE", 21)
    bench.sh(f"modprobe i2c-mux-pca954x; echo pca9546 0x70 > /sys/bus/i2c/devices/i2c-{ABOVE}/new_device")
    bench.sh(f"ls -d /sys/bus/i2c/devices/i2c-{CHANNEL}")
    bench.shows("MUX_DIMM", 42, 90)
    bench.shows("MUX_ABOVE", 21)
    said = f"I2C bus {CHANNEL} is a channel of the mux {ABOVE}-0070 on bus {ABOVE}, whose idle_state is -1"
    bench.check(said in bench.journal(), "a mux that comes late and stays connected is found, and said")
    checked = bench.sh("acpi-stated --check-config /etc/acpi-stated/config.json 2>&1")
    bench.check(f"warning: {said}" in checked and "i2c-mux-idle-disconnect" in checked, "--check-config says so too", checked)

    host.report("S2")
    answered = time.time()
    for name in ("MUX_DIMM", "MUX_ABOVE"):
        bench.gone(name)
    time.sleep(4)
    above = MUX.joined(wire.read().transfers)
    late = [transfer for transfer, _ in above if transfer.begun > answered]
    bench.check(above[-1][1] & 1 == 1, "the mux has stayed on the DIMM's channel", above[-3:])
    bench.check(not late, "and nothing is sent on the bus that it is on, in POST", late[:5])
    host.report("S0")
    bench.shows("MUX_DIMM", 42, 30)
    bench.shows("MUX_ABOVE", 21)

    bench.sh(f"echo -2 > {idle}")
    bench.until("that it disconnects is noticed", lambda: "which disconnects when idle" in bench.journal(), 30)
    checked = bench.sh("acpi-stated --check-config /etc/acpi-stated/config.json 2>&1")
    bench.check("which disconnects when idle" in checked, "--check-config says so too", checked)
    host.report("S2")
    answered = time.time()
    bench.gone("MUX_DIMM")

    def since():
        return [(transfer, channels) for transfer, channels in MUX.joined(wire.read().transfers) if transfer.begun > answered]

    bench.until("the sensor above is read on in POST", lambda: len(since()) > 3 or len(since()), 30)
    seen = [transfer for transfer, channels in since() if channels or transfer.address == MUX.address]
    bench.check(not seen, "none is seen on a channel, and the mux is left alone", seen[:5])
    bench.shows("MUX_ABOVE", 21)
    host.report("S0")
    bench.shows("MUX_DIMM", 42, 30)


def main():
    parser = argparse.ArgumentParser(prog="./dev i2c", description=__doc__)
    parser.add_argument("--image", required=True)
    parser.add_argument("--out", required=True)
    chosen = parser.parse_args()
    machine = Machine(chosen.image, chosen.out, devices=DEVICES)
    if os.path.exists(machine.trace):
        os.remove(machine.trace)
    bench = Bench(machine)
    try:
        begun = time.time()
        machine.start()
        host = Host(machine)
        machine.wait_hello(1, 180)
        print(f"the BMC was up after {time.time() - begun:.0f} s", flush=True)
        play(bench, host, Trace(machine.trace, {3, ABOVE}))
    except (Broken, Asked, OSError) as error:
        print(f"broken: {error}")
        return 70
    finally:
        machine.stop()
    print(f"{'FAILED' if bench.failed else 'good'}: {bench.failed} checks failed, after {time.time() - begun:.0f} s")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
