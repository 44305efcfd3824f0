//! Who a connection is: authentication schemes, and the identities that a connection collects.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::base::bytes::{Put, Reader, Truncated};
use crate::base::limits::{CREDENTIAL_BYTES_MAX, IDENTITIES_PER_CONNECTION_MAX};

/// One thing that is known about who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Identity {
    pub scheme: String,
    pub id: String,
}

/// All that is known about who is at the other end. Cloning shares the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identities(Arc<[Identity]>);

/// What the configuration says about authentication.
#[derive(Clone, Default)]
pub struct AuthSettings {
    /// `zookeeper.DigestAuthenticationProvider.superDigest`: `super:base64(sha1("super:…"))`.
    pub super_digest: Option<String>,
    /// `skipACL`: everybody passes every access check.
    pub skip_acl: bool,
}

impl AuthSettings {
    /// What is known about a connection before it authenticates: its address.
    pub fn newcomer(&self, address: IpAddr) -> Identities {
        let mut known = vec![Identity::of_address(address)];
        if self.skip_acl {
            known.push(Identity::new(SUPER, ""));
        }
        Identities(known.into())
    }
}

/// The credential is no good. ZooKeeper answers AuthFailed and closes the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthFailed;

/// Bytes that do not hold identities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedIdentities;

/// What `addAuth` with this scheme and credential proves.
///
/// As in ZooKeeper, `world` proves nothing and is no scheme to authenticate with, and a digest of
/// nothing fails where one of an empty text does not.
pub fn authenticate(
    scheme: &str,
    credential: Option<&[u8]>,
    peer_address: IpAddr,
    settings: &AuthSettings,
) -> Result<Vec<Identity>, AuthFailed> {
    if credential.is_some_and(|credential| credential.len() > CREDENTIAL_BYTES_MAX) {
        return Err(AuthFailed);
    }
    match scheme {
        DIGEST => Ok(authenticate_digest(credential.ok_or(AuthFailed)?, settings)),
        IP => Ok(vec![Identity::of_address(peer_address)]),
        _ => Err(AuthFailed),
    }
}

/// Whether an ACL entry may name `id` under `scheme`. `world` and `auth` are not decided here.
pub fn is_valid_id(scheme: &str, id: &str) -> bool {
    match scheme {
        DIGEST => is_valid_digest_id(id),
        IP => AddressRange::parse(id).is_some(),
        _ => false,
    }
}

impl Identity {
    fn new(scheme: &str, id: impl Into<String>) -> Self {
        Self { scheme: scheme.to_owned(), id: id.into() }
    }

    fn of_address(address: IpAddr) -> Self {
        Self::new(IP, address.to_canonical().to_string())
    }

    /// Whether the `auth` scheme of an ACL entry stands for this identity: an address proves
    /// nothing about a person, and `super` needs no entry.
    pub fn is_authenticated(&self) -> bool {
        self.scheme == DIGEST
    }

    /// The name that whoAmI tells: never the digest of a password.
    pub fn user_name(&self) -> &str {
        match self.scheme.as_str() {
            DIGEST => self.id.split(':').next().unwrap_or(""),
            IP => &self.id,
            _ => "",
        }
    }
}

impl Identities {
    /// Nobody in particular.
    pub fn none() -> Self {
        Self(Arc::from([]))
    }

    /// These and the added ones, each once. Fails when a connection collects too many.
    pub fn with(&self, added: Vec<Identity>) -> Result<Self, AuthFailed> {
        let mut all = self.0.to_vec();
        for identity in added {
            if !all.contains(&identity) {
                all.push(identity);
            }
        }
        if all.len() > IDENTITIES_PER_CONNECTION_MAX {
            return Err(AuthFailed);
        }
        Ok(Self(all.into()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.0.iter()
    }

    /// Whether one of them passes every access check.
    pub fn is_super(&self) -> bool {
        self.0.iter().any(|identity| identity.scheme == SUPER)
    }

    /// Appends: count (16 bits), then scheme and id, each a 16-bit length and UTF-8.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16_le(length_u16(self.0.len()));
        for identity in self.iter() {
            for text in [&identity.scheme, &identity.id] {
                out.put_u16_le(length_u16(text.len()));
                out.put(text.as_bytes());
            }
        }
    }

    /// Takes what [`Self::encode`] appended off the front of `reader`.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, MalformedIdentities> {
        let count = usize::from(reader.u16_le()?);
        if count > IDENTITIES_PER_CONNECTION_MAX {
            return Err(MalformedIdentities);
        }
        let mut identities = Vec::with_capacity(count);
        for _ in 0..count {
            identities.push(Identity { scheme: decode_text(reader)?, id: decode_text(reader)? });
        }
        Ok(Self(identities.into()))
    }
}

// A digest is as secret as the password that it proves: it is never printed.
impl core::fmt::Debug for AuthSettings {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let super_digest = self.super_digest.as_ref().map(|_| "…");
        f.debug_struct("AuthSettings").field("super_digest", &super_digest).finish()
    }
}

impl From<Truncated> for MalformedIdentities {
    fn from(_: Truncated) -> Self {
        Self
    }
}

fn decode_text(reader: &mut Reader<'_>) -> Result<String, MalformedIdentities> {
    let length = usize::from(reader.u16_le()?);
    let bytes = reader.bytes(length)?;
    core::str::from_utf8(bytes).map(ToOwned::to_owned).map_err(|_| MalformedIdentities)
}

fn length_u16(length: usize) -> u16 {
    u16::try_from(length).expect("credentials are bounded when they are accepted")
}

fn authenticate_digest(credential: &[u8], settings: &AuthSettings) -> Vec<Identity> {
    let user_and_password = String::from_utf8_lossy(credential);
    let user = user_and_password.split(':').next().unwrap_or("");
    let hash = Sha1::digest(user_and_password.as_bytes());
    let digest = format!("{user}:{}", STANDARD.encode(hash));
    let mut proven = Vec::with_capacity(2);
    if settings.super_digest.as_deref() == Some(digest.as_str()) {
        proven.push(Identity::new(SUPER, ""));
    }
    proven.push(Identity::new(DIGEST, digest));
    proven
}

/// Exactly two parts, counted as Java's `split` does: empty parts at the end do not count.
fn is_valid_digest_id(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

/// An address with the number of leading bits that matter (CIDR): what an ACL entry of the scheme
/// `ip` names.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct AddressRange {
    address: Address,
    bits: u32,
}

/// What an identity of the scheme `ip` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    V4(u32),
    V6(u128),
}

impl AddressRange {
    pub(crate) fn parse(expression: &str) -> Option<Self> {
        let (address, bits) = match expression.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (expression, None),
        };
        let address = Address::parse(address)?;
        let width = match address {
            Address::V4(_) => u32::BITS,
            Address::V6(_) => u128::BITS,
        };
        let bits = bits.map_or(Some(width), |text| text.parse().ok())?;
        (bits <= width).then_some(Self { address, bits })
    }

    pub(crate) fn contains(&self, address: Address) -> bool {
        match (self.address, address) {
            (Address::V4(range), Address::V4(address)) => {
                let shift = u32::BITS - self.bits;
                range.checked_shr(shift) == address.checked_shr(shift)
            }
            (Address::V6(range), Address::V6(address)) => {
                let shift = u128::BITS - self.bits;
                range.checked_shr(shift) == address.checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl Address {
    /// Java's reading, which is laxer than the standard library's: leading zeros are decimal.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.contains(':') { Self::parse_v6(text) } else { Self::parse_v4(text) }
    }

    fn parse_v4(text: &str) -> Option<Self> {
        let mut address = 0;
        let mut parts = text.split('.');
        for _ in 0..4 {
            address = address << 8 | u32::from(parts.next()?.parse::<u8>().ok()?);
        }
        parts.next().is_none().then_some(Self::V4(address))
    }

    fn parse_v6(text: &str) -> Option<Self> {
        text.parse().ok().map(|address: core::net::Ipv6Addr| Self::V6(address.to_bits()))
    }
}

pub(crate) const DIGEST: &str = "digest";
pub(crate) const IP: &str = "ip";
const SUPER: &str = "super";
