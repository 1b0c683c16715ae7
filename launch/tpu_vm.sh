#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Creates a TPU slice and runs a command on all of its hosts by ssh.
#
#     export TPU=ldm ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#     launch/tpu_vm.sh create            # as spot capacity: SPOT=1
#     launch/tpu_vm.sh install           # this checkout and its packages, on every host
#     launch/tpu_vm.sh run ldm-jax train --config=celebahq \
#         --workdir=gs://BUCKET/runs/celebahq --config.latents.directory=gs://BUCKET/...
#     launch/tpu_vm.sh logs              # the last lines of every host
#     launch/tpu_vm.sh stop              # SIGTERM: the run saves and exits
#     launch/tpu_vm.sh delete
#
# `run` returns at once; the command continues if the connection is lost. A preempted spot
# slice is not requested again; use tpu_queued.sh for that.
set -euo pipefail
: "${TPU:?the name of the TPU}" "${ZONE:?its zone}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tpu=(gcloud compute tpus tpu-vm)

# shellcheck disable=SC2016 # the remote host expands what is in single quotes
on_every_host() {
  "${tpu[@]}" ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

action=${1:-}
shift || true
case $action in
  create)
    : "${TYPE:?the accelerator type, e.g. v5litepod-16}" "${VERSION:?the runtime version}"
    "${tpu[@]}" create "$TPU" --zone="$ZONE" --accelerator-type="$TYPE" \
      --version="$VERSION" ${SPOT:+--spot}
    ;;
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git -C "$here" archive --format=tar.gz --prefix=ldm_jax/ --output="$archive" HEAD
    "${tpu[@]}" scp "$archive" "$TPU:ldm_jax.tar.gz" --zone="$ZONE" --worker=all
    on_every_host 'tar xzf ldm_jax.tar.gz && cd ldm_jax && python3 -m venv .venv &&
      .venv/bin/pip install -q -e ".[tpu,gcs]"'
    ;;
  run)
    [[ $# -gt 0 ]] || { echo "usage: $0 run COMMAND..." >&2; exit 2; }
    # Quoted for the remote shell, and again for the bash -c that contains it.
    command=$(printf '%q ' "$@")
    inner="cd ldm_jax && . launch/env.sh && export PATH=\$PWD/.venv/bin:\$PATH &&
      LDM_JAX_LOGS=\$HOME/logs exec launch/retry.sh $command"
    on_every_host "mkdir -p logs; setsid nohup bash -c $(printf '%q' "$inner") \
      >/dev/null 2>logs/start.err </dev/null & echo \$! > logs/pid"
    ;;
  logs) on_every_host "tail -n ${LINES_SHOWN:-20} logs/*.log logs/start.err" ;;
  # To retry.sh, which forwards the signal.
  stop)
    # shellcheck disable=SC2016 # as above
    on_every_host 'kill -TERM "$(cat logs/pid)"'
    ;;
  status) "${tpu[@]}" describe "$TPU" --zone="$ZONE" --format='value(state,health)' ;;
  delete) "${tpu[@]}" delete "$TPU" --zone="$ZONE" --quiet ;;
  *)
    echo "usage: $0 create|install|run COMMAND...|logs|stop|status|delete" >&2
    exit 2
    ;;
esac
