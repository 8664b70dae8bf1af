"""The Frechet distance of two sets of features as it is written (Heusel et al. 2017, equation 6)."""

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with the matrix root of SciPy."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root))
