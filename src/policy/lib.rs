//! decisions without I/O
