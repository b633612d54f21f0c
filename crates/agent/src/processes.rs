//! Which processes of a running system belong to a session.

use std::fs;

use nix::unistd::Pid;

/// What `/proc/PID/stat` says about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
}

/// All descendants of `agent`, and the members of the leaders' sessions, whoever their parent is now.
pub(super) fn of_session(agent: Pid, leaders: &[Pid]) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<Process> = entries
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| parse(&fs::read(entry.path().join("stat")).ok()?))
        .collect();
    let leaders: Vec<i32> = leaders.iter().map(|leader| leader.as_raw()).collect();
    members(&all, agent.as_raw(), &leaders).into_iter().map(Pid::from_raw).collect()
}

/// Descendants of `agent` and members of the sessions `leaders`.
fn members(all: &[Process], agent: i32, leaders: &[i32]) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    let mut parents = vec![agent];
    while let Some(parent) = parents.pop() {
        let children = all.iter().filter(|process| process.parent == parent && process.pid != agent);
        let new: Vec<i32> = children.map(|process| process.pid).filter(|pid| !found.contains(pid)).collect();
        found.extend(&new);
        parents.extend(new);
    }
    let strays = all.iter().filter(|process| leaders.contains(&process.session) && process.pid != agent);
    let strays: Vec<i32> = strays.map(|process| process.pid).filter(|pid| !found.contains(pid)).collect();
    found.extend(strays);
    found
}

/// `PID (COMMAND) STATE PARENT GROUP SESSION …`; the command may contain anything, even parentheses.
fn parse(stat: &[u8]) -> Option<Process> {
    let text = String::from_utf8_lossy(stat);
    let (pid, _) = text.split_once(' ')?;
    let mut rest = text.rsplit_once(')')?.1.split_whitespace().skip(1);
    let (parent, _group, session) = (rest.next()?, rest.next()?, rest.next()?);
    Some(Process { pid: pid.parse().ok()?, parent: parent.parse().ok()?, session: session.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_calls_itself() {
        let process = parse(b"12 (a) S 1) R 7 12 9 34816 0").unwrap();
        assert_eq!(process, Process { pid: 12, parent: 7, session: 9 });
        assert_eq!(parse(b"12 (a"), None);
    }

    #[test]
    fn a_session_is_all_below_the_agent_and_nothing_else_of_the_system() {
        let process = |pid, parent, session| Process { pid, parent, session };
        let all = [
            process(1, 0, 1),
            process(50, 1, 50),
            process(300, 1, 300),
            // the command, its child, a grandchild in a session of its own
            process(400, 300, 400),
            process(401, 400, 400),
            process(402, 401, 402),
            // an orphan that an older kernel gave to init
            process(403, 1, 400),
            process(60, 50, 50),
        ];
        let mut found = members(&all, 300, &[400]);
        found.sort_unstable();
        assert_eq!(found, [400, 401, 402, 403]);
    }

    #[test]
    fn the_processes_of_this_machine_are_found_too() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let found = of_session(Pid::this(), &[Pid::from_raw(-7)]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&Pid::from_raw(child.id() as i32)));
        assert!(!found.contains(&Pid::this()) && !found.contains(&Pid::from_raw(1)));
    }
}
