//! How the four-letter words show dates, addresses, averages: as Java prints them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use pigeonhole_core::base::time::{Instant, Now};

use crate::client::connection::ConnectionLine;
use crate::client::traffic::Latency;

type Written = std::fmt::Result;

/// Things that expire, by the second in which they do.
pub(crate) struct Sets<T> {
    by_second: BTreeMap<i64, Vec<T>>,
    pub(crate) count: usize,
}

impl<T> Sets<T> {
    pub(crate) fn of(things: impl Iterator<Item = (Instant, T)>, now: Now) -> Self {
        let mut sets = Self { by_second: BTreeMap::new(), count: 0 };
        for (at, thing) in things {
            let away_us = i128::from(at.0) - i128::from(now.instant.0);
            let wall_ms = i128::from(now.wall_ms) + away_us / 1000;
            let second = i64::try_from(wall_ms.div_euclid(1000)).unwrap_or(i64::MAX);
            sets.by_second.entry(second).or_default().push(thing);
            sets.count += 1;
        }
        sets
    }

    pub(crate) fn len(&self) -> usize {
        self.by_second.len()
    }

    pub(crate) fn write(
        &self,
        out: &mut String,
        mut line: impl FnMut(&mut String, &T) -> Written,
    ) -> Written {
        for (second, things) in &self.by_second {
            writeln!(out, "{} expire at {}:", things.len(), JavaDate(*second))?;
            things.iter().try_for_each(|thing| line(out, thing))?;
        }
        Ok(())
    }
}

/// Latencies in milliseconds; the average as Java prints it, rounded to four places.
pub(crate) struct LatencyMs {
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) average: f64,
    pub(crate) avg: String,
}

impl From<&Latency> for LatencyMs {
    fn from(latency: &Latency) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
        let average = match latency.count {
            0 => 0.0,
            count => latency.sum_us as f64 / count as f64 / 1000.0,
        };
        let rounded = (average * 10_000.0).round() / 10_000.0;
        // Rust's Debug for floats, like Java, always shows a point and no more digits than needed.
        let avg = format!("{rounded:?}");
        Self { min: latency.min_us / 1000, max: latency.max_us / 1000, average, avg }
    }
}

/// A connection's line without its closing parenthesis.
pub(crate) struct Brief<'a>(pub(crate) &'a ConnectionLine);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ConnectionLine { address, reads, outstanding, figures, .. } = self.0;
        let address = JavaAddress(*address);
        let interest = u8::from(*reads);
        let (received, sent) = (figures.received, figures.sent);
        write!(out, "{address}[{interest}](queued={outstanding},recved={received},sent={sent}")
    }
}

/// An address as Java prints one that has no name.
pub(crate) struct JavaAddress(pub(crate) SocketAddr);

impl std::fmt::Display for JavaAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = self.0.port();
        match self.0.ip().to_canonical() {
            IpAddr::V4(address) => write!(out, "/{address}:{port}"),
            IpAddr::V6(address) => {
                out.write_str("/")?;
                for (index, group) in address.segments().iter().enumerate() {
                    write!(out, "{}{group:x}", if index == 0 { "" } else { ":" })?;
                }
                write!(out, ":{port}")
            }
        }
    }
}

/// A second since 1970 as Java prints a date, in UTC.
pub(crate) struct JavaDate(pub(crate) i64);

impl std::fmt::Display for JavaDate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let days = self.0.div_euclid(86_400);
        let second = self.0.rem_euclid(86_400);
        let weekday = usize::try_from(days.rem_euclid(7)).expect("below 7");
        // Years that begin in March have their leap day at the end (Howard Hinnant's algorithm).
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 2 } else { month - 10 };
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let month = MONTHS[usize::try_from(month).expect("below 12")];
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let weekday = DAYS[weekday];
        write!(out, "{weekday} {month} {day:02} {hour:02}:{minute:02}:{second:02} UTC {year}")
    }
}

#[cfg(test)]
mod tests {
    use super::{JavaAddress, JavaDate, LatencyMs};
    use crate::client::traffic::Latency;

    #[test]
    fn dates_are_javas() {
        let table = [
            (0, "Thu Jan 01 00:00:00 UTC 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 UTC 2000"),
            (1_795_232_580, "Sat Nov 21 03:43:00 UTC 2026"),
            (1_798_761_599, "Thu Dec 31 23:59:59 UTC 2026"),
        ];
        for (second, expected) in table {
            assert_eq!(JavaDate(second).to_string(), expected);
        }
    }

    #[test]
    fn averages_are_javas() {
        let latency = |count, sum_us| Latency { count, sum_us, min_us: 1999, max_us: 97_001 };
        for (count, sum_us, expected) in
            [(0, 0, "0.0"), (2, 48_000, "24.0"), (3, 47_000, "15.6667")]
        {
            let shown = LatencyMs::from(&latency(count, sum_us));
            assert_eq!((shown.min, shown.avg.as_str(), shown.max), (1, expected, 97));
        }
    }

    #[test]
    fn addresses_are_javas() {
        let table = [
            ("127.0.0.1:2181", "/127.0.0.1:2181"),
            ("[::1]:2181", "/0:0:0:0:0:0:0:1:2181"),
            ("[::ffff:10.0.0.1]:7", "/10.0.0.1:7"),
        ];
        for (address, expected) in table {
            assert_eq!(JavaAddress(address.parse().unwrap()).to_string(), expected);
        }
    }
}
