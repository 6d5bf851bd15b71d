/// Where a token's place in its table is sought first, and what it is told from others by: FNV-1a. The
/// build script writes tables by it.
pub(crate) fn mark(bytes: &[u8]) -> u64 {
    let mut mark = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        mark = (mark ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The low bits of a product know little of its first factor's high ones.
    mark ^ (mark >> 32)
}

/// A table of so many places, a power of two; `ranks` are as many at most as half of it.
pub(crate) const SLOTS: usize = 1 << 19;

/// A place holds a rank and one, since zero is an empty place, and above these bits the token's tag.
pub(crate) const RANK_BITS: u32 = 18;

/// The bits of a mark that its place does not tell.
pub(crate) fn tag(mark: u64) -> u32 {
    // The shift leaves 14 bits.
    ((mark >> 50) & 0x3fff) as u32
}
