# shellcheck shell=bash
# How far this machine lets Slurm use control groups, and everything that depends on it.
#
#   v1    the controllers are mounted one by one below /sys/fs/cgroup
#   v2    one unified tree with cpu, cpuset and memory (a normal Debian 12)
#   none  neither can be used (most containers): no limits, processes found by their parents

CGROUP_ROOT=/sys/fs/cgroup
V1_CONTROLLERS=(freezer cpuset memory devices cpuacct)

detect_cgroups() {
    if v1_usable; then
        echo v1
    elif v2_usable; then
        echo v2
    else
        echo none
    fi
}

v1_usable() {
    local controller probe
    for controller in "${V1_CONTROLLERS[@]}"; do
        # Slurm looks for this file too: it exists at the top of a real hierarchy only.
        [[ -e $CGROUP_ROOT/$controller/release_agent ]] || return 1
        probe=$CGROUP_ROOT/$controller/spank-vm-probe.$$
        mkdir "$probe" 2>/dev/null || return 1
        rmdir "$probe"
    done
}

v2_usable() {
    local probe=$CGROUP_ROOT/spank-vm-probe.$$ usable=1
    [[ $(stat -f -c %T "$CGROUP_ROOT" 2>/dev/null) == cgroup2fs ]] || return 1
    enable_controllers "$CGROUP_ROOT" 2>/dev/null || return 1
    mkdir "$probe" 2>/dev/null || return 1
    # The node's namespaces must be allowed too.
    if enable_controllers "$probe" 2>/dev/null && unshare --cgroup --mount true 2>/dev/null; then
        usable=0
    fi
    rmdir "$probe"
    return "$usable"
}

# pids is unused, but Slurm 22.05 overlooks the last controller of a list, which would be memory.
enable_controllers() { echo "+cpu +cpuset +memory +pids" >"$1/cgroup.subtree_control"; }

explain_cgroups() {
    case $1 in
        v1) echo "cgroup v1: memory, cores and process tracking are enforced" ;;
        v2) echo "cgroup v2: memory, cores and process tracking are enforced, each node in a cgroup namespace of its own" ;;
        none) echo "no usable cgroups here: memory limits are NOT enforced, processes are tracked by their parents" ;;
    esac
}

# slurm.conf lines. jobacct_gather follows: the cgroup one needs the cgroups.
cgroup_slurm_conf() {
    local affinity=task/affinity
    # task/affinity and cpusets cannot bind to CPUs that exist only in the configuration.
    ((CPUS <= $(nproc))) || affinity=
    case $1 in
        v1 | v2)
            echo "ProctrackType=proctrack/cgroup"
            echo "TaskPlugin=task/cgroup${affinity:+,$affinity}"
            echo "JobAcctGatherType=jobacct_gather/cgroup"
            ;;
        none)
            echo "ProctrackType=proctrack/linuxproc"
            [[ -z $affinity ]] || echo "TaskPlugin=$affinity"
            echo "JobAcctGatherType=jobacct_gather/linux"
            ;;
    esac
}

cgroup_conf() {
    local cores=yes
    ((CPUS <= $(nproc))) || cores=no
    case $1 in
        v1)
            echo "CgroupPlugin=cgroup/v1"
            old_automount_key "no"
            echo "ConstrainCores=$cores"
            echo "ConstrainRAMSpace=yes"
            ;;
        v2)
            echo "CgroupPlugin=cgroup/v2"
            # The node is alone in its namespace: only Slurm manages that tree.
            echo "IgnoreSystemd=yes"
            old_automount_key "yes"
            echo "ConstrainCores=$cores"
            echo "ConstrainRAMSpace=yes"
            ;;
        none)
            # 22.05 always loads a cgroup plugin; the one for v1 changes nothing until it is used.
            if slurm_is_before 24.05; then
                echo "CgroupPlugin=cgroup/v1"
                old_automount_key "no"
            else
                echo "CgroupPlugin=disabled"
            fi
            ;;
    esac
}

# The key that lets Slurm enable controllers by itself was renamed.
old_automount_key() {
    if slurm_is_before 23.02; then
        echo "CgroupAutomount=$1"
    elif [[ $1 == yes ]]; then
        echo "EnableControllers=yes"
    fi
}

slurm_is_before() {
    local version
    version=$(slurmctld -V | awk '{ print $2 }')
    [[ $version != "$1"* && $(printf '%s\n%s\n' "$version" "$1" | sort -V | head -1) == "$version" ]]
}

# On v2 every node gets a subtree and a cgroup namespace, as if it were a machine: Slurm names its
# scope after the node alone, and a tree of our own can be removed without asking systemd.
v2_top() { printf '%s/spank-vm-cluster-%s\n' "$CGROUP_ROOT" "$NODE_PREFIX"; }

prepare_cgroups() {
    [[ $CGROUPS == v2 ]] || return 0
    local node top
    top=$(v2_top)
    enable_controllers "$CGROUP_ROOT"
    mkdir -p "$top"
    enable_controllers "$top"
    for node in "${NODE_NAMES[@]}"; do
        mkdir -p "$top/$node"
    done
}

# Prints what must be put before slurmd's own command line, one word per line.
node_launcher() {
    [[ $CGROUPS != v2 ]] || printf '%s\n' "$HERE/lib/v2-node" "$(v2_top)/$1"
}

# Directories of this cluster's nodes only; none once another cluster has the names.
cgroup_dirs() {
    local node controller directory
    owns_node_names || return 0
    for node in "${NODE_NAMES[@]}"; do
        for controller in "${V1_CONTROLLERS[@]}" cpu; do
            directory=$CGROUP_ROOT/$controller/slurm_$node
            [[ ! -d $directory ]] || printf '%s\n' "$directory"
        done
    done
    directory=$(v2_top)
    [[ ! -d $directory ]] || printf '%s\n' "$directory"
}

cgroup_pids() {
    local directory
    cgroup_dirs | while read -r directory; do
        find "$directory" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done
}

# Deepest first; a cgroup can be removed once its last process has been reaped.
remove_cgroups() {
    local directory
    for directory in $(cgroup_dirs); do
        find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    [[ -z $(cgroup_dirs) ]]
}
