#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command and starts it again when it was lost, not when it ended by itself.
#
#     launch/retry.sh ldm-jax train --config=FILE --workdir=DIR
#
# Ended by itself: 0 done, 2 bad input, 3 diverged, 130 Ctrl-C. All else is a loss (75 it
# hung, or saved as this or another host was preempted; 134 another host went away; 137
# killed): the same command goes on from the last checkpoint. SIGTERM is handed on, once;
# the run saves, and what asked for it gets its exit code, 75 where it was not done.
#
# LDM_JAX_LOGS      directory that gets HOST.log besides what is printed; none if unset
# LDM_JAX_ATTEMPTS  starts in all, default 100
# LDM_JAX_WAIT      seconds between two, default 10
set -uo pipefail
# Without it a run that was stopped and saved ends with 0, as one that is done.
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

# Waits for a command to the end: a signal ends `wait` early, while it still saves.
wait_for() {
  local code again
  while true; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  wait "$1" 2>/dev/null
  again=$?
  [[ $again -ne 127 ]] && code=$again # 127: its code has been given already
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
