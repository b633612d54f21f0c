//! Names of VMs.

/// Host name of the VM of all tasks on node number `node` of a step.
pub(crate) fn name_of_node_vm(job: u64, node: u64) -> String {
    format!("vm{job}-n{node}")
}

/// Host name of VM number `index` of the `vms` of a task.
pub(crate) fn name_of_vm(job: u64, rank: u64, index: u32, vms: u32) -> String {
    if vms > 1 { format!("vm{job}-{rank}-{index}") } else { format!("vm{job}-{rank}") }
}
