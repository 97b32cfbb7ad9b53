# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning and deciding for a fleet of 10,000 controllers in 500 cells on 2,500 gateways."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import (
    CellRule,
    Member,
    Policy,
    Rollout,
    describe,
    plan,
)
from ratios import Result, medians, report

CONTROLLERS = 10_000
CELLS = 500
PER_GATEWAY = 4
ROUNDS = 5


def main() -> int:
    controllers = [
        Member(f"gateway_{number // PER_GATEWAY}", f"press_{number % PER_GATEWAY}", f"cell_{number % CELLS}")
        for number in range(CONTROLLERS)
    ]
    policy = Policy(canaries=20, waves=("10%", "50%"), cell_default=CellRule(min_in_service="75%"))
    # One controller a wave is the most waves there can be.
    slowest = Policy(canaries=20, waves=(1,))
    drawn = plan(controllers, controllers, policy)
    rollout = Rollout(drawn)
    present = [controller.id for controller in controllers]
    now = datetime.now(UTC)
    planning, crawling, deciding = medians(
        ROUNDS,
        lambda: describe(plan(controllers, controllers, policy)),
        lambda: plan(controllers, controllers, slowest),
        lambda: rollout.decide(now, present),
    )
    print(f"{CONTROLLERS} controllers in {CELLS} cells: {len(drawn.waves)} waves, {sum(map(len, drawn.waves))} steps")
    return report(
        [
            Result(f"planner: {CONTROLLERS} controllers planned and told, in s", planning, 2.0),
            Result("planner: the same in waves of one, in s", crawling, 2.0),
            Result("planner: what comes next, in s", deciding, 0.1),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
