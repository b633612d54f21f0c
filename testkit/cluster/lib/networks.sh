# shellcheck shell=bash
# Nodes with networks of their own: each slurmd in a network namespace, joined by a bridge to the namespace that the cluster is started in.
# That one must not be the machine's: 'unshare --net' makes one.

# What address the controller has, and how the nodes' begin.
SWITCH_ADDRESS=10.99.0.254
NODES_NETWORK=10.99.0

make_switch() {
    [[ $(readlink /proc/self/ns/net) != $(readlink /proc/1/ns/net) ]] ||
        die "--own-networks would change the machine's network: start the cluster under 'unshare --net'"
    ip link set lo up
    [[ -e /sys/class/net/switch ]] || ip link show switch >/dev/null 2>&1 || ip link add switch type bridge
    ip address replace "$SWITCH_ADDRESS/24" dev switch
    ip link set switch up
}

# Keeps the network namespace of a node's slurmd for the next one: steps go on in it, and a second namespace would take their address.
hold_network() {
    [[ $OWN_NETWORKS == yes ]] || return 0
    exec {HELD_NETWORK}<"/proc/$1/ns/net"
}

# Prints what must be put before slurmd's own command line, one word per line.
network_launcher() {
    [[ $OWN_NETWORKS == yes ]] || return 0
    if [[ -n ${HELD_NETWORK:-} ]]; then
        printf '%s\n' nsenter "--net=/proc/self/fd/$HELD_NETWORK"
        return
    fi
    printf '%s\n' unshare --net -- "$HERE/lib/own-network" "$(daemon_pid munged)" "$NODES_NETWORK.${1##*[a-z]}"
}

controller_address() { if [[ $OWN_NETWORKS == yes ]]; then echo "$SWITCH_ADDRESS"; else echo 127.0.0.1; fi; }
node_addresses() { if [[ $OWN_NETWORKS == yes ]]; then echo "$NODES_NETWORK.[1-$NODES]"; else echo 127.0.0.1; fi; }

# Slurm's plugin for PMIx makes a directory of the same name on each node of a step, and fails where there is one: nodes of one machine
# need directories of their own.
own_temporary_directories() { [[ $OWN_NETWORKS != yes ]] || echo "TmpFS=$CLUSTER_DIR/tmp/%n"; }
make_temporary_directory() { [[ $OWN_NETWORKS != yes ]] || { mkdir -p "$CLUSTER_DIR/tmp/$1" && chmod 1777 "$CLUSTER_DIR/tmp/$1"; }; }
