//! What SQLite says of a failure, whatever file it is of.

/// SQLite's primary result codes.
pub(crate) const ERROR: i32 = 1;
/// Another process has the file.
pub(crate) const BUSY: i32 = 5;
/// The file is not as it was written.
pub(crate) const CORRUPT: i32 = 11;
pub(crate) const NOT_A_DATABASE: i32 = 26;

/// The primary code; the upper bits, which tell more, are left out.
pub(crate) fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
