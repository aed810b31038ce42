# SPDX-License-Identifier: Apache-2.0
"""The host's side of the KCS interface (IPMI 2.0, chapter 9), on QEMU's model of the LPC controller.

Owns the protocol and its timeouts as UEFI has them. Must never know what the messages mean.
"""

import time

LPC = "/machine/soc/lpc"
# KCS channel 3 of the AST2600's LPC controller at 1e789000h: STR3.
STATUS = 0x1E789044
OBF, IBF, COMMAND = 0x01, 0x02, 0x08
IDLE, READ, WRITE = 0, 1, 2
GET_STATUS_ABORT, WRITE_START, WRITE_END, READ_BYTE = 0x60, 0x61, 0x62, 0x68


class Failed(Exception):
    """A timeout, or a state that the protocol does not have there."""


class Exchange:
    """One request and its answer, with the host's times."""

    def __init__(self, request):
        self.request = request
        self.begun = time.time()
        self.asked = self.answered = self.ended = None
        self.response = b""

    @property
    def ack(self):
        """Seconds from the request's last byte to the answer's first."""
        return self.answered - self.asked


class Kcs:
    # UEFI's: five seconds for each wait.
    TIMEOUT = 5.0

    def __init__(self, machine):
        self.machine = machine

    def _status(self):
        return self.machine.get(LPC, "str3")

    def _wait(self, mask, value, what):
        deadline = time.monotonic() + self.TIMEOUT
        while True:
            status = self._status()
            if status & mask == value:
                return status
            if time.monotonic() > deadline:
                raise Failed(f"{what}: status {status:#04x} for {self.TIMEOUT} s")
            time.sleep(0.0002)

    def _put(self, byte, command):
        status = self._wait(IBF, 0, "the BMC does not take a byte")
        # QEMU's model sets IBF by itself; which of the two ports it was, it leaves to us.
        self.machine.writel(STATUS, (status | COMMAND) if command else (status & ~COMMAND))
        self.machine.set(LPC, "idr3", byte)

    def _taken(self, state, what):
        status = self._wait(IBF, 0, what)
        if status >> 6 != state:
            raise Failed(f"{what}: state {status >> 6} in place of {state}")
        return status

    def _clear(self):
        if self._status() & OBF:
            self.machine.get(LPC, "odr3")

    def send(self, exchange):
        """The request, up to its last byte."""
        self._clear()
        self._put(WRITE_START, True)
        self._taken(WRITE, "WRITE_START")
        self._clear()
        *first, last = exchange.request
        for byte in first:
            self._put(byte, False)
            self._taken(WRITE, "data")
            self._clear()
        self._put(WRITE_END, True)
        self._taken(WRITE, "WRITE_END")
        self._clear()
        self._put(last, False)
        exchange.asked = time.time()

    def receive(self, exchange):
        """The answer."""
        while True:
            status = self._wait(IBF, 0, "answer")
            if status >> 6 == WRITE:  # The last byte of the request is only just being looked at.
                status = self._wait(0xC0, READ << 6, "answer")
            if status >> 6 == READ:
                self._wait(OBF, OBF, "a byte of the answer")
                if exchange.answered is None:
                    exchange.answered = time.time()
                exchange.response += bytes([self.machine.get(LPC, "odr3")])
                self._put(READ_BYTE, False)
            elif status >> 6 == IDLE:
                self._wait(OBF, OBF, "the end of the answer")
                self.machine.get(LPC, "odr3")
                exchange.ended = time.time()
                return
            else:
                raise Failed(f"answer: state {status >> 6}")

    def abort(self):
        """Get Status/Abort: out of whatever state, back to idle (9.12)."""
        self._put(GET_STATUS_ABORT, True)
        self._wait(IBF, 0, "abort")
        self._clear()
        self._put(0, False)
        self._wait(IBF, 0, "abort")
        status = self._status()
        if status >> 6 == READ:
            self._wait(OBF, OBF, "abort's status")
            self.machine.get(LPC, "odr3")
            self._put(READ_BYTE, False)
            self._wait(0xC0, IDLE << 6, "the end of the abort")
        self._clear()

    def ask(self, netfn, command, data=b"", give_up=False):
        """One exchange. With `give_up` the host does not wait for the answer, aborts, and asks again."""
        request = bytes([netfn << 2, command]) + bytes(data)
        if give_up:
            lost = Exchange(request)
            self.send(lost)
            self.abort()
        exchange = Exchange(request)
        self.send(exchange)
        self.receive(exchange)
        head = bytes([(netfn | 1) << 2, command])
        if exchange.response[:2] != head or len(exchange.response) < 3:
            raise Failed(f"the answer to {request.hex(' ')} is {exchange.response.hex(' ')}")
        return exchange
