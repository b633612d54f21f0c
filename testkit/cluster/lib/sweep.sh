# shellcheck shell=bash
# Finds leftovers of jobs or of a stopped cluster.

SWEEP_GRACE=5

# A client returns a moment before slurmstepd has finished its cleanup; what still exists after the
# grace time is a leftover.
sweep_check() {
    need_root sweep-check
    open_cluster "$1"
    ! wait_until "$SWEEP_GRACE" nothing_left || return 0
    left_overs
    return 1
}

# Slurm's plugin for PMIx makes a directory per step in /tmp, and fails where there is one. One of a step that was stopped with
# its cluster stays, and each cluster begins with job 1 anew. What a running program of the user has there is not empty.
remove_pmix_directories() {
    find /tmp -maxdepth 1 -name "spmix_appdir_$(id -u "$1")_*" -empty -delete
}

nothing_left() { [[ -z $(left_overs) ]]; }

left_overs() {
    left_processes
    left_state
    left_cgroups
    left_mounts
}

# While the cluster runs, its daemons are expected; everything else is a leftover.
left_processes() {
    local pid daemons=()
    ! exists || mapfile -t daemons < <(daemon_pids munged slurmctld "${NODE_NAMES[@]}")
    for pid in $(cluster_pids); do
        belongs_to_daemons "$pid" "${daemons[@]}" || printf 'process %s\n' "$(describe "$pid")"
    done
}

# A daemon itself, or a helper that it forked and that has not executed another program.
belongs_to_daemons() {
    local pid=$1 daemon
    shift
    for daemon in "$@"; do
        ((pid != daemon)) || return 0
        case $(name_of "$pid") in
            slurmscriptd | slurmd* | slurmctld*) ! descends_from "$pid" "$daemon" || return 0 ;;
        esac
    done
    return 1
}

state_dirs() {
    printf '%s\n' "$CLUSTER_DIR/vm-state"
    { grep -ohE 'state_dir=[^[:space:]]+' "$CLUSTER_DIR/etc/plugstack.conf" "${PLUGSTACK:-}" || true; } 2>/dev/null | cut -d= -f2-
}

# Each directory is a task; files beside them are the node's own notes, such as a broken KVM.
left_state() {
    local directory
    state_dirs | sort -u | while read -r directory; do
        [[ ! -d $directory ]] || find "$directory" -mindepth 1 -maxdepth 1 -type d -printf 'state %p\n'
    done
}

# On a running cluster the nodes' own cgroups stay, those of jobs do not. Under v2, Slurm 22.05
# itself leaves empty ones to systemd: there only a cgroup with a process is a leftover.
left_cgroups() {
    local directory cgroup
    for directory in $(cgroup_dirs); do
        find "$directory" \( -name 'uid_*' -o -name 'job_*' -o -name 'step_*' \) -prune -print 2>/dev/null || true
    done | while read -r cgroup; do
        ! grep -qx 'populated 0' "$cgroup/cgroup.events" 2>/dev/null || continue
        printf 'cgroup %s\n' "$cgroup"
    done
}

left_mounts() {
    local directory
    for directory in "$CLUSTER_DIR" $(state_dirs); do
        awk -v d="$directory" 'index($2, d "/") == 1 || $2 == d { print "mount " $2 }' /proc/mounts
    done | sort -u
}
