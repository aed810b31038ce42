# SPDX-License-Identifier: Apache-2.0
"""The judge is judged: a recorded transfer in and out of a window, and plans that repeat."""

import os
import tempfile
import unittest

import judge
import plan


def recorded(*times):
    lines = []
    for at in times:
        for step, (register, value) in enumerate([(0x20, 0x30), (0x14, 3), (0x20, 0), (0x14, 2), (0x20, 0x31), (0x14, 0xB),
                                                  (0x14, 0x18), (0x14, 0x20)]):
            lines.append(f"7@{at + step * 1e-4:.6f}:aspeed_i2c_bus_write bus[3]: To {register:#x} of size 4: {value:#x}\n")
            if value == 3:
                lines.append(f"7@{at + step * 1e-4:.6f}:i2c_event start(addr:0x18)\n")
        lines.append(f"7@{at + 0.002:.6f}:aspeed_i2c_bus_write bus[9]: To 0x14 of size 4: 0x3\n")
    return "".join(lines)


def read(text, pieces=1):
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "trace")
        trace = judge.Trace(path, [3, 4])
        size = len(text) // pieces + 1
        for piece in range(pieces):
            with open(path, "a", encoding="ascii") as out:
                out.write(text[piece * size:(piece + 1) * size])
            trace.read()
    return trace


BOOT = [
    (100.0, "begin", None),
    (101.0, "power-on", None),
    (102.0, "answered", ("S2", 0, 0.02)),
    (105.0, "s0-sent", None),
    (110.0, "answered", ("S5", 0, 0.02)),
    (110.2, "power-lost", None),
]


class Judge(unittest.TestCase):
    def test_a_transfer_is_read_from_start_to_stop_however_the_trace_is_cut(self):
        for pieces in (1, 2, 7, 100):
            trace = read(recorded(1000.0, 1001.0), pieces)
            self.assertEqual([(t.bus, t.address, t.bytes) for t in trace.transfers], [(3, 0x18, 4)] * 2)
            # A transfer has a repeated START. The recording has the device's side of the first only.
            self.assertEqual((trace.starts, trace.device_starts), (4, 2))
            self.assertAlmostEqual(trace.transfers[0].ended - trace.transfers[0].begun, 6e-4, places=5)

    def test_a_mux_joins_its_channels_from_the_end_of_a_write_to_it_on(self):
        def write(at, address, *written):
            steps = [(0x20, address << 1), (0x14, 3)]
            for byte in written:
                steps += [(0x20, byte), (0x14, 2)]
            return "".join(
                f"7@{at + step * 1e-4:.6f}:aspeed_i2c_bus_write bus[3]: To {register:#x} of size 4: {value:#x}\n"
                for step, (register, value) in enumerate(steps + [(0x14, 0x20)])
            )

        # A sensor, channel 0, the sensor, channel 1, nothing, the sensor; and a read of the mux, which tells it nothing.
        text = write(1, 0x49, 0) + write(2, 0x70, 1) + write(3, 0x49, 0) + write(4, 0x70, 2) + write(5, 0x70)
        text += write(6, 0x70, 0) + write(7, 0x49, 0)
        trace = read(text)
        self.assertEqual([t.written for t in trace.transfers], [b"\0", b"\1", b"\0", b"\2", b"", b"\0", b"\0"])
        self.assertEqual([channels for _, channels in judge.Mux(3, 0x70).joined(trace.transfers)], [0, 0, 1, 1, 2, 2, 0])
        self.assertEqual(judge.Mux(4, 0x70).joined(trace.transfers), [])

    def test_windows_reach_from_the_start_to_s0_and_from_s5_on(self):
        windows = judge.closed_windows(BOOT, 120.0)
        self.assertEqual([(w.begin, w.sure, w.end) for w in windows], [(100.0, 100.0, 105.0), (110.0, 110.0, 120.0)])

    def test_power_loss_alone_gives_the_bmc_its_notice_and_an_answer_none(self):
        facts = BOOT[:4] + [(110.0, "power-lost", None)]
        window = judge.closed_windows(facts, 120.0)[1]
        self.assertEqual((window.begin, window.sure), (110.0, 110.0 + judge.NOTICE))
        facts.append((110.1, "answered", ("S2", 0, 0.02)))
        self.assertEqual(judge.closed_windows(facts, 120.0)[1].sure, 110.1)

    def test_a_slow_emulation_has_until_its_power_control_was_heard_but_not_for_ever(self):
        facts = BOOT[:4] + [(110.0, "power-lost", None)]
        off = ["xyz.openbmc_project.State.Host", {"CurrentHostState": "xyz.openbmc_project.State.Host.HostState.Off"}, []]

        def sure(at):
            offs = judge.heard_off([(90.0, "", "PropertiesChanged", off), (at, "", "PropertiesChanged", off)])
            return judge.closed_windows(facts, 120.0, offs)[1].sure

        self.assertAlmostEqual(sure(110.02), 110.0 + judge.NOTICE)
        self.assertAlmostEqual(sure(110.8), 110.8 + judge.HEARD)
        self.assertAlmostEqual(sure(119.0), 110.0 + judge.LONGEST_NOTICE)

    def test_a_refused_report_closes_nothing(self):
        facts = BOOT[:4] + [(110.0, "answered", ("S5", 0xFF, 0.02))]
        self.assertEqual(len(judge.closed_windows(facts, 120.0)), 1)

    def test_offences_are_found_at_the_edges(self):
        facts = BOOT[:4] + [(110.0, "power-lost", None)]
        windows = judge.closed_windows(facts, 120.0)

        def found(at):
            bad, unknowing = judge.offences(windows, read(recorded(at)).transfers)
            return len(bad), len(unknowing)

        self.assertEqual(found(103.0), (1, 0))
        self.assertEqual(
            judge.described(windows, read(recorded(103.0, 118.0)).transfers),
            "1 after off (3.00 to 3.00 s); 1 after power-lost (8.00 to 8.00 s)",
        )
        self.assertEqual(found(104.999), (1, 0))
        self.assertEqual(found(105.1), (0, 0))
        self.assertEqual(found(109.99999 - 0.001), (0, 0))
        self.assertEqual(found(109.9998), (0, 1), "under way when power went")
        self.assertEqual(found(110.1), (0, 1))
        self.assertEqual(found(110.2499), (1, 0), "still under way when the notice was over")
        self.assertEqual(found(119.0), (1, 0))

    def test_reading_before_settle_is_seen(self):
        self.assertEqual(len(judge.too_early(BOOT, read(recorded(106.0)).transfers, 2.0)), 1)
        self.assertEqual(len(judge.too_early(BOOT, read(recorded(107.0)).transfers, 2.0)), 0)

    def test_writes_that_follow_an_answer_are_those_without_a_pause(self):
        line = "7@{}:sdcard_normal_command         SD    WRITE_MULTIPLE_BLOCK/ CMD{} arg 0x00000008 (state transfer)\n"
        writes = read("".join(line.format(at, command) for at, command in ((99.9, 25), (100.1, 24), (100.3, 25), (100.35, 18), (103.0, 25)))).writes
        self.assertEqual(writes, [99.9, 100.1, 100.3, 103.0])
        self.assertAlmostEqual(judge.stored_after(99.95, 100.0, writes), 0.3)
        self.assertAlmostEqual(judge.stored_after(99.5, 101.0, writes), -0.7, msg="before the host had the answer")
        self.assertIsNone(judge.stored_after(100.4, 101.0, writes))

    def test_only_a_hard_reset_right_after_an_answer_may_lose_it(self):
        self.assertTrue(judge.may_be_lost("bmc-reset", judge.STORED / 2))
        self.assertFalse(judge.may_be_lost("bmc-reset", judge.STORED))
        self.assertFalse(judge.may_be_lost("bmc-reboot", 0.0))
        self.assertFalse(judge.may_be_lost("kill", 0.0))

    def test_a_bmc_reset_ends_a_transfer(self):
        cut = "".join(recorded(103.0).splitlines(True)[:4])
        reset = "7@104.0:aspeed_i2c_bus_write bus[3]: To 0x0 of size 4: 0x0\n"
        transfers = read(cut + reset + recorded(112.0)).transfers
        self.assertEqual([round(t.ended) for t in transfers], [103, 112])

    def test_bytes_without_a_start_count(self):
        text = "7@5.0:aspeed_i2c_bus_write bus[4]: To 0x14 of size 4: 0x2\n"
        self.assertEqual(len(read(text).transfers), 1)


class Plan(unittest.TestCase):
    def test_a_seed_repeats_its_plan_and_a_longer_one_begins_the_same(self):
        self.assertEqual(plan.make(7, 30), plan.make(7, 100)[:30])
        self.assertNotEqual(plan.make(7, 30), plan.make(8, 30))

    def test_ten_cycles_have_every_kind_of_event(self):
        for seed in range(50):
            cycles = plan.make(seed, 10)
            self.assertEqual({c.post for c in cycles}, set(plan.POSTS))
            self.assertEqual({c.ending for c in cycles}, set(plan.ENDINGS))
            self.assertEqual(sum(c.trouble == "kill" for c in cycles), 4)
            self.assertEqual(sum(c.trouble.startswith("bmc") for c in cycles), 1)

    def test_a_hundred_cycles_restart_the_bmc_in_every_phase(self):
        cycles = plan.make(1, 100)
        self.assertEqual({c.phase for c in cycles if c.trouble.startswith("bmc")}, set(plan.PHASES))


if __name__ == "__main__":
    unittest.main()
