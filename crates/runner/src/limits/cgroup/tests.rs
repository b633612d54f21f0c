//! Trees as Slurm 22.05 made them, with both layouts, in a directory that stands for the node's root.

use super::*;

/// What /proc/self/mountinfo says of a node with v1 controllers beside an empty v2 tree.
const V1_MOUNTS: &str = "\
22 1 0:20 / / rw,relatime - ext4 /dev/vda1 rw
31 23 0:27 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset
32 23 0:28 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
33 23 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const V2_MOUNTS: &str = "29 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

struct Node(tempfile::TempDir);

impl Node {
    fn new(membership: &str, mounts: &str) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        node.write("proc/self/cgroup", membership);
        node.write("proc/self/mountinfo", mounts);
        node
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A control group of v1 with these bytes.
    fn v1(&self, path: &str, limit: &str, usage: &str, cache: &str) {
        let dir = format!("sys/fs/cgroup/memory/{path}");
        self.write(&format!("{dir}/memory.limit_in_bytes"), &format!("{limit}\n"));
        self.write(&format!("{dir}/memory.usage_in_bytes"), &format!("{usage}\n"));
        let stat = format!("cache 99999999999\nactive_file 77\ntotal_active_file 0\ntotal_inactive_file {cache}\n");
        self.write(&format!("{dir}/memory.stat"), &stat);
    }

    /// A control group of v2 with these bytes.
    fn v2(&self, path: &str, limit: &str, usage: &str, cache: &str) {
        let dir = format!("sys/fs/cgroup/{path}");
        self.write(&format!("{dir}/memory.max"), &format!("{limit}\n"));
        self.write(&format!("{dir}/memory.current"), &format!("{usage}\n"));
        self.write(&format!("{dir}/memory.stat"), &format!("anon 1\nactive_file {cache}\ninactive_file 0\n"));
    }

    fn levels(&self) -> Vec<Level> {
        levels(self.0.path())
    }
}

fn level(name: &str, owner: Owner, limit_mib: Option<u64>, used_mib: u64) -> Level {
    Level { name: name.into(), owner, limit_mib, used_mib }
}

#[test]
fn a_mount_of_another_user_whose_name_is_no_text_hides_no_limit() {
    let node = Node::new("4:memory:/job_2\n", "");
    let other = b"99 22 0:99 / /home/bob/\xff rw - fuse.x x rw\n";
    fs::write(node.0.path().join("proc/self/mountinfo"), [other, V1_MOUNTS.as_bytes()].concat()).unwrap();
    node.v1("job_2", "734003200", "1097728", "0");
    assert_eq!(node.levels(), [level("job_2", Owner::Job, Some(700), 1)]);
}

#[test]
fn the_tree_of_v1_is_read_from_the_task_to_the_node() {
    let membership = "\
9:name=systemd:/
6:freezer:/slurm_n1/uid_1001/job_2/step_0
4:memory:/slurm_n1/uid_1001/job_2/step_0/task_0
3:cpuset:/slurm_n1/uid_1001/job_2/step_0
0::/
";
    let node = Node::new(membership, V1_MOUNTS);
    node.v1("slurm_n1/uid_1001/job_2/step_0/task_0", "9223372036854771712", "1097728", "0");
    node.v1("slurm_n1/uid_1001/job_2/step_0", "734003200", "1495040", "0");
    node.v1("slurm_n1/uid_1001/job_2", "734003200", "104857600", "52428800");
    node.v1("slurm_n1/uid_1001", "9223372036854771712", "2682880", "0");
    node.v1("slurm_n1", "9223372036854771712", "136904704", "0");
    let expected = [
        level("task_0", Owner::Step, None, 1),
        level("step_0", Owner::Step, Some(700), 1),
        level("job_2", Owner::Job, Some(700), 50),
        level("uid_1001", Owner::Node, None, 2),
        level("slurm_n1", Owner::Node, None, 130),
    ];
    assert_eq!(node.levels(), expected);
}

#[test]
fn the_tree_of_v2_is_read_from_the_task_to_the_slice() {
    let membership = "0::/system.slice/n1_slurmstepd.scope/job_2/step_batch/user/task_0\n";
    let node = Node::new(membership, V2_MOUNTS);
    let scope = "system.slice/n1_slurmstepd.scope";
    node.v2(&format!("{scope}/job_2/step_batch/user/task_0"), "max", "3145728", "0");
    node.v2(&format!("{scope}/job_2/step_batch/user"), "629145600", "3145728", "0");
    node.v2(&format!("{scope}/job_2/step_batch"), "max", "8388608", "1048576");
    node.v2(&format!("{scope}/job_2"), "1073741824", "9437184", "0");
    node.v2(scope, "max", "20971520", "0");
    node.v2("system.slice", "8589934592", "20971520", "0");
    let expected = [
        level("task_0", Owner::Step, None, 3),
        level("user", Owner::Step, Some(600), 3),
        level("step_batch", Owner::Step, None, 7),
        level("job_2", Owner::Job, Some(1024), 9),
        level("n1_slurmstepd.scope", Owner::Node, None, 20),
        level("system.slice", Owner::Node, Some(8192), 20),
    ];
    assert_eq!(node.levels(), expected);
}

#[test]
fn in_a_container_the_mount_shows_a_part_of_the_tree() {
    let mounts = "32 23 0:28 /docker/ab /mnt/cg\\040roups rw - cgroup cgroup rw,memory\n";
    let node = Node::new("4:cpu,memory:/docker/ab/slurm/uid_1/job_5/step_1/task_3\n", mounts);
    let dir = "mnt/cg roups/slurm/uid_1/job_5/step_1";
    node.write(&format!("{dir}/memory.limit_in_bytes"), "268435456\n");
    node.write(&format!("{dir}/memory.usage_in_bytes"), "1048576\n");
    assert_eq!(node.levels(), [level("step_1", Owner::Step, Some(256), 1)]);
}

#[test]
fn what_the_kernel_killed_is_counted_for_a_task_and_nobody_else() {
    let node = Node::new("4:memory:/slurm/uid_1/job_5/step_1/task_3\n", V1_MOUNTS);
    let events = "sys/fs/cgroup/memory/slurm/uid_1/job_5/step_1/task_3/memory.oom_control";
    assert_eq!(oom_kills(node.0.path()), 0);
    node.write(events, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    assert_eq!(oom_kills(node.0.path()), 2);
    let node = Node::new("0::/scope/job_5/step_1/user/task_3\n", V2_MOUNTS);
    node.write("sys/fs/cgroup/scope/job_5/step_1/user/task_3/memory.events", "low 0\noom 1\noom_kill 1\n");
    assert_eq!(oom_kills(node.0.path()), 1);
    let shell = Node::new("0::/user.slice\n", V2_MOUNTS);
    shell.write("sys/fs/cgroup/user.slice/memory.events", "oom_kill 7\n");
    assert_eq!(oom_kills(shell.0.path()), 0);
}

#[test]
fn a_node_without_control_groups_has_no_levels() {
    assert_eq!(levels(Path::new("/nonexistent")), []);
    assert_eq!(Node::new("", V1_MOUNTS).levels(), []);
    assert_eq!(Node::new("0::/\n", V2_MOUNTS).levels(), []);
    assert_eq!(Node::new("4:memory:/slurm\n", "22 1 0:20 / / rw - ext4 /dev/vda1 rw\n").levels(), []);
}

#[test]
fn a_job_s_group_is_known_by_its_place_where_slurm_names_it_otherwise() {
    let of = |path: &str| owner(Path::new(path));
    assert_eq!(of("system.slice/slurmstepd.scope/s1Ab2/step_0/user/task_0"), Owner::Step);
    assert_eq!(of("system.slice/n1_slurmstepd.scope/s1Ab2"), Owner::Job);
    assert_eq!(of("system.slice/slurmstepd.scope/job_7/step_0/user"), Owner::Step);
    assert_eq!(of("system.slice/slurmstepd.scope/system"), Owner::Node);
    assert_eq!(of("system.slice/slurmstepd.scope"), Owner::Node);
}
