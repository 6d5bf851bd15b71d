//! model files
