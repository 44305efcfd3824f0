//! The types of single settings: addresses, the cluster's id, secrets, numbers with units.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host and a port, not yet resolved: a peer's name may begin to resolve after this start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A name or an address; an IPv6 address stands without brackets.
    pub host: String,
    /// Never zero.
    pub port: u16,
}

/// The random number that tells this cluster from every other, from `pigeonhole.cluster`.
///
/// Written as 32 hex digits. It is never zero, so that zeroed bytes are nobody's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterId(u128);

/// A value that must not reach a log: its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl HostPort {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    /// Asks the resolver; blocks, and may answer differently at another time.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl ClusterId {
    /// The id, or nothing for zero.
    pub fn new(id: u128) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// The number itself, for the disk and for the peers' greeting.
    pub fn to_u128(self) -> u128 {
        self.0
    }
}

impl Secret {
    pub(crate) fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the one place that compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.and_then(Self::new).ok_or_else(|| {
            format!(
                "{} is not a cluster's id; write the 32 hex digits that `pigeonhole format` \
                 printed on the first server",
                quoted(text)
            )
        })
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(redacted)")
    }
}

/// Reads a whole number as Java does: an optional sign and digits, or `0x` and hex digits.
pub(super) fn whole_number(text: &str) -> Option<i64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hex {
        Some(digits) if digits.starts_with(['+', '-']) => None,
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Reads a number of bytes: a whole number, or one with the suffix `K`, `M` or `G`.
pub(super) fn byte_count(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let count = u64::try_from(whole_number(digits)?).ok()?;
    count.checked_mul(1 << shift)
}

/// A value as an error message shows it: quoted, and cut where nobody would read on.
pub(super) fn quoted(value: &str) -> String {
    if value.chars().count() <= SHOWN_CHARACTERS_MAX {
        return format!("{value:?}");
    }
    let head: String = value.chars().take(SHOWN_CHARACTERS_MAX).collect();
    format!("{:?}", head + "…")
}

const SHOWN_CHARACTERS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_java_reads_them() {
        let table = [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("010", Some(10)),
            ("0xfffff", Some(0xf_ffff)),
            ("0X10", Some(16)),
            ("0x", None),
            ("0x-1", None),
            ("", None),
            (" 1", None),
            ("1.5", None),
            ("ten", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in table {
            assert_eq!(whole_number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn byte_counts_take_suffixes() {
        let table = [
            ("4096", Some(4096)),
            ("1K", Some(1 << 10)),
            ("256M", Some(256 << 20)),
            ("2g", Some(2 << 30)),
            ("G", None),
            ("-1G", None),
            ("1T", None),
            ("1GB", None),
            ("1 G", None),
            ("9999999999999G", None),
        ];
        for (text, expected) in table {
            assert_eq!(byte_count(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_cluster_id_is_32_hex_digits_and_not_zero() {
        let id: ClusterId = "00c0ffee00000000000000000000000A".parse().unwrap();
        assert_eq!(id.to_string(), "00c0ffee00000000000000000000000a");
        for wrong in [
            "",
            "c0ffee",
            "00000000000000000000000000000000",
            "+0c0ffee00000000000000000000000a",
            "00c0ffee-0000-0000-0000-00000000000a",
        ] {
            let error = wrong.parse::<ClusterId>().unwrap_err();
            assert!(error.contains(&quoted(wrong)), "{error}");
            assert!(error.contains("32 hex digits"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        assert_eq!(format!("{:#?}", Some(&secret)), "Some(\n    Secret(redacted),\n)");
        assert!(secret.expose().starts_with("super:"));
    }

    #[test]
    fn an_ipv6_address_is_shown_in_brackets() {
        assert_eq!(HostPort::new("::1", 2181).to_string(), "[::1]:2181");
        assert_eq!(HostPort::new("zk1", 2181).to_string(), "zk1:2181");
        let resolved = HostPort::new("127.0.0.1", 2181).resolve().unwrap();
        let expected: SocketAddr = "127.0.0.1:2181".parse().unwrap();
        assert_eq!(resolved, [expected]);
    }
}
