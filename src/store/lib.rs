//! the storage traits, embedded
