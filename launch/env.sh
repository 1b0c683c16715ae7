# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced on every host before a run; what is set already stays. Each with its reason.

# Python shows lines when they are printed, not when a buffer is full.
export PYTHONUNBUFFERED=1
# Stacks of every thread in the log when a process dies of a signal.
export PYTHONFAULTHANDLER=1
if command -v nvidia-smi >/dev/null 2>&1; then
  # JAX takes 75 % of a GPU's memory unless told; a training run has it to itself.
  export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
else
  # Debug lines of libtpu fill the disk of a TPU VM; warnings stay.
  export TPU_MIN_LOG_LEVEL=${TPU_MIN_LOG_LEVEL:-1}
fi
