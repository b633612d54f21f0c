# shellcheck shell=bash
# Names, ports and configuration files of one cluster.

# Slurm's cgroups are named after nodes, and cgroup names are shared by the whole machine. So a prefix belongs to one
# cluster at a time; the claim is in /run and is gone after a reboot, like the cluster.
CLAIMS=/run/spank-vm-cluster

owns_node_names() { [[ -n ${NODE_PREFIX:-} && $(cat "$CLAIMS/$NODE_PREFIX.names" 2>/dev/null) == "$CLUSTER_DIR" ]]; }

claim_node_names() {
    local prefix owner
    owner=$(cat "$CLAIMS/$1.names" 2>/dev/null || echo 'another Slurm')
    for prefix in "$1" a b c d e f g h; do
        if prefix_is_free "$prefix"; then
            [[ $prefix == "$1" ]] || say "nodes are called ${prefix}1.. because ${1}1.. belong to $owner"
            printf '%s\n' "$CLUSTER_DIR" >"$CLAIMS/$prefix.names"
            NODE_PREFIX=$prefix
            return
        fi
    done
    die "node names '${1}1', 'a1' … 'h1' are all in use on this machine: stop a cluster (see $CLAIMS)"
}

prefix_is_free() {
    local owner
    owner=$(cat "$CLAIMS/$1.names" 2>/dev/null || true)
    # A cluster that was killed without 'stop' has no claim, whether its directory is left or not. One that is starting holds
    # the lock of all claims.
    [[ -z $owner || $owner == "$CLUSTER_DIR" ]] || ! cluster_lives "$owner" || return 1
    ! slurmd_uses_prefix "$1"
}

# Whether a daemon or job of the cluster in this directory runs.
cluster_lives() {
    [[ -n $(pids_with_text cmdline "$1/" | only_our_programs) ]] ||
        [[ -n $(pids_with_text environ "SLURM_CONF=$1/etc/slurm.conf" | only_jobs_and_daemons) ]]
}

slurmd_uses_prefix() {
    local pid
    for pid in $(pids_with_text cmdline slurmd); do
        [[ $(name_of "$pid") == slurmd* ]] || continue
        ! { tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxE "(-N)?$1[0-9]+"; } 2>/dev/null || return 0
    done
    # The machine's own slurmd has the host's name.
    [[ $(hostname -s) =~ ^$1[0-9]+$ && -n $(pids_with_text cmdline slurmd) ]]
}

release_node_names() { ! owns_node_names || rm -f "$CLAIMS/$NODE_PREFIX.names"; }

node_names() {
    local i
    for ((i = 1; i <= NODES; i++)); do
        printf '%s%d\n' "$NODE_PREFIX" "$i"
    done
}

# first_free_port COUNT: the first of COUNT successive free ports, below the range for outgoing connections.
first_free_port() {
    local count=$1 taken base port try
    taken=$(awk '$4 == "0A" { split($2, a, ":"); print a[2] }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for ((try = 0; try < 100; try++)); do
        base=$((20000 + RANDOM % 10000))
        for ((port = base; port < base + count; port++)); do
            ! grep -qx "$(printf '%04X' "$port")" <<<"$taken" || continue 2
        done
        printf '%s\n' "$base"
        return
    done
    die "no $count free TCP ports in a row were found between 20000 and 30000: free some"
}

# A hand-written file may name the cluster's directory as @DIR@.
copy_with_dir() { sed "s|@DIR@|$CLUSTER_DIR|g" "$1"; }

# Included, so that it may be changed while the cluster runs; every srun and slurmstepd reads it.
write_plugstack() {
    if [[ -z $PLUGSTACK ]]; then
        echo "# no plugins"
    elif grep -q '@DIR@' "$PLUGSTACK"; then
        copy_with_dir "$PLUGSTACK"
    else
        user_can_read "$(job_user)" "$PLUGSTACK" ||
            die "user '$(job_user)' cannot read '$PLUGSTACK', and srun runs as the user: put it where everybody can"
        echo "include $PLUGSTACK"
    fi
}

write_configuration() {
    local etc=$CLUSTER_DIR/etc
    write_slurm_conf >"$etc/slurm.conf"
    { echo "# Written by testkit/cluster/cluster."; cgroup_conf "$CGROUPS"; } >"$etc/cgroup.conf"
    write_plugstack >"$etc/plugstack.conf"
}

write_slurm_conf() {
    local host
    host=$(hostname -s)
    cat <<CONF
# Written by testkit/cluster/cluster: a private Slurm of $NODES nodes on one machine.
ClusterName=spank-vm
SlurmctldHost=$host($(controller_address))
SlurmctldPort=$FIRST_PORT
SlurmUser=root
SlurmdUser=root

# A munge of its own: the machine's, if there is one, stays as it is.
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$CLUSTER_DIR/run/munge.socket

StateSaveLocation=$CLUSTER_DIR/state
SlurmctldPidFile=$CLUSTER_DIR/run/slurmctld.slurm-pid
SlurmctldLogFile=$CLUSTER_DIR/log/slurmctld.log
SlurmdSpoolDir=$CLUSTER_DIR/spool/%n
SlurmdPidFile=$CLUSTER_DIR/run/%n.slurm-pid
SlurmdLogFile=$CLUSTER_DIR/log/%n.log
PlugStackConfig=$CLUSTER_DIR/etc/plugstack.conf
MpiDefault=none
$(own_temporary_directories)

# Several nodes claim the same cores and memory, so Slurm must not compare their claims with the machine.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((MEMORY / CPUS))
$(cgroup_slurm_conf "$CGROUPS")
JobAcctGatherFrequency=task=2

# Start submitted jobs at once; with the defaults Slurm collects them for seconds.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PriorityType=priority/basic

# Short waits for kills, but long ones for messages: the machine may emulate several VMs on few cores.
KillWait=5
UnkillableStepTimeout=30
MessageTimeout=30
SlurmdTimeout=300
SlurmctldTimeout=300
InactiveLimit=0
ReturnToService=2

AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$CLUSTER_DIR/log/jobcomp.txt
SlurmctldDebug=info
SlurmdDebug=verbose

NodeName=${NODE_PREFIX}[1-$NODES] NodeHostname=$host NodeAddr=$(node_addresses) Port=[$((FIRST_PORT + 1))-$((FIRST_PORT + NODES))] CPUs=$CPUS RealMemory=$MEMORY State=UNKNOWN
PartitionName=vm Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    if [[ -n $EXTRA_CONF ]]; then
        echo
        echo "# From $EXTRA_CONF:"
        copy_with_dir "$EXTRA_CONF"
    fi
}
