from types import SimpleNamespace

import torch

from lightning_modules.trainer import progress


def test_the_speed_is_that_of_the_last_step_and_compiling_is_left_out(monkeypatch):
    rows = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.append((step, metrics)))
    trainer = SimpleNamespace(loggers=[logger], callback_metrics={})
    module = SimpleNamespace(env_steps=torch.tensor(0), trainer=trainer)
    progress.start_clock(module)
    # the first step takes 100 s, the others 2 s and 4 s
    for env_steps, clock in ((50, 100.0), (150, 102.0), (190, 106.0)):
        monkeypatch.setattr(progress.time, "perf_counter", lambda clock=clock: clock)
        module.env_steps.fill_(env_steps)
        progress.log_training(module, {"loss": 0.5})
    assert [step for step, _ in rows] == [50, 150, 190]
    assert [metrics.get("time/env_steps_per_s") for _, metrics in rows] == [None, 50.0, 10.0]
