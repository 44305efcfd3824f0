//! The server.

/// The C library's allocator puts off the joining of freed memory until there is a lot of it: a
/// server that frees small blocks by the hundred thousand, also from other threads, would some day
/// stop for tens of milliseconds in the middle of a turn.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    pigeonhole::main()
}
