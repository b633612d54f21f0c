//! PID 1 of the guest. See [`spank_vm::agent`].

fn main() -> std::process::ExitCode {
    spank_vm::agent::main()
}
