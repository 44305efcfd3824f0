//! The server.
fn main() -> std::process::ExitCode {
    pigeonhole::main()
}
