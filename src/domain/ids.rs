//! Newtypes for things that must not be mixed.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            #[must_use]
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(std::sync::Arc::from(text.as_ref()))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

name_type! {
    /// A model as the caller writes it: `auto`, `local`, `provider/model`, a local model's name or
    /// an operator's alias.
    ModelAlias
}
name_type! {
    /// A backend's name: `local` for engines on this machine, a pool's or an upstream's
    /// configured name else.
    BackendName
}
name_type! {
    /// The team a key belongs to.
    TeamId
}
name_type! {
    /// The public name of a key. Never the key itself.
    KeyId
}
name_type! {
    /// Whom a caller asks for, as its request says: of the caller's own choice, and empty where it says
    /// nobody.
    UserId
}
name_type! {
    /// A word that a caller puts on a request.
    Tag
}
name_type! {
    /// One exchange's id, as sent in `x-request-id`.
    RequestId
}

/// A count of model tokens.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Tokens(pub u32);

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Money, in millionths of a US dollar.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MicroUsd(pub i64);
