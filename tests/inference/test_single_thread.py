from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from medformer.inference.single_thread import single_thread


def test_linear_algebra_has_one_thread_inside_and_its_own_number_again_outside() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(limits=2):
        before = [pool["num_threads"] for pool in threadpool_info()]
        with single_thread():
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        assert [pool["num_threads"] for pool in threadpool_info()] == before
