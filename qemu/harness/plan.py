# SPDX-License-Identifier: Apache-2.0
"""What will happen: a list of cycles that a seed decides. Must never look at a machine."""

import random
from dataclasses import asdict, dataclass

# How a cycle ends (openbmc 2.2). An "os-reboot" is a warm reset that the OS announces, as our package for the host does (host/).
ENDINGS = ["os-shutdown", "power-cycle", "warm-reset", "os-reboot", "dc-loss"]
# What UEFI does between power on and S0.
POSTS = ["plain", "reset", "hang", "kcs-retry", "repeat-s2", "plain"]
# What befalls the BMC meanwhile, and when: while off, before UEFI's S2, in POST, in S0.
PHASES = ["off", "early", "post", "s0"]


@dataclass
class Cycle:
    number: int
    post: str
    ending: str
    trouble: str  # "", "kill", "bmc-reset" (as by a watchdog), "bmc-reboot" (in order)
    phase: str
    # Seconds.
    early: float
    training: float
    working: float
    off: float

    def title(self):
        parts = [self.post if self.post == "hang" else f"{self.post}, {self.ending}"]
        if self.trouble:
            parts.append(f"{self.trouble} {'while' if self.phase == 'off' else 'in'} {self.phase}")
        return "; ".join(parts)


class Deck:
    """Every card comes before any comes again."""

    def __init__(self, cards, rng):
        self.cards, self.rng, self.left = list(cards), rng, []

    def draw(self):
        if not self.left:
            self.left = self.cards[:]
            self.rng.shuffle(self.left)
        return self.left.pop()


def make(seed, cycles):
    """The same seed gives the same plan, and a longer plan begins as the shorter one does."""
    rng = random.Random(seed)
    endings, posts = Deck(ENDINGS, rng), Deck(POSTS, rng)
    # Of ten cycles four meet a kill, one in each phase, and one a restart of the BMC.
    troubles = Deck([("kill", phase) for phase in PHASES] + [("bmc", "")] + [("", "")] * 5, rng)
    restarts = Deck([(how, phase) for how in ("bmc-reset", "bmc-reboot") for phase in PHASES], rng)
    plan = []
    for number in range(1, cycles + 1):
        trouble, phase = troubles.draw()
        if trouble == "bmc":
            trouble, phase = restarts.draw()
        post = posts.draw()
        if post == "hang" and phase == "s0":
            phase = "post"  # There is no S0 in this cycle.
        plan.append(
            Cycle(
                number,
                post,
                endings.draw(),
                trouble,
                phase,
                early=round(rng.uniform(0.2, 0.7), 2),
                training=round(rng.uniform(0.8, 2.0), 2),
                working=round(rng.uniform(0.2, 1.0), 2),
                off=round(rng.uniform(0.4, 1.5), 2),
            )
        )
    return plan


def as_dict(cycle):
    return asdict(cycle)
