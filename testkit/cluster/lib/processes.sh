# shellcheck shell=bash
# Starting, recognising and ending the processes of one cluster, and no others.
#
# A process is ended by its pid only after it was recognised: pids are reused, and other clusters,
# a site's own Slurm and other people's QEMU may run on the same machine.

# The kernel's start time of a process: together with the pid it identifies one process for ever.
start_time_of() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field is the name in parentheses and may hold spaces.
    read -ra fields <<<"${stat##*) }"
    printf '%s\n' "${fields[19]}"
}

# spawn_daemon NAME COMMAND...: starts it in a session of its own, with nothing of the caller's
# environment or descriptors, and records who it is.
spawn_daemon() {
    local name=$1 pid
    shift
    setsid env -i "PATH=$SYSTEM_PATH" "SLURM_CONF=$SLURM_CONF_FILE" "$@" \
        </dev/null >"$CLUSTER_DIR/log/$name.out" 2>&1 9>&- &
    pid=$!
    disown "$pid"
    printf '%s %s\n' "$pid" "$(start_time_of "$pid" || echo gone)" >"$CLUSTER_DIR/run/$name.pid"
}

# Prints the pid if the daemon of that name is still the process that was started.
daemon_pid() {
    local pid started
    read -r pid started 2>/dev/null <"$CLUSTER_DIR/run/$1.pid" || return 1
    [[ $(start_time_of "$pid") == "$started" ]] || return 1
    is_running "$pid" || return 1
    printf '%s\n' "$pid"
}

state_of() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    printf '%s\n' "${stat%% *}"
}

daemon_names() {
    local file
    for file in "$CLUSTER_DIR"/run/*.pid; do
        [[ -e $file ]] || continue
        file=${file##*/}
        printf '%s\n' "${file%.pid}"
    done
}

# cluster_pids: every process that belongs to this cluster, daemons and jobs.
#
# There are three signs, because a job may hide any one of them: the cgroup; the environment (steps
# and tasks inherit SLURM_CONF; an editor started from a shell that has it exported for trying by
# hand has no job id and is left alone); the command line of programs that name files of the
# cluster.
cluster_pids() {
    local pid
    {
        cgroup_pids
        pids_with_text environ "SLURM_CONF=$SLURM_CONF_FILE" | only_jobs_and_daemons
        pids_with_text cmdline "$CLUSTER_DIR/" | only_our_programs
    } | with_descendants | while read -r pid; do
        { is_running "$pid" && ! is_relative "$pid"; } && printf '%s\n' "$pid"
    done || true
}

# Children of a task count, even if they changed their environment. (Without cgroups, a child that
# also outlived its parent cannot be distinguished from any other process.)
with_descendants() {
    { sed 's/^/known /' && ps -e -o pid=,ppid= | sed 's/^/child /'; } | awk '
        $1 == "known" { known[$2] }
        $1 == "child" { parent[$2] = $3 }
        END {
            for (pid in known) print pid
            for (pid in parent) {
                for (p = pid; p > 1 && !(p in known); p = parent[p]);
                if (p > 1) print pid
            }
        }' | sort -nu
}

pids_with_text() {
    { grep -lF -e "$2" /proc/[0-9]*/"$1" || true; } 2>/dev/null | cut -d/ -f3
}

only_jobs_and_daemons() {
    local pid
    while read -r pid; do
        if grep -qz '^SLURM_JOB_ID=' "/proc/$pid/environ" 2>/dev/null; then
            printf '%s\n' "$pid"
        else
            printf '%s\n' "$pid" | only_our_programs
        fi
    done
}

only_our_programs() {
    local pid
    while read -r pid; do
        case $(name_of "$pid") in
            slurm* | munged | srun | sbatch | salloc | spank-vm* | qemu-*) printf '%s\n' "$pid" ;;
        esac
    done
}

is_running() {
    local state
    state=$(state_of "$1") && [[ $state != [ZX] ]]
}

# This script, its callers and its helpers may carry the cluster's environment too.
is_relative() {
    # In a container the caller may be the first process of all.
    (($1 != 1)) || return 0
    descends_from "$1" "$$" || descends_from "$$" "$1"
}

descends_from() {
    local pid=$1 ancestor=$2
    while [[ -n $pid ]] && ((pid > 1)); do
        ((pid != ancestor)) || return 0
        pid=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status" 2>/dev/null) || return 1
    done
    return 1
}

name_of() { cat "/proc/$1/comm" 2>/dev/null || true; }

describe() { printf '%s %s' "$1" "$(tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | cut -c1-120)"; }

none_alive() {
    local pid
    for pid in "$@"; do
        ! is_running "$pid" || return 1
    done
}

send() {
    local signal=$1
    shift
    (($# == 0)) || kill "-$signal" "$@" 2>/dev/null || true
}

# end_processes SECONDS PID...: asks them to end, waits, then kills them.
end_processes() {
    local patience=$1
    shift
    (($# > 0)) || return 0
    send TERM "$@"
    wait_until "$patience" none_alive "$@" && return 0
    send KILL "$@"
    wait_until 5 none_alive "$@" || say "warning: still alive after SIGKILL: $*"
}
