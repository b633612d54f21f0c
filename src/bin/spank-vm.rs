//! The program: see `spank_vm::cli`.

fn main() -> std::process::ExitCode {
    spank_vm::cli::main()
}
