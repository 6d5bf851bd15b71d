//! Integers of variable length: RFC 9000, section 16.
//!
//! The two highest bits of the first byte say how many bytes there are: 1, 2, 4 or 8. A value need
//! not be in its shortest form, and readers here take every form.

/// The largest value: 2^62 - 1.
pub(crate) const VARINT_MAX: u64 = (1 << 62) - 1;

/// In the shortest form. Lengths come from slices, which are never beyond the largest value.
pub(crate) fn write(value: usize, out: &mut Vec<u8>) {
    let value = value as u64;
    debug_assert!(value <= VARINT_MAX, "a slice is shorter than 2^62");
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// In two bytes, whatever the value: what a shape needs to fill a cell to the byte.
pub(crate) fn write_two(value: usize, out: &mut Vec<u8>) {
    debug_assert!(value < 0x4000, "a cell is shorter than 16 KiB");
    out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes());
}

/// Reads one integer, however its bytes are cut.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct VarintReader {
    value: u64,
    /// Bytes still to come, once the first is read.
    left: Option<u8>,
}

impl VarintReader {
    /// Takes what it needs from `input`; the value, once it is whole. Then it is as new.
    pub(crate) fn take(&mut self, input: &mut &[u8]) -> Option<u64> {
        loop {
            if self.left == Some(0) {
                return Some(std::mem::take(self).value);
            }
            let (byte, rest) = input.split_first()?;
            *input = rest;
            match self.left {
                None => {
                    self.left = Some((1 << (byte >> 6)) - 1);
                    self.value = u64::from(byte & 0x3f);
                }
                Some(left) => {
                    self.left = Some(left - 1);
                    self.value = self.value << 8 | u64::from(*byte);
                }
            }
        }
    }

    /// Whether no byte of the next integer was read yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.left.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9000, section A.1.
    #[test]
    fn the_examples_of_rfc_9000_are_read() {
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(VarintReader::default().take(&mut &*bytes), Some(value));
        }
    }

    proptest! {
        #[test]
        fn every_form_is_read_back_a_byte_at_a_time(value in 0..=VARINT_MAX, wider in 0u32..4) {
            let least = match value { 0..0x40 => 0, 0x40..0x4000 => 1, 0x4000..0x4000_0000 => 2, _ => 3 };
            let form = least.max(wider);
            let whole = (value | u64::from(form) << (8 * (1 << form) - 2)).to_be_bytes();
            let bytes = &whole[8 - (1 << form)..];
            let mut reader = VarintReader::default();
            for (at, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(reader.is_fresh(), at == 0);
                let read = reader.take(&mut &[*byte][..]);
                prop_assert_eq!(read, (at + 1 == bytes.len()).then_some(value));
            }
            prop_assert!(reader.is_fresh());
        }

        #[test]
        fn what_is_written_is_read(value in 0usize..1 << 40) {
            let mut out = Vec::new();
            write(value, &mut out);
            let mut input = &out[..];
            prop_assert_eq!(VarintReader::default().take(&mut input), Some(value as u64));
            prop_assert!(input.is_empty());
        }
    }
}
