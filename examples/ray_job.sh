#!/usr/bin/env bash
# A study as a job of a Ray cluster that is there, such as one that `ray up` has made:
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 examples/ray_job.sh STUDY OUT
# lorabench is installed on every node; OUT is a folder that the head sees.  The job goes on when this shell is closed:
# `ray job logs -f ID` shows its lines, `ray job stop ID` ends it, and the same command goes on where it stopped.
set -euo pipefail
study=${1:?which study?} out=${2:?which folder for the results?}

# A job finds its cluster by RAY_ADDRESS, which Ray sets for it.
ray job submit --submission-id "lorabench-$(basename "$study" .yaml)-$(date +%s)" -- lorabench run "$study" --out "$out"
