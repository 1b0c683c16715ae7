#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Requests a TPU slice as a queued resource; the run starts when the slice boots.
#
#     export TPU=ldm ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#     export CODE=gs://BUCKET/ldm_jax.tar.gz SPOT=1
#     launch/tpu_queued.sh submit ldm-jax train --config=celebahq \
#         --workdir=gs://BUCKET/runs/celebahq --config.latents.directory=gs://BUCKET/...
#     launch/tpu_queued.sh keep ldm-jax train ...   # submits again after each preemption
#     launch/tpu_queued.sh status | startup | delete
#
# SLICES=2 requests two slices that train together. The code is this checkout's HEAD,
# copied to CODE. Every host runs the command when it boots, so a host that was repaired
# resumes without intervention. A preempted spot slice stays SUSPENDED: `keep` deletes it
# and submits it again. `keep` cannot detect that the run is finished; stop it yourself.
# Logs: ~root/logs on each host, and the serial console.
set -euo pipefail
: "${TPU:?the name of the queued resource}" "${ZONE:?its zone}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
queue=(gcloud compute tpus queued-resources)

startup() {  # prints the script that a host runs as root when it boots
  cat <<SCRIPT
#!/bin/bash
set -e
export HOME=/root
cd /root
gsutil -q cp '${CODE:?gs:// path of the code}' ldm_jax.tar.gz
tar xzf ldm_jax.tar.gz
cd ldm_jax
[ -x .venv/bin/ldm-jax ] || { python3 -m venv .venv; .venv/bin/pip install -q -e '.[tpu,gcs]'; }
. launch/env.sh
export PATH=\$PWD/.venv/bin:\$PATH LDM_JAX_LOGS=\$HOME/logs
exec launch/retry.sh $(printf '%q ' "$@")
SCRIPT
}

submit() {
  : "${TYPE:?the accelerator type, e.g. v5litepod-16}" "${VERSION:?the runtime version}"
  local folder
  folder=$(mktemp -d)
  startup "$@" >"$folder/startup.sh"
  git -C "$here" archive --format=tar.gz --prefix=ldm_jax/ \
    --output="$folder/code.tar.gz" HEAD
  gsutil -q cp "$folder/code.tar.gz" "$CODE"
  local names=(--node-id="$TPU")
  [[ ${SLICES:-1} -gt 1 ]] && names=(--node-prefix="$TPU" --node-count="$SLICES")
  "${queue[@]}" create "$TPU" --zone="$ZONE" "${names[@]}" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT:+--spot} \
    --metadata-from-file="startup-script=$folder/startup.sh"
  rm -r "$folder"
}

state() {
  "${queue[@]}" describe "$TPU" --zone="$ZONE" --format='value(state.state)'
}

remove() {
  "${queue[@]}" delete "$TPU" --zone="$ZONE" --force --quiet
}

action=${1:-}
shift || true
case $action in
  submit) submit "$@" ;;
  startup) startup "$@" ;;
  status) state ;;
  delete) remove ;;
  keep)
    while true; do
      case $(state 2>/dev/null || echo NONE) in
        NONE) submit "$@" ;;
        SUSPENDED | FAILED) remove && submit "$@" ;;
      esac
      sleep "${LDM_JAX_WAIT:-60}"
    done
    ;;
  *)
    echo "usage: $0 submit|keep|startup COMMAND... or $0 status|delete" >&2
    exit 2
    ;;
esac
