#!/bin/bash
# sbatch slurm-array.sh
# 16 shards of one job, two at a time. Submit it again to go on: finished rows cost nothing.
# The key stands in a file that only you can read (chmod 600): XAI_API_KEY=...
# A new number of shards: --array, auto/N, and --recut once. More at a time: %K and --shards-at-once.
#SBATCH --job-name=batchvision-shoes
#SBATCH --array=0-15%2
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=11:00:00
# SIGTERM drains: requests in flight may end within 25 seconds
#SBATCH --signal=TERM@60
#SBATCH --output=shoes-%A_%a.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?start it with sbatch}"
set -a
# shellcheck source=/dev/null
. ./key.env
set +a

# SLURM sets SLURM_ARRAY_TASK_ID, from which auto/16 takes the shard
code=0
srun batchvision run shoes.toml --shard auto/16 --shards-at-once 2 --log-format text --quiet || code=$?

# 3: finished, some rows failed. runs/latest.json keeps it
if [ "$code" = 3 ]; then
  code=0
fi
exit "$code"
