"""Milliseconds of CPU of prioritised replay: to draw 256 rows with their weights, and to give back their errors.

    python -m benchmarks.priorities

Medians over 300 draws with one thread, from buffers of 100,000 and of 1,000,000 rows of 11 numbers, as of CartPole.
"""

import statistics
import time

import torch

from zoo.rl.off_policy.priorities import Priorities, importance_weights

COUNT, DRAWS, WIDTH = 256, 300, 11


def main() -> None:
    torch.set_num_threads(1)
    for capacity in (100_000, 1_000_000):
        rows = torch.randn(capacity, WIDTH)
        for ranked in (False, True):
            priorities = Priorities(capacity, 0.6, ranked)
            priorities.add(torch.arange(capacity))
            priorities.update(torch.arange(capacity), torch.rand(capacity))
            priorities.draw(1)  # sorts
            draws, updates = [], []
            for _ in range(DRAWS):
                start = time.process_time_ns()
                drawn, probabilities = priorities.draw(COUNT)
                weights = importance_weights(probabilities, capacity, 0.4)
                torch.cat([rows[drawn], weights[:, None].float()], 1)
                middle = time.process_time_ns()
                priorities.update(drawn, torch.rand(COUNT))
                draws.append((middle - start) / 1e6)
                updates.append((time.process_time_ns() - middle) / 1e6)
            print(
                f"{'rank' if ranked else 'proportional':<13}{capacity:>9,} rows  "
                f"draw {statistics.median(draws):.3f} ms  update {statistics.median(updates):.3f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
