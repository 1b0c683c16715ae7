#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs one stage of a study: the N-th of its kind, where N is the task id of the job array.
#
#     SLURM_ARRAY_TASK_ID=0 launch/study_stage.sh denoiser --config=study_f --out=OUT
set -euo pipefail
kind=$1
shift
line=$((SLURM_ARRAY_TASK_ID + 1))
stage=$(ldm-jax study "$@" --list | grep -E "^$kind(/|\$)" | sed -n "${line}p")
exec ldm-jax study "$@" --run="$stage"
