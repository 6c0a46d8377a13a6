import os

import torch


def pytest_configure(config):
    """With several workers (pytest-xdist) each has one core, and so has every process that its tests start.

    Before they start, what the machine has not compiled yet is compiled once for all of them.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    elif config.getoption("numprocesses", None):
        from l2o_splat.initializers.dense.trial import compile_dense_start
        from l2o_splat.optim.trial import compile_adam, compile_colour_step, compile_gain
        from l2o_splat.plugin.compilation import TRIALS, compiling, trials_of_views
        from l2o_splat.scenes.trial import compile_raycaster

        rules = [compile_adam, compile_colour_step, compile_gain]
        views = trials_of_views(refines_poses=True, exposed=True)
        with compiling("cpu", [*TRIALS, *rules, *views, compile_dense_start, compile_raycaster]):
            pass
