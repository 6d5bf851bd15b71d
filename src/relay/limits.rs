//! Every bound of the sealed path, and what happens when it is reached.

/// Plaintext of one chunk, in bytes, as senders must be able to receive by
/// draft-ietf-ohai-chunked-ohttp-08, section 3. We send no longer one, and refuse a longer one.
pub const CHUNK_BYTES_MAX: usize = 16_384;

/// What AES-GCM adds to a chunk, in bytes.
pub const TAG_BYTES: usize = 16;

/// A chunk as it is sent, without its length. A longer length is refused before anything is kept.
pub const SEALED_CHUNK_BYTES_MAX: usize = CHUNK_BYTES_MAX + TAG_BYTES;

/// Chunks of one request or response, the final one among them. With the bounds on bytes this keeps
/// an attacker's advantage against AES-GCM below 2^-50 by section 7.3 of the draft. One more cannot
/// be sealed, and is refused by who opens.
pub const CHUNKS_MAX: u64 = 1 << 20;

/// Plaintext of one request, padding included. One byte more is refused.
pub const REQUEST_BYTES_MAX: u64 = 32 << 20;

/// Plaintext of one response, padding included. One byte more is refused.
pub const RESPONSE_BYTES_MAX: u64 = 1 << 30;

/// What a gateway reads of one sealed request before it answers 413: the plaintext in chunks of one
/// byte would be far more, but no honest sender cuts below a kilobyte on average.
pub const SEALED_REQUEST_BYTES_MAX: u64 = REQUEST_BYTES_MAX + REQUEST_BYTES_MAX / 16;

/// A list of key configurations, in bytes, and how many there may be. A longer one is refused.
pub const KEY_LIST_BYTES_MAX: usize = 64 << 10;
pub const KEY_CONFIGS_MAX: usize = 64;

/// Method, scheme, authority and path of an inner request, together, in bytes.
pub const CONTROL_BYTES_MAX: usize = 8 << 10;

/// Names and values of one header or trailer section, with 8 bytes for each line's lengths. What is
/// beyond is refused as soon as its length is read.
pub const SECTION_BYTES_MAX: usize = 16 << 10;

/// Lines of one header or trailer section.
pub const FIELDS_MAX: usize = 128;

/// Informational responses before one final status. At 20 a second, as the shape `constant` sends
/// them, this is nearly an hour.
pub const INFORMATIONAL_MAX: u32 = 1 << 16;
