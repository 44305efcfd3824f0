//! Which znodes a load uses, and the requests for them as bytes that need only a few digits.

use std::ops::Range;

use crate::client::wire;

/// The znodes `/bench-<subtree>/key-<key>`. All names are equally long, so that one template
/// serves them all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) subtrees: u32,
    pub(crate) keys_per_subtree: u32,
}

/// One read and one write, encoded once; a request is a copy with xid, path and tag overwritten.
pub(crate) struct Templates {
    keys: Keys,
    read: Vec<u8>,
    write: Vec<u8>,
    value_bytes: usize,
}

impl Keys {
    /// Every key has one number, counted through the subtrees.
    pub(crate) fn count(self) -> u32 {
        self.subtrees * self.keys_per_subtree
    }

    /// The keys of one subtree.
    pub(crate) fn of_subtree(self, subtree: u32) -> Range<u32> {
        let first = subtree * self.keys_per_subtree;
        first..first + self.keys_per_subtree
    }

    pub(crate) fn subtree_path(self, subtree: u32) -> String {
        format!("/bench-{subtree:0SUBTREE_DIGITS$}")
    }

    pub(crate) fn path(self, key: u32) -> String {
        let (subtree, key) = (key / self.keys_per_subtree, key % self.keys_per_subtree);
        format!("/bench-{subtree:0SUBTREE_DIGITS$}/key-{key:0KEY_DIGITS$}")
    }
}

impl Templates {
    pub(crate) fn new(keys: Keys, value_bytes: usize) -> Self {
        let mut read = Vec::new();
        wire::get_data(&mut read, 0, &keys.path(0));
        let mut write = Vec::new();
        wire::set_data(&mut write, 0, &keys.path(0), &value(0, value_bytes));
        Self { keys, read, write, value_bytes }
    }

    #[inline]
    pub(crate) fn read(&self, output: &mut Vec<u8>, xid: i32, key: u32) {
        let start = output.len();
        output.extend_from_slice(&self.read);
        self.patch(&mut output[start..], xid, key);
    }

    #[inline]
    pub(crate) fn write(&self, output: &mut Vec<u8>, xid: i32, key: u32) {
        let start = output.len();
        output.extend_from_slice(&self.write);
        let request = &mut output[start..];
        self.patch(request, xid, key);
        if self.value_bytes >= TAG_BYTES {
            request[VALUE_OFFSET..][..TAG_BYTES].copy_from_slice(&tag(key));
        }
    }

    /// Whether `data` is what some write, or the set-up, put under `key`.
    #[inline]
    pub(crate) fn is_value_of(&self, key: u32, data: &[u8]) -> bool {
        data.len() == self.value_bytes
            && (self.value_bytes < TAG_BYTES || data[..TAG_BYTES] == tag(key))
    }

    #[inline]
    fn patch(&self, request: &mut [u8], xid: i32, key: u32) {
        request[wire::XID_OFFSET..][..4].copy_from_slice(&xid.to_be_bytes());
        let (subtree, key) = (key / self.keys.keys_per_subtree, key % self.keys.keys_per_subtree);
        put_digits(&mut request[SUBTREE_OFFSET..][..SUBTREE_DIGITS], subtree);
        put_digits(&mut request[KEY_OFFSET..][..KEY_DIGITS], key);
    }
}

/// What a key holds: its number, so that a reply of another key is noticed, and filling.
pub(crate) fn value(key: u32, value_bytes: usize) -> Vec<u8> {
    let mut value = vec![b'.'; value_bytes];
    if value_bytes >= TAG_BYTES {
        value[..TAG_BYTES].copy_from_slice(&tag(key));
    }
    value
}

fn tag(key: u32) -> [u8; TAG_BYTES] {
    (0x7069_6765_0000_0000 | u64::from(key)).to_be_bytes()
}

#[inline]
fn put_digits(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10).to_be_bytes()[3];
        number /= 10;
    }
}

pub(crate) const SUBTREES_MAX: u32 = 1_000;
pub(crate) const KEYS_PER_SUBTREE_MAX: u32 = 1_000_000;
const SUBTREE_DIGITS: usize = 3;
const KEY_DIGITS: usize = 6;
const TAG_BYTES: usize = 8;
/// Behind length, xid, opcode, the path's length and `/bench-`.
const SUBTREE_OFFSET: usize = 4 + 4 + 4 + 4 + 7;
/// Behind the subtree's digits and `/key-`.
const KEY_OFFSET: usize = SUBTREE_OFFSET + SUBTREE_DIGITS + 5;
/// Behind the path and the value's length.
const VALUE_OFFSET: usize = KEY_OFFSET + KEY_DIGITS + 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patched_template_is_the_request_encoded_from_scratch() {
        let keys = Keys { subtrees: 16, keys_per_subtree: 1000 };
        for value_bytes in [0, 7, 8, 100] {
            let templates = Templates::new(keys, value_bytes);
            for key in [0, 9, 999, 1000, 15_999] {
                let (mut patched, mut expected) = (b"before".to_vec(), b"before".to_vec());
                templates.read(&mut patched, 77, key);
                wire::get_data(&mut expected, 77, &keys.path(key));
                templates.write(&mut patched, 78, key);
                wire::set_data(&mut expected, 78, &keys.path(key), &value(key, value_bytes));
                assert_eq!(patched, expected);
                assert!(templates.is_value_of(key, &value(key, value_bytes)));
            }
        }
    }

    #[test]
    fn another_keys_value_is_noticed() {
        let keys = Keys { subtrees: 2, keys_per_subtree: 10 };
        assert_eq!(keys.path(13), "/bench-001/key-000003");
        assert_eq!(keys.of_subtree(1), 10..20);
        let templates = Templates::new(keys, 100);
        assert!(!templates.is_value_of(3, &value(4, 100)));
        assert!(!templates.is_value_of(3, &value(3, 99)));
    }
}
