"""Who is stopped early."""

from types import SimpleNamespace

from tgt_ray.sweeps.schedulers import ControlledASHA


def test_controls_neither_stop_nor_stop_others():
    from ray.tune.schedulers import TrialScheduler

    scheduler = ControlledASHA(
        time_attr="step", metric="score", mode="max", max_t=500, grace_period=200, reduction_factor=3
    )
    trials = [SimpleNamespace(trial_id=str(i), config={"control": "one_hot"}, status="RUNNING") for i in range(2)]
    for trial, score in zip(trials, (80.0, 85.0), strict=True):
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"step": 500, "score": score}) == TrialScheduler.CONTINUE
        scheduler.on_trial_complete(None, trial, {"step": 500, "score": score})
    searched = SimpleNamespace(trial_id="2", config={}, status="RUNNING", is_saving=False)
    scheduler.on_trial_add(None, searched)
    assert scheduler.on_trial_result(None, searched, {"step": 200, "score": 60.0}) == TrialScheduler.CONTINUE
