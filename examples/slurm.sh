#!/usr/bin/env bash
# A study on several nodes of a Slurm cluster:
#   sbatch examples/slurm.sh STUDY OUT
# The results folder OUT and the cache (LORABENCH_CACHE) should lie where all nodes see them.  Run the same command
# again when the time was not enough: it goes on where it stopped.  docs/clusters.md says more.
#SBATCH --job-name=lorabench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
set -euo pipefail
study=${1:?which study?} out=${2:?which folder for the results?}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # read to its end: a pipe cut short ends the job
head=${nodes[0]}
on_head=(srun --nodes=1 --ntasks=1 --nodelist="$head")
ip=$("${on_head[@]}" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000)) # of this job alone: another one may have the same node

# Without a token, everybody who reaches the port runs what he likes as you.  srun hands the environment on.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN

export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun does not take over from sbatch by itself
folder=/tmp/ray-$SLURM_JOB_ID # /tmp/ray may be somebody else's
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true; rm -rf "$folder"' EXIT
start=(ray start --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block)
"${on_head[@]}" "${start[@]}" --head --node-ip-address="$ip" --port="$port" --include-dashboard=false \
    --temp-dir="$folder" &
for _ in {1..120}; do
    (: <"/dev/tcp/$ip/$port") 2>/dev/null && break
    sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --nodes="$others" --ntasks="$others" --exclude="$head" "${start[@]}" --address="$ip:$port" &
fi

lorabench run "$study" --address "$ip:$port" --out "$out"
