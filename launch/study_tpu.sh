#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a study on TPUs: one queued resource for each arm. tpu_queued.sh describes the
# variables.
#
#     export TPU=study ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#     export CODE=gs://BUCKET/ldm_jax.tar.gz SPOT=1
#     launch/study_tpu.sh submit --config=study_f --out=/mnt/runs/study_f
#     launch/study_tpu.sh status --config=study_f --out=/mnt/runs/study_f    # or delete
#
# OUT is on a mounted file system that all slices and this machine share (Filestore, NFS).
# If several arms share a first stage, train it beforehand. When all arms are finished:
# ldm-jax study --out=OUT --report-only
set -euo pipefail
action=${1:-}
[[ $# -gt 1 ]] || { echo "usage: launch/study_tpu.sh submit|status|delete --config=STUDY --out=OUT" >&2; exit 2; }
shift
here=$(dirname "${BASH_SOURCE[0]}")
name=${TPU:?the name of the queued resources}
arms=$(ldm-jax study "$@" --list | sed -n 's|^denoiser/\(.*\)/seed.*|\1|p' | uniq)
number=0
while read -r arm; do
  number=$((number + 1))
  export TPU=$name-$number
  case $action in
    submit) "$here/tpu_queued.sh" submit ldm-jax study "$@" --only="$arm" ;;
    *) "$here/tpu_queued.sh" "$action" ;;
  esac
done < <(sort -u <<<"$arms")
