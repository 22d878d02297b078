"""What an offline clustering makes of the same rows: the yardstick for ours."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

#: A persona counts as a component if it has this share of the wallets: fewer cannot be a segment, either.
LEAST = 0.02
#: Starts, of which the likeliest is taken, and what is added to every variance (rows are in standard deviations): the
#: strongest of 1e-6 to 0.3 on the tuning seeds, as were rows as of now and the true number of components.
STARTS, ADDED = 5, 0.1


def refit_offline(rows: NDArray[np.float64], truth: NDArray[np.str_]) -> NDArray[np.int64]:
    """The component of each row (n,) in a mixture of Gaussians with diagonal variances, fitted to all rows at once.

    It is told how many personas there are, which ours is not.
    """
    mixture = GaussianMixture(
        components(truth), covariance_type="diag", n_init=STARTS, reg_covar=ADDED, max_iter=200, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels: NDArray[np.int64] = mixture.fit_predict(rows)
    return labels


def components(truth: NDArray[np.str_]) -> int:
    """How many personas have enough wallets to be a component."""
    return sum(count >= LEAST * len(truth) for count in Counter(truth.tolist()).values())
