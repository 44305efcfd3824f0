//! The ring against a real kernel: real sockets, a real disk, real limits.
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]
#![expect(clippy::print_stdout, reason = "what was skipped or measured has to be seen")]

mod limits;
mod log;
mod sockets;
mod waking;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pigeonhole::os;
use pigeonhole::ring::{Completion, Ring, RingConfig, SyncPrimitive, Token};

const LISTENER: Token = Token { slot: u32::MAX, generation: 0 };
const LOG: Token = Token { slot: 77, generation: 5 };
const TWO_PRIMITIVES: [SyncPrimitive; 2] =
    [SyncPrimitive::DataSyncWrite, SyncPrimitive::WriteThenSync];

fn scratch_file(name: &str, bytes: usize) -> (PathBuf, File) {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::write(&path, vec![0; bytes]).unwrap();
    let file = os::open_direct(&path)
        .or_else(|_| OpenOptions::new().read(true).write(true).open(&path))
        .unwrap();
    (path, file)
}

fn default_ring() -> Ring {
    Ring::new(&RingConfig::default()).unwrap().0
}

/// Waits for the next completion that is not about a receive.
fn wait_for(ring: &mut Ring) -> Completion<'static> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline, "nothing has completed in ten seconds");
        match ring.next_completion() {
            Some(Completion::Accepted { token, stream, armed }) => {
                return Completion::Accepted { token, stream, armed };
            }
            Some(Completion::AcceptFailed { token, error, armed }) => {
                return Completion::AcceptFailed { token, error, armed };
            }
            Some(Completion::ReceiveEnded { token, end }) => {
                return Completion::ReceiveEnded { token, end };
            }
            Some(Completion::Sent { token, buffer, result }) => {
                return Completion::Sent { token, buffer, result };
            }
            Some(Completion::Connected { token, result }) => {
                return Completion::Connected { token, result };
            }
            Some(Completion::LogWritten { token, buffer, result }) => {
                return Completion::LogWritten { token, buffer, result };
            }
            Some(Completion::Woken { value }) => return Completion::Woken { value },
            Some(Completion::WakeFailed { value, error }) => {
                return Completion::WakeFailed { value, error };
            }
            Some(other) => panic!("{other:?}"),
            None => ring.submit_and_wait(Some(Duration::from_secs(1))).unwrap(),
        }
    }
}
