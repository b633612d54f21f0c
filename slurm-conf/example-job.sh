#!/bin/bash
# A batch job that runs in a virtual machine. Submit it with: sbatch example-job.sh
#
# The lines below are options of sbatch; the same words work on the command line of sbatch, srun and salloc.

# The guest operating system. '--vm-image=list' shows which ones the site offers.
#SBATCH --vm-image=debian12

# One VM for the script, as big as the job's share of the node: two processors, 2 GiB less what QEMU needs.
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G

#SBATCH --time=10
#SBATCH --output=example-%j.out

# This script runs in a VM of its own. The home directory and the directory it was submitted
# from are the same as outside, and it acts there with the user's own rights.
# shellcheck disable=SC1091
echo "The script runs on $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), as $(id -un)," \
    "with $(nproc) processors."

# Whether 2^31 - 1 is prime (it is), by trial division.
number=2147483647
verdict=prime
for ((d = 3; d * d <= number; d += 2)); do
    ((number % d)) || { verdict=composite && break; }
done
echo "$number is $verdict"
