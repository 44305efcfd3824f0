//! The product, built together with the tests that start it as a process of its own.

fn main() -> std::process::ExitCode {
    pigeonhole::main()
}
