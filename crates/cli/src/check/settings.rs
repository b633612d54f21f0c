//! Every effective setting, as TOML.

use std::path::Path;

use runner::config::Config;
use toml::Value;

/// The text that could be the configuration.
pub(super) fn text(config: &Config) -> String {
    let Config {
        image_dirs,
        user_images,
        delivery,
        image_cache_dir,
        image_cache_mib,
        image_copy_timeout_s,
        kit,
        qemu,
        confine_qemu,
        qemu_dirs,
        accel,
        cpu_model,
        machine,
        microvm_memory_mib,
        start,
        state_dir,
        template_dir,
        template_cache_mib,
        scratch_dir,
        default_memory_mib,
        memory_overhead_mib,
        memory_overhead_per_gib_mib,
        max_vms_per_slot,
        vm_scope,
        vm_scopes,
        boot_timeout_s,
        full_boot_timeout_s,
        silence_timeout_s,
        kvm_timeout_s,
        allow_root,
        share_home,
        default_network,
        allowed_networks,
        job_network,
        job_network_v6,
        job_network_port,
        shares,
        leftovers,
    } = config;
    let leftovers: String = leftovers.iter().map(|line| format!("# {line}\n")).collect();
    let shares = Value::Array(shares.iter().map(|share| Value::String(share.to_string())).collect());
    let [image_dirs, qemu_dirs] =
        [image_dirs, qemu_dirs].map(|dirs| Value::Array(dirs.iter().map(|dir| quoted(dir)).collect()));
    let [image_cache_dir, kit, qemu] = [image_cache_dir, kit, qemu].map(|path| quoted(path));
    let [state_dir, template_dir, scratch_dir] = [state_dir, template_dir, scratch_dir].map(|path| quoted(path));
    format!(
        "{leftovers}image_dirs = {image_dirs}\nuser_images = {user_images}\ndelivery = {:?}\n\
         image_cache_dir = {image_cache_dir}\nimage_cache_mib = {image_cache_mib}\n\
         image_copy_timeout_s = {image_copy_timeout_s}\nkit = {kit}\nqemu = {qemu}\nconfine_qemu = {:?}\nqemu_dirs = {qemu_dirs}\naccel = {:?}\n\
         cpu_model = \"{cpu_model}\"\nmachine = {:?}\nmicrovm_memory_mib = {microvm_memory_mib}\nstart = {:?}\n\
         state_dir = {state_dir}\ntemplate_dir = {template_dir}\ntemplate_cache_mib = {template_cache_mib}\n\
         scratch_dir = {scratch_dir}\ndefault_memory_mib = {default_memory_mib}\n\
         memory_overhead_mib = {memory_overhead_mib}\n\
         memory_overhead_per_gib_mib = {memory_overhead_per_gib_mib}\nmax_vms_per_slot = {max_vms_per_slot}\n\
         vm_scope = \"{}\"\nvm_scopes = {:?}\n\
         boot_timeout_s = {boot_timeout_s}\nfull_boot_timeout_s = {full_boot_timeout_s}\n\
         silence_timeout_s = {silence_timeout_s}\nkvm_timeout_s = {kvm_timeout_s}\nallow_root = {allow_root}\n\
         share_home = {share_home}\ndefault_network = {:?}\nallowed_networks = {:?}\n\
         job_network = \"{job_network}\"\njob_network_v6 = \"{job_network_v6}\"\n\
         job_network_port = {job_network_port}\n\
         shares = {shares}\n",
        delivery.as_str(),
        format!("{confine_qemu:?}").to_lowercase(),
        format!("{accel:?}").to_lowercase(),
        format!("{machine:?}").to_lowercase(),
        format!("{start:?}").to_lowercase(),
        vm_scope.word(),
        vm_scopes.iter().map(|scope| scope.word()).collect::<Vec<_>>(),
        default_network.as_str(),
        allowed_networks.iter().map(|network| network.as_str()).collect::<Vec<_>>(),
    )
}

/// Rust's own way to write a path escapes more than TOML knows.
fn quoted(path: &Path) -> Value {
    Value::String(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_means_nothing_any_more_is_a_comment_in_it() {
        let config = Config::parse("file_transport = 'fuse'\n").unwrap();
        assert!(text(&config).starts_with("# line 1: ") && text(&config).contains("can be removed\nimage_dirs"));
        text(&config).parse::<toml::Table>().unwrap();
    }

    #[test]
    fn the_text_is_toml_whatever_a_directory_is_called() {
        // An accent of its own, a quote, a tabulator.
        let kit = "/sw/cafe\u{301} \"x\"\t'y'";
        let config = Config { kit: kit.into(), image_dirs: vec![kit.into()], ..Config::default() };
        let table: toml::Table = text(&config).parse().unwrap();
        assert_eq!((table["kit"].as_str(), table["image_dirs"][0].as_str()), (Some(kit), Some(kit)));
    }
}
