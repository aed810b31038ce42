# SPDX-License-Identifier: Apache-2.0
"""The emulated BMC as a process: QMP, qtest, the agent's serial line, the trace of the I2C controllers.

Owns the QEMU process and its sockets. Must never know what a right answer is.
"""

import json
import os
import queue
import shutil
import socket
import subprocess
import threading
import time

# The guest's DIMMs: name, QEMU's bus, address. The devices are TMP105s, whose registers are a TMP75's.
DIMMS = [
    ("DIMM_TEMP_A1", 3, 0x18),
    ("DIMM_TEMP_B1", 3, 0x19),
    ("DIMM_TEMP_C1", 4, 0x18),
    ("DIMM_TEMP_D1", 4, 0x19),
]
DIMM_BUSES = sorted({bus for _, bus, _ in DIMMS})
# The lines that qemu/guest/units/board.service watches.
POWER_GOOD = "gpioB2"
POST_COMPLETE = "gpioB3"

ACPI = "xyz.openbmc_project.Control.Power.ACPIPowerState"
ACPI_PATH = "/xyz/openbmc_project/control/host0/acpi_power_state"
TRACKER = ACPI + ".Tracker"


class Broken(Exception):
    """The bench itself, not what it tests, does not work."""


class Asked(Exception):
    """The guest answered a question with an error."""


def _connect(path, process, bound=20):
    deadline = time.monotonic() + bound
    while True:
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(path)
            return connection
        except OSError as error:
            connection.close()
            if process.poll() is not None:
                raise Broken(f"QEMU ended with {process.returncode}; see qemu.log") from error
            if time.monotonic() > deadline:
                raise Broken(f"QEMU does not open {path}") from error
            time.sleep(0.05)


class Machine:
    """Times are those of `time.time()`: QEMU stamps its trace with the same clock."""

    def __init__(self, image, work, qemu="qemu-system-arm", devices=()):
        self.image, self.work, self.qemu, self.devices = image, work, qemu, devices
        self.trace = os.path.join(work, "trace.log")
        self.process = None
        self.signals = []  # (time, path, member, args), as the agent passes them on
        self.hellos = []
        self.on_reset = None
        self._number = 0
        self._answers = {}
        self._lock = threading.Lock()
        self._ask_lock = threading.Lock()
        self._qmp_answers = queue.Queue()
        self.resets = []

    def start(self):
        if not shutil.which(self.qemu):
            raise Broken(f"{self.qemu} is not here; Debian's package is qemu-system-arm")
        work = self.work
        # Socket paths are short: the work directory's may be longer than a socket may have.
        self.sockets = subprocess.check_output(["mktemp", "-d"], text=True).strip()
        paths = {name: os.path.join(self.sockets, name) for name in ("qmp", "qtest", "agent")}
        command = [self.qemu, "-M", "ast2600-evb", "-m", "1G", "-smp", "2", "-accel", "tcg,thread=multi"]
        command += ["-display", "none", "-nodefaults"]
        command += ["-serial", "file:" + os.path.join(work, "console.log")]
        command += ["-serial", f"unix:{paths['agent']},server=on,wait=off"]
        command += ["-kernel", f"{self.image}/vmlinuz", "-dtb", f"{self.image}/evb.dtb", "-initrd", f"{self.image}/initrd"]
        command += ["-append", "console=ttyS4,115200n8 loglevel=7 rdinit=/init systemd.show_status=1 systemd.log_level=notice"]
        command += ["-drive", f"file={self.image}/storage.img,if=sd,index=2,format=raw"]
        for name, bus, address in DIMMS:
            command += ["-device", f"tmp105,bus=aspeed.i2c.bus.{bus},address={address:#x},id={name}"]
        for device in self.devices:
            command += ["-device", device]
        command += ["-qmp", f"unix:{paths['qmp']},server=on,wait=off"]
        command += ["-qtest", f"unix:{paths['qtest']},server=on,wait=off", "-qtest-log", "none"]
        command += ["-msg", "timestamp=on", "-D", self.trace]
        for event in ("aspeed_i2c_bus_write", "i2c_event", "i2c_send", "i2c_recv", "sdcard_normal_command"):
            command += ["-trace", event]
        with open(os.path.join(work, "qemu.log"), "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._qmp = _connect(paths["qmp"], self.process).makefile("rw")
        self._qmp.readline()
        threading.Thread(target=self._read_qmp, daemon=True).start()
        self.qmp("qmp_capabilities")
        self._qtest = _connect(paths["qtest"], self.process).makefile("rw")
        self._agent = _connect(paths["agent"], self.process)
        threading.Thread(target=self._read_agent, daemon=True).start()

    def stop(self):
        if self.process and self.process.poll() is None:
            try:
                self.qmp("quit")
                self.process.wait(10)
            except (Broken, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        if self.process:
            shutil.rmtree(self.sockets, ignore_errors=True)

    # QMP

    def _read_qmp(self):
        for line in self._qmp_lines():
            message = json.loads(line)
            if message.get("event") == "RESET":
                self.resets.append(time.time())
                if self.on_reset:
                    # From here no question may be asked: the answers come through this thread.
                    threading.Thread(target=self.on_reset, daemon=True).start()
            elif "event" not in message:
                self._qmp_answers.put(message)
        self._qmp_answers.put(None)

    def _qmp_lines(self):
        try:
            yield from self._qmp
        except OSError:
            pass  # QEMU has ended.

    def qmp(self, command, **arguments):
        with self._lock:
            try:
                self._qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                self._qmp.flush()
                answer = self._qmp_answers.get(timeout=20)
            except (OSError, queue.Empty) as error:
                raise Broken(f"QEMU does not answer {command}: {error!r}") from error
        if answer is None:
            raise Broken(f"QEMU is gone at {command}")
        if "error" in answer:
            raise Broken(f"QEMU refuses {command} {arguments}: {answer['error']['desc']}")
        return answer["return"]

    def get(self, path, name):
        return self.qmp("qom-get", path=path, property=name)

    def set(self, path, name, value):
        self.qmp("qom-set", path=path, property=name, value=value)

    def line(self, name, level):
        self.set("/machine/soc/gpio", name, bool(level))

    def temperature(self, dimm, degrees):
        self.set(f"/machine/peripheral/{dimm}", "temperature", int(degrees * 1000))

    # qtest

    def writel(self, address, value):
        with self._lock:
            self._qtest.write(f"writel {address:#x} {value:#x}\n")
            self._qtest.flush()
            answer = self._qtest.readline().strip()
        if answer != "OK":
            raise Broken(f"qtest answers {answer!r}")

    # The agent

    def _read_agent(self):
        rest = b""
        while True:
            try:
                more = self._agent.recv(65536)
            except OSError:
                return
            if not more:
                return
            now = time.time()
            *lines, rest = (rest + more).split(b"\n")
            for line in lines:
                self._heard(now, line.decode(errors="replace").strip("\r\0 "))

    def _heard(self, now, line):
        kind, _, rest = line.partition(" ")
        try:
            if line == "H":
                self.hellos.append(now)
            elif kind == "S":
                signal = json.loads(rest)
                self.signals.append((now, signal["path"], signal["member"], signal["args"]))
            elif kind in ("R", "E"):
                number, _, text = rest.partition(" ")
                answer = self._answers.pop(int(number), None)
                if answer is not None:
                    answer.put((kind, json.loads(text) if kind == "R" else text))
        except (ValueError, KeyError):
            pass  # Half a line, from a BMC that was reset in the middle of it.

    def ask(self, question, bound=10):
        """The agent's answer. Raises Asked if the guest says no, or nothing."""
        answer = queue.Queue()
        with self._ask_lock:
            self._number += 1
            number = self._number
            self._answers[number] = answer
            self._agent.sendall(f"{number} {question}\n".encode())
        try:
            kind, value = answer.get(timeout=bound)
        except queue.Empty:
            self._answers.pop(number, None)
            if self.process.poll() is not None:
                raise Broken(f"QEMU ended with {self.process.returncode}") from None
            raise Asked(f"no answer in {bound} s: {question}") from None
        if kind == "E":
            raise Asked(f"{question}: {value}")
        return value

    def run(self, command, bound=30):
        """(status, output) of a command in the guest."""
        return tuple(self.ask("run " + command, bound))

    def prop(self, service, path, interface, name):
        return self.ask(f"prop {service} {path} {interface} {name}")[0]

    def scheduled(self):
        """Of each of QEMU's threads, seconds that it ran, and that it could have run and was not let."""
        times = {}
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                with open(f"/proc/{self.process.pid}/task/{thread}/schedstat", encoding="ascii") as stat:
                    ran, waited, _ = map(int, stat.read().split())
            except OSError:
                continue  # It has ended.
            times[thread] = ran / 1e9, waited / 1e9
        return times

    def since(self, before):
        """Seconds that QEMU ran since then, and that one of its threads was kept from it."""
        none = (0.0, 0.0)
        passed = [
            (ran - before.get(thread, none)[0], waited - before.get(thread, none)[1])
            for thread, (ran, waited) in self.scheduled().items()
        ]
        return sum(ran for ran, _ in passed), max((waited for _, waited in passed), default=0.0)

    def stuck(self):
        """What a BMC that does not come up is doing, in machine.txt; returns the end of its console."""
        with open(os.path.join(self.work, "machine.txt"), "w", encoding="utf-8") as out:
            for command in ("info status", "info registers -a", "info registers -a", "info qtree"):
                out.write(f"== {command}\n" + self.qmp("human-monitor-command", **{"command-line": command}))
                time.sleep(0.5)
        with open(os.path.join(self.work, "console.log"), "rb") as console:
            return console.read()[-600:].decode(errors="replace")

    def wait_hello(self, count, bound):
        """Until the agent has greeted that often: the BMC is up. Time in which QEMU was kept from running does not count."""
        begun, before = time.monotonic(), self.scheduled()
        while len(self.hellos) < count:
            if self.process.poll() is not None:
                raise Broken(f"QEMU ended with {self.process.returncode}")
            passed, (ran, waited) = time.monotonic() - begun, self.since(before)
            if passed - waited > bound or passed > 3 * bound:
                raise Broken(
                    f"the BMC is not up after {passed:.0f} s, in which QEMU ran for {ran:.0f} s and was kept from it"
                    f" for {waited:.0f} s; its console ends: {self.stuck()}"
                )
            time.sleep(0.1)
