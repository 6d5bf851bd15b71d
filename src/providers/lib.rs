//! remote HTTP transport
