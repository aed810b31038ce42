# SPDX-License-Identifier: Apache-2.0
"""The host: power, reset, UEFI and OS, as the BMC sees them from outside.

Drives two GPIO lines and KCS, and writes down what it did and when. Must never look at what the BMC does about it,
but for the answers that it gets over KCS.
"""

import os
import time

from kcs import Failed, Kcs
from machine import POST_COMPLETE, POWER_GOOD

NETFN_APP, GET_DEVICE_ID, SET_ACPI, GET_ACPI = 0x06, 0x01, 0x06, 0x07


def messages():
    """The data of Set ACPI Power State for each state, byte for byte what the package for the host says (host/messages.txt)."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../host/messages.txt")
    with open(path, encoding="utf-8") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    said = {state: [int(byte, 16) for byte in bytes_] for state, raw, *bytes_ in lines}
    return {state: said[state][2:] for state in ("S0", "S2", "S5") if said[state][:2] == [NETFN_APP, SET_ACPI]}


MESSAGES = messages()
# What Get gives then: system and device state.
CODES = {state: tuple(byte & 0x7F for byte in said) for state, said in MESSAGES.items()}


class Host:
    def __init__(self, machine, kcs=None):
        self.machine = machine
        self.kcs = kcs or Kcs(machine)
        self.facts = []  # (time, what, detail)
        self.exchanges = []  # (state, Exchange)
        self.power_good = self.post_complete = False
        machine.on_reset = self.redrive

    def note(self, what, detail=None, at=None):
        self.facts.append((time.time() if at is None else at, what, detail))

    def redrive(self):
        """The lines are the board's; that the BMC was reset does not change them, but QEMU's model forgets them."""
        self.machine.line(POWER_GOOD, self.power_good)
        self.machine.line(POST_COMPLETE, self.post_complete)

    # Lines. What takes power or the OS away is noted before, what gives it after: windows are never too short.

    def power_on(self):
        self.power_good = True
        self.machine.line(POWER_GOOD, True)
        self.note("power-on")

    def power_off(self):
        self.note("power-lost")
        self.post_complete = self.power_good = False
        self.machine.line(POST_COMPLETE, False)
        self.machine.line(POWER_GOOD, False)

    def post_complete_rises(self):
        self.post_complete = True
        self.machine.line(POST_COMPLETE, True)
        self.note("post-complete")

    def post_complete_falls(self):
        self.note("post-complete-falls")
        self.post_complete = False
        self.machine.line(POST_COMPLETE, False)

    # UEFI.

    def device_id(self):
        return self.kcs.ask(NETFN_APP, GET_DEVICE_ID)

    def reported(self):
        """Get ACPI Power State: the two bytes, or the completion code alone."""
        response = self.kcs.ask(NETFN_APP, GET_ACPI).response
        return tuple(response[3:5]) if response[2] == 0 else (response[2],)

    def manners(self):
        """What the responder must refuse, and how (IPMI 2.0, table 5-2). Says what it did otherwise."""
        wrong = []
        for netfn, command, data, code in (
            (NETFN_APP, 0x3B, [], 0xC1),  # Not a command of ours.
            (0x0A, GET_DEVICE_ID, [], 0xC1),
            (NETFN_APP, SET_ACPI, [0x80], 0xC7),
            (NETFN_APP, SET_ACPI, [0x80, 0x80, 0x80], 0xC7),
            (NETFN_APP, GET_DEVICE_ID, [0], 0xC7),
            (NETFN_APP, SET_ACPI, [0x8B, 0x00], 0xC9),
            (NETFN_APP, SET_ACPI, [0x00, 0x85], 0xC9),
            (NETFN_APP, SET_ACPI, [0x7F, 0x02], 0x00),  # Bit 7 is clear: nothing is to be set.
        ):
            got = self.kcs.ask(netfn, command, data).response[2]
            if got != code:
                asked = f"netfn {netfn:02X}h command {command:02X}h {bytes(data).hex(' ')}"
                wrong.append(f"{asked}: {got:02X}h, not {code:02X}h")
        return wrong

    def report(self, state, give_up=False):
        """Set ACPI Power State, both halves; as UEFI: three tries, then on without. Returns the exchange or None."""
        for _ in range(3):
            self.note("says", state)
            try:
                exchange = self.kcs.ask(NETFN_APP, SET_ACPI, MESSAGES[state], give_up)
            except Failed as error:
                self.note("kcs-failed", f"{state}: {error}")
                if state == "S0":
                    # Whatever the BMC made of it: the host has said that the buses are the BMC's again.
                    self.note("s0-sent")
                try:
                    self.kcs.abort()
                except Failed:
                    pass
                continue
            if state == "S0":
                # The BMC may act on it from the request's last byte on.
                self.note("s0-sent", at=exchange.asked)
            self.exchanges.append((state, exchange))
            self.note("answered", (state, exchange.response[2], exchange.ack), exchange.answered)
            return exchange
        return None
