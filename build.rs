//! Makes the raw bindings to Slurm's `spank.h`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=include/wrapper.h");
    bindings::generate();
}

mod bindings {
    use std::path::{Path, PathBuf};
    use std::{env, process};

    const MISSING: &str = "Slurm's header slurm/spank.h was not found. \
        On Debian and Ubuntu: apt-get install libslurm-dev slurm-wlm-basic-plugins-dev; elsewhere install \
        Slurm's development package, or point SLURM_INCLUDE_DIR at the directory that holds slurm/spank.h.";

    /// Writes `$OUT_DIR/spank.rs`, which `src/sys.rs` includes.
    pub fn generate() {
        println!("cargo::rerun-if-env-changed=SLURM_INCLUDE_DIR");
        let mut builder = bindgen::Builder::default()
            .header("include/wrapper.h")
            .rust_edition(bindgen::RustEdition::Edition2024)
            .prepend_enum_name(false)
            .layout_tests(false)
            .generate_comments(false)
            // Only what src/spank uses. spank_prepend_task_argv is left out on purpose: it exists
            // only since Slurm 23.11, and with a direct reference older releases could not load the
            // plugin.
            .allowlist_function("spank_(context|get_item|getenv|setenv|unsetenv|strerror|option_register)")
            .allowlist_function("slurm_(error|spank_log|info|verbose|debug)")
            .allowlist_type("spank_(t|option|err_t|context_t|item_t)")
            .allowlist_var("S_.*|ESPANK_.*|SPANK_OPTION_MAXLEN")
            .allowlist_recursively(true);
        if let Some(dir) = env::var_os("SLURM_INCLUDE_DIR") {
            let dir = PathBuf::from(dir);
            watch(&dir);
            builder = builder.clang_arg(format!("-I{}", dir.display()));
        } else {
            watch(Path::new("/usr/include"));
        }
        let bindings = builder.generate().unwrap_or_else(|error| {
            if error.to_string().contains("spank.h") {
                println!("cargo::error={MISSING}");
            } else {
                println!("cargo::error=bindgen: {error}");
            }
            process::exit(1);
        });
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("spank.rs");
        if let Err(error) = bindings.write_to_file(&out) {
            println!("cargo::error={}: {error}", out.display());
            process::exit(1);
        }
    }

    /// Another Slurm needs other bindings. Do not give cargo a file that does not exist: cargo
    /// would then run this script at every build.
    fn watch(include: &Path) {
        for header in ["slurm/spank.h", "slurm/slurm_errno.h"] {
            let header = include.join(header);
            if header.exists() {
                println!("cargo::rerun-if-changed={}", header.display());
            }
        }
    }
}
