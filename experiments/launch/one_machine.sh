#!/usr/bin/env bash
# One process per GPU on one machine. UNTESTED on GPUs: a template. A lost process ends all.
#
#   experiments/launch/one_machine.sh 4 --workdir=runs/wide --batch_size=512
#
# A single process for all GPUs is simpler: ris-jax train --workdir=runs/wide
set -euo pipefail
processes=$1
shift
coordinator=127.0.0.1:${PORT:-5000}
for ((id = 0; id < processes; id++)); do
  CUDA_VISIBLE_DEVICES=$id ris-jax train "$@" \
    --coordinator="$coordinator" --num_processes="$processes" --process_id="$id" &
done
status=0
for job in $(jobs -p); do
  wait "$job" || status=$?
done
exit "$status"
