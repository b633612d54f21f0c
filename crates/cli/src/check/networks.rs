//! Which of the networks that the site allows can be had on this node.

use nix::unistd::Uid;

use super::finding::Finding;
use network::trial::{self, Trial};
use request::Network;
use runner::config::Config;

/// What a network needs is tried, not looked up: kernels and distributions differ in it.
pub(super) fn look(config: &Config) -> Finding {
    let allowed = |network| config.allowed_networks.contains(&network);
    let user = allowed(Network::User).then(|| {
        let qemu = config.qemu_path().map_err(|error| format!("{error:#}"))?;
        qemu::has_user_network(&qemu).map_err(|error| error.to_string())
    });
    // Only root's process can leave the node's network, as slurmd does for a step.
    let job = (allowed(Network::Job) && Uid::effective().is_root())
        .then(|| trial::run(config.job_network, config.job_network_port));
    judge(user, allowed(Network::Job), job)
}

/// `user`: whether QEMU has a user network, if the site allows it; `job`: what was tried of the other, if it `is_allowed`.
fn judge(user: Option<Result<bool, String>>, is_allowed: bool, job: Option<Trial>) -> Finding {
    let (mut has, mut lacks) = (Vec::new(), Vec::new());
    match user {
        Some(Ok(true)) => has.push("user".to_owned()),
        Some(Ok(false)) => lacks.push("user: QEMU was built without its user network (slirp)".to_owned()),
        Some(Err(why)) => lacks.push(format!("user: {why}")),
        None => {}
    }
    match job {
        Some(Trial { on_a_node: Err(error), .. }) => lacks.push(format!("job: {error}")),
        Some(Trial { across_nodes: Some(Err(error)), .. }) => {
            has.push("job (on one node)".to_owned());
            lacks.push(format!("job across nodes: {error}"));
        }
        Some(_) => has.push("job".to_owned()),
        None if is_allowed => has.push("job (not tried: only root can)".to_owned()),
        None => {}
    }
    if lacks.is_empty() {
        return match has.is_empty() {
            true => Finding::good("none but 'none' is allowed ('allowed_networks')"),
            false => Finding::good(format!("--vm-net={}", has.join(", "))),
        };
    }
    let has = if has.is_empty() { String::new() } else { format!("--vm-net={}; ", has.join(", ")) };
    Finding::limited(format!("{has}not --vm-net={}", lacks.join("; not --vm-net=")))
        .remedy("mend it, or take that network out of 'allowed_networks' in the configuration")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::State;
    use network::NetworkError;

    fn trial(on_a_node: Result<(), &str>, across_nodes: Option<Result<(), &str>>) -> Option<Trial> {
        let lacks = |result: Result<(), &str>| result.map_err(NetworkError::new);
        Some(Trial { on_a_node: lacks(on_a_node), across_nodes: across_nodes.map(lacks) })
    }

    #[test]
    fn what_a_node_can_have_is_told_apart_from_what_it_lacks() {
        let whole = judge(Some(Ok(true)), true, trial(Ok(()), Some(Ok(()))));
        assert_eq!((whole.state, whole.found.as_str()), (State::Ok, "--vm-net=user, job"));
        let old = judge(Some(Ok(false)), true, trial(Ok(()), Some(Err("no tables"))));
        assert_eq!(
            old.found,
            "--vm-net=job (on one node); not --vm-net=user: QEMU was built without its user network (slirp); \
             not --vm-net=job across nodes: no tables"
        );
        assert!(old.state == State::Limited && old.remedy.is_some(), "{old:?}");
        let bare = judge(None, true, trial(Err("no bridge"), None));
        assert_eq!((bare.state, bare.found.as_str()), (State::Limited, "not --vm-net=job: no bridge"));
    }

    #[test]
    fn what_the_site_does_not_allow_is_no_lack_and_what_was_not_tried_is_said() {
        assert_eq!(judge(None, false, None).found, "none but 'none' is allowed ('allowed_networks')");
        assert_eq!(judge(Some(Ok(true)), true, None).found, "--vm-net=user, job (not tried: only root can)");
        assert_eq!(judge(None, false, None).state, State::Ok);
    }
}
