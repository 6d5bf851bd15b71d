//! the trunk every request travels
