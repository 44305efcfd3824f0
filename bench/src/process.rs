//! What the kernel says about processes and this machine: CPU, memory, time taken by the host.

use std::time::Duration;
use std::{fs, io};

use crate::error::BenchError;

/// CPU and memory of a set of processes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessUse {
    pub(crate) cpu: Duration,
    /// The largest of them, since a cluster is as big as its biggest server.
    pub(crate) resident_bytes_max: u64,
}

/// Time of all CPUs together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineTime {
    pub(crate) busy: Duration,
    /// Taken by the host for others.
    pub(crate) stolen: Duration,
    pub(crate) all: Duration,
}

/// Adds up the CPU of `pids` and finds the largest resident set.
pub(crate) fn process_use(pids: &[u32]) -> Result<ProcessUse, BenchError> {
    let mut total = ProcessUse::default();
    for pid in pids {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        let statm = read(&format!("/proc/{pid}/statm"))?;
        let ticks = cpu_ticks(&stat);
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let (Some(ticks), Some(pages)) = (ticks, pages) else {
            return Err(BenchError::Invalid(format!("/proc/{pid} is not in the known form")));
        };
        total.cpu += Duration::from_secs(ticks) / system_value(libc::_SC_CLK_TCK);
        let resident = pages * u64::from(system_value(libc::_SC_PAGESIZE));
        total.resident_bytes_max = total.resident_bytes_max.max(resident);
    }
    Ok(total)
}

/// The CPU that the calling thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec on the stack.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    let nanoseconds = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(u64::try_from(time.tv_sec).expect("a thread's age"), nanoseconds)
}

/// How this machine's CPUs have spent their time since it started.
pub(crate) fn machine_time() -> Result<MachineTime, BenchError> {
    let stat = read("/proc/stat")?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    // Guest times follow; they are contained in user and nice.
    let Some(&[user, nice, system, idle, io_wait, interrupt, soft_interrupt, stolen]) =
        ticks.first_chunk::<8>()
    else {
        return Err(BenchError::Invalid("/proc/stat is not in the known form".to_owned()));
    };
    let time = |ticks| Duration::from_secs(ticks) / system_value(libc::_SC_CLK_TCK);
    let busy = user + nice + system + interrupt + soft_interrupt;
    Ok(MachineTime {
        busy: time(busy),
        stolen: time(stolen),
        all: time(busy + idle + io_wait + stolen),
    })
}

/// Wakes this thread when a wait ends, not up to 50 µs later as the kernel does by default.
pub(crate) fn wake_on_time() {
    // SAFETY: this call takes no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
    assert_eq!(result, 0, "a thread may set its own timer slack: {}", io::Error::last_os_error());
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The command's name may hold blanks and brackets, so count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn system_value(name: libc::c_int) -> u32 {
    // SAFETY: this call takes no pointers.
    let value = unsafe { libc::sysconf(name) };
    u32::try_from(value).expect("the tick and the page size are small positive numbers")
}

fn read(path: &str) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(BenchError::io(format!("read {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_counted_behind_the_name_whatever_the_name_is() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("12 (a"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let used = process_use(&[std::process::id()]).unwrap();
        assert!(used.resident_bytes_max > 100_000);
        let machine = machine_time().unwrap();
        assert!(machine.all > machine.busy && machine.all > machine.stolen);
    }
}
