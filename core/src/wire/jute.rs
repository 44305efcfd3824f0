//! Jute's primitives over the bounded reader and writer; numbers are big-endian.

use core::str;

use crate::base::bytes::{Put, Reader, Truncated, length_u32};

/// Bytes that are no jute record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JuteError {
    /// The bytes ended before the value, or a length or a count pointed beyond them.
    Truncated,
    /// A length below -1, which stands for null.
    NegativeLength,
    /// Null where the record has no meaning without a value.
    Null,
    /// A string that is not UTF-8.
    NotUtf8,
    /// A number outside its enumeration.
    UnknownNumber,
}

/// Jute's readings beyond plain integers.
pub trait ReadJute<'a> {
    fn boolean(&mut self) -> Result<bool, JuteError>;
    /// A `buffer`, or the bytes of a `ustring`; `None` is null.
    fn buffer(&mut self) -> Result<Option<&'a [u8]>, JuteError>;
    /// A `ustring` that is there.
    fn text(&mut self) -> Result<&'a str, JuteError>;
    /// The count of a `vector`; null and every negative count are empty, as in ZooKeeper.
    ///
    /// A count that the remaining bytes cannot hold, at `element_bytes_min` for each element, is
    /// refused here: nobody reserves memory for what was only announced.
    fn vector_count(&mut self, element_bytes_min: usize) -> Result<usize, JuteError>;
}

/// Jute's writings beyond plain integers.
pub trait PutJute: Put {
    fn put_boolean(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn put_buffer(&mut self, bytes: &[u8]) {
        self.put_u32_be(length_u32(bytes.len()));
        self.put(bytes);
    }

    fn put_nullable_buffer(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.put_buffer(bytes),
            None => self.put_i32_be(-1),
        }
    }

    fn put_text(&mut self, text: &str) {
        self.put_buffer(text.as_bytes());
    }

    fn put_count(&mut self, count: usize) {
        self.put_u32_be(length_u32(count));
    }

    fn put_null(&mut self) {
        self.put_i32_be(-1);
    }

    fn put_u32_be(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }
}

impl<T: Put + ?Sized> PutJute for T {}

impl<'a> ReadJute<'a> for Reader<'a> {
    #[inline]
    fn boolean(&mut self) -> Result<bool, JuteError> {
        Ok(self.u8()? != 0)
    }

    #[inline]
    fn buffer(&mut self) -> Result<Option<&'a [u8]>, JuteError> {
        match self.i32_be()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| JuteError::NegativeLength)?;
                Ok(Some(self.bytes(length)?))
            }
        }
    }

    #[inline]
    fn text(&mut self) -> Result<&'a str, JuteError> {
        let bytes = self.buffer()?.ok_or(JuteError::Null)?;
        str::from_utf8(bytes).map_err(|_| JuteError::NotUtf8)
    }

    fn vector_count(&mut self, element_bytes_min: usize) -> Result<usize, JuteError> {
        assert!(element_bytes_min > 0, "every jute record has bytes");
        let Ok(count) = usize::try_from(self.i32_be()?) else {
            return Ok(0);
        };
        if count > self.remaining() / element_bytes_min {
            return Err(JuteError::Truncated);
        }
        Ok(count)
    }
}

impl From<Truncated> for JuteError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{JuteError, PutJute, ReadJute};
    use crate::base::bytes::{Put, Reader};

    #[test]
    fn primitives_come_back() {
        let mut out = Vec::new();
        out.put_boolean(true);
        out.put_text("é");
        out.put_buffer(b"");
        out.put_null();
        out.put_count(2);
        out.put_i64_be(-2);
        assert_eq!(
            out,
            b"\x01\0\0\0\x02\xc3\xa9\0\0\0\0\xff\xff\xff\xff\0\0\0\x02\
              \xff\xff\xff\xff\xff\xff\xff\xfe"
        );
        let mut reader = Reader::new(&out);
        assert_eq!(reader.boolean(), Ok(true));
        assert_eq!(reader.text(), Ok("é"));
        assert_eq!(reader.buffer(), Ok(Some(&b""[..])));
        assert_eq!(reader.buffer(), Ok(None));
        assert_eq!(reader.vector_count(4), Ok(2));
        assert_eq!(reader.i64_be(), Ok(-2));
        assert_eq!(reader.boolean(), Err(JuteError::Truncated));
    }

    #[test]
    fn what_only_claims_to_be_there_is_refused() {
        let read = |bytes: &'static [u8]| Reader::new(bytes).buffer();
        assert_eq!(read(b"\xff\xff\xff\xfe"), Err(JuteError::NegativeLength));
        assert_eq!(read(b"\x7f\xff\xff\xff"), Err(JuteError::Truncated));
        assert_eq!(read(b"\0\0\0\x02a"), Err(JuteError::Truncated));
        assert_eq!(Reader::new(b"\xff\xff\xff\xff").text(), Err(JuteError::Null));
        assert_eq!(Reader::new(b"\0\0\0\x01\xff").text(), Err(JuteError::NotUtf8));
    }

    #[test]
    fn a_count_is_bounded_by_the_bytes_behind_it() {
        let count = |bytes: &'static [u8], least| Reader::new(bytes).vector_count(least);
        assert_eq!(count(b"\0\0\0\x02abcdefgh", 4), Ok(2));
        assert_eq!(count(b"\0\0\0\x02abcdefg", 4), Err(JuteError::Truncated));
        assert_eq!(count(b"\x7f\xff\xff\xff", 1), Err(JuteError::Truncated));
        assert_eq!(count(b"\xff\xff\xff\xfe", 4), Ok(0));
    }
}
