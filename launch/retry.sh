#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command, and starts it again if it hung, was killed or lost another host.
#
#     launch/retry.sh ldm-jax train --config=FILE --workdir=DIR
#
# Exit codes that are final: 0 finished, 2 bad input, 3 diverged, 130 Ctrl-C. After any
# other code the command is started again and resumes from its last checkpoint: 75 it hung,
# or saved because a host was preempted; 134 another host was lost; 137 it was killed.
# SIGTERM is forwarded once; the run saves, and this script exits with the run's code, 75
# if the run was not finished.
#
# LDM_JAX_LOGS      directory for a copy of the output, HOST.log; no copy if unset
# LDM_JAX_ATTEMPTS  largest number of starts, default 100
# LDM_JAX_WAIT      seconds between two starts, default 10
set -uo pipefail
# Without it, a run that was stopped and saved exits with 0, like a finished one.
export LDM_JAX_EXIT_WHEN_STOPPED=${LDM_JAX_EXIT_WHEN_STOPPED:-75}
attempts=${LDM_JAX_ATTEMPTS:-100}
child='' stopped=''

# shellcheck disable=SC2317,SC2329 # called by the trap
hand_on() {
  [[ -n $stopped ]] && return
  stopped=yes
  [[ -n $child ]] && kill -TERM "$child" 2>/dev/null
}
trap hand_on TERM INT

# Waits until a command has ended: a signal ends `wait` early, while the run still saves.
wait_for() {
  local code again
  while true; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  wait "$1" 2>/dev/null
  again=$?
  [[ $again -ne 127 ]] && code=$again # 127: an earlier `wait` has returned its code
  return "$code"
}

if [[ -n ${LDM_JAX_LOGS:-} ]]; then
  mkdir -p "$LDM_JAX_LOGS"
  exec > >(tee -a "$LDM_JAX_LOGS/$(hostname -s).log") 2>&1
fi
for ((attempt = 1; attempt <= attempts; attempt++)); do
  echo "retry: attempt $attempt of $attempts on $(hostname -s), $(date -u +%FT%TZ)"
  "$@" &
  child=$!
  wait_for "$child"
  code=$?
  child=''
  case $code in
    0 | 2 | 3 | 130) exit "$code" ;;
  esac
  [[ -n $stopped ]] && exit "$code"
  echo "retry: exit code $code; again in ${LDM_JAX_WAIT:-10} s"
  sleep "${LDM_JAX_WAIT:-10}" &
  wait $! || true
  [[ -n $stopped ]] && exit "$code"
done
exit "$code"
