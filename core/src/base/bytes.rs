//! Bounded readers and writers over slices: the only byte-order code of the core.

use alloc::vec::Vec;

/// The bytes ended before the value, or a length pointed beyond them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated;

/// Reads from the front of a slice and never beyond it.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, Truncated> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16_le(&mut self) -> Result<u16, Truncated> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32_le(&mut self) -> Result<u32, Truncated> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64_le(&mut self) -> Result<u64, Truncated> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn u128_le(&mut self) -> Result<u128, Truncated> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub fn i32_be(&mut self) -> Result<i32, Truncated> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64_be(&mut self) -> Result<i64, Truncated> {
        Ok(i64::from_be_bytes(self.array()?))
    }
}

/// Appends to a growing buffer.
pub trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16_le(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32_le(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64_le(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_u128_le(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    fn put_i32_be(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    fn put_i64_be(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Fills the front and keeps the rest. It is a mistake to put more than there is room for.
impl Put for &mut [u8] {
    fn put(&mut self, bytes: &[u8]) {
        let (front, rest) = core::mem::take(self).split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        *self = rest;
    }
}

/// A length as the 32 bits in which every format of this system stores it.
///
/// # Panics
/// If it does not fit: every producer is bounded far below (see `limits`).
pub fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a bounded length fits into 32 bits")
}
