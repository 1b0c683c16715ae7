# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Environment variables of a run, each with its reason. The launchers source this file
# on every host; variables that are set already keep their values.

# Python writes each line when it is printed, not when a buffer is full.
export PYTHONUNBUFFERED=1
# A process that is killed by a signal writes the stacks of all its threads to the log.
export PYTHONFAULTHANDLER=1
if command -v nvidia-smi >/dev/null 2>&1; then
  # By default JAX allocates 75 % of a GPU's memory; a training run needs more and shares
  # the GPU with no other program.
  export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
else
  # Log warnings only: debug lines of libtpu fill the disk of a TPU VM.
  export TPU_MIN_LOG_LEVEL=${TPU_MIN_LOG_LEVEL:-1}
fi
