# SPDX-License-Identifier: Apache-2.0
"""Says what was wrong, from the trace of the I2C controllers and the host's own notes alone.

What the guest says of itself comes into it only where the guest is what is judged (states, targets, sensors).
"""

import re
from dataclasses import dataclass

# From a line's fall to the last transfer: the BMC's kernel, its power control and the bus come before the daemon, and
# the emulation is slow. Transfers within are counted and shown, not judged. An answer over KCS has no such grace.
NOTICE = 0.25
# An emulation that gets no CPU takes longer; then it counts from when power control was heard to say so, plus HEARD, but
# never later than this.
LONGEST_NOTICE, HEARD = 2.0, 0.1
# The daemon's answer came from the guest; by then the property has changed. Serial line and emulation, no more.
SEEN = 1.5
# How long after its answer a state can be lost to a hard reset of the BMC (docs/state.md): the write that is under way on the
# storage, and its own. Each is two fsyncs on the emulated eMMC.
STORED = 1.0

_COMMAND = re.compile(
    r"^\d+@(\d+\.\d+):aspeed_i2c_bus_write bus\[(\d+)\]: To 0x(\w+) of size \d+: 0x(\w+)"
)
# The guest writes a block, or several.
_STORAGE = re.compile(r"^\d+@(\d+\.\d+):sdcard_normal_command .*CMD2[45]\b")
# I2CD00 (function control), I2CD14 (command) and I2CD20 (byte buffer) of the AST2600's old register mode, as Linux's
# i2c-aspeed drives it.
FUNCTION, COMMAND, BUFFER = 0x00, 0x14, 0x20
START, TX, RX, STOP = 0x01, 0x02, 0x08 | 0x10, 0x20


@dataclass
class Transfer:
    """From a START to its STOP (repeated STARTs within), as the controller was told."""

    bus: int
    address: int
    begun: float
    ended: float
    bytes: int
    # What the BMC wrote, behind the address.
    written: bytes = b""


class Trace:
    """Reads the trace as it grows."""

    def __init__(self, path, buses):
        self.path, self.buses = path, set(buses)
        self.transfers = []
        # STARTs as the controllers were told, and as devices saw them: a check on our reading. No device, no second one.
        self.starts = self.device_starts = 0
        # When the guest wrote to its storage.
        self.writes = []
        self._buffer, self._running = {}, {}
        self._offset, self._rest = 0, ""

    def read(self):
        with open(self.path, "rb") as trace:
            trace.seek(self._offset)
            new = trace.read()
        self._offset += len(new)
        *lines, self._rest = (self._rest + new.decode(errors="replace")).split("\n")
        for line in lines:
            self._line(line)
        return self

    def _line(self, line):
        if ":i2c_event start" in line:
            self.device_starts += 1
        if stored := _STORAGE.match(line):
            self.writes.append(float(stored[1]))
        match = _COMMAND.match(line)
        if not match:
            return
        at, bus, register = float(match[1]), int(match[2]), int(match[3], 16)
        value = int(match[4], 16)
        if bus not in self.buses:
            return
        if register == FUNCTION and value == 0:
            # The driver sets the controller up anew: a reset of the BMC ended what it was doing.
            self._running.pop(bus, None)
        elif register == BUFFER:
            self._buffer[bus] = value
        elif register == COMMAND:
            running = self._running.get(bus)
            self.starts += value & START
            if value & START and running is None:
                running = Transfer(bus, self._buffer.get(bus, 0) >> 1 & 0x7F, at, at, 0)
                self._running[bus] = running
                self.transfers.append(running)
            if running is None:
                if value & (TX | RX):
                    # Bytes without a START: seen, and counted as a transfer of its own.
                    self.transfers.append(Transfer(bus, 0, at, at, 1))
                return
            running.ended = at
            if value & (TX | RX):
                running.bytes += 1
            if value & TX and not value & START:
                running.written += bytes([self._buffer.get(bus, 0) & 0xFF])
            if value & STOP:
                del self._running[bus]


class Mux:
    """A PCA954x switch: one register, a bit for each channel that is joined to its bus."""

    def __init__(self, bus, address):
        self.bus, self.address = bus, address

    def joined(self, transfers):
        """(transfer, the channels on whose wires it was seen, as bits) for each one on its bus.

        Its own writes too: what it is told holds from their STOP on, and until then they are seen where the ones before were.
        """
        register, seen = 0, []
        for transfer in transfers:
            if transfer.bus == self.bus:
                seen.append((transfer, register))
                if transfer.address == self.address and transfer.written:
                    register = transfer.written[-1]
        return seen


@dataclass
class Window:
    """The BMC may not transfer on the DIMM buses from `begin` to `end`; before `sure` it may not have known."""

    begin: float
    sure: float
    end: float
    why: str


def heard_off(signals):
    """When power control said that the host is off, as heard outside."""
    state = "xyz.openbmc_project.State."
    return [
        at
        for at, _, member, args in signals
        if member == "PropertiesChanged"
        and args[0] in (state + "Host", state + "Chassis")
        and any(str(value).endswith("State.Off") for value in args[1].values())
    ]


def notice(fell, offs):
    """How long after a line's fall the BMC may not know it."""
    said = next((at for at in offs if at >= fell), fell)
    return min(max(NOTICE, said - fell + HEARD), LONGEST_NOTICE) if said - fell < 60 else NOTICE


def closed_windows(facts, until, offs=()):
    """From the host's notes. It begins closed: the host is off. `offs`: see heard_off."""
    windows, current = [], None

    def close(at, sure, why):
        nonlocal current
        if current is None:
            current = Window(at, sure, until, why)
        elif sure < current.sure:
            current.sure, current.why = sure, f"{current.why}, {why}"

    for at, what, detail in sorted(facts, key=lambda fact: fact[0]):
        if what == "begin":
            close(at, at, "off")
        elif what in ("power-lost", "post-complete-falls"):
            close(at, at + notice(at, offs), what)
        elif what == "answered" and detail[0] in ("S2", "S5") and detail[1] == 0:
            close(at, at, f"{detail[0]} answered")
        elif what == "s0-sent" and current is not None:
            current.end = at
            windows.append(current)
            current = None
    if current is not None:
        windows.append(current)
    return windows


def offences(windows, transfers):
    """(in closed windows, before the BMC could know), each a list of transfers. One that was under way counts."""
    bad, unknowing = [], []
    for transfer in transfers:
        for window in windows:
            if transfer.ended >= window.sure and transfer.begun < window.end:
                bad.append(transfer)
                break
            if transfer.ended >= window.begin and transfer.begun < window.sure:
                unknowing.append(transfer)
                break
    return bad, unknowing


def described(windows, bad):
    """Where in their windows: which ones, and how long after their beginning."""
    found = {}
    for transfer in bad:
        for window in windows:
            if transfer.ended >= window.sure and transfer.begun < window.end:
                found.setdefault(window.why, []).append(transfer.begun - window.begin)
                break
    return "; ".join(
        f"{len(times)} after {why} ({min(times):.2f} to {max(times):.2f} s)" for why, times in sorted(found.items())
    )


def stored_after(asked, answered, writes, pause=0.3):
    """Seconds from an answer to the end of the first writes since it was asked for that follow each other without a pause. None if
    there were none; below zero if the storage was quiet before the host had the answer."""
    last = None
    for at in sorted(at for at in writes if at >= asked):
        if last is None and at > answered + STORED:
            break
        if last is not None and at - last > pause:
            break
        last = at
    return None if last is None else last - answered


def may_be_lost(trouble, since_answer):
    """Whether the last state that was answered may not be on the storage. An orderly restart writes what is left."""
    return trouble == "bmc-reset" and since_answer < STORED


def too_early(facts, transfers, settle):
    """Transfers between S0 and the end of `settle`: none of the host's business, but against our own promise."""
    early = []
    for at, what, _ in facts:
        if what == "s0-sent":
            early += [t for t in transfers if at <= t.begun < at + settle * 0.95]
    return early
