# SPDX-License-Identifier: Apache-2.0
"""Compares models at equal compute: studies, their stages and their reports.

from ldm_jax.study import Arm, Budget, Study     # for a config, see configs/study_f.py
rows = ldm_jax.study.results("runs/study_f")     # for a notebook
"""

from ldm_jax.study.config import Arm, Budget, Study
from ldm_jax.study.rows import results

__all__ = ["Arm", "Budget", "Study", "results"]
