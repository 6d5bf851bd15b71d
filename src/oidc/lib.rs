//! People, signed in with OpenID Connect: the client's end of the authorization code flow, with any provider.
//!
//! ```text
//! begin:  discovery ─► the address to send a browser to: state, nonce, S256 of the verifier
//! finish: code, verifier ─► token ─► signature (JWKS), issuer, audience, nonce, times ─► claims ─► Identity
//!                                                                       └ userinfo, for what is not in it
//! ```
//! What is spoken: OpenID Connect Core 1.0 and Discovery 1.0, RFC 6749, RFC 7636 (S256 alone), RFC 9207. No
//! implicit or hybrid flow, no refresh tokens, no symmetric signatures. What somebody may do here, and for
//! how long, is others' to say: this room ends with who he is.
//!
//! Signatures and keys are `jsonwebtoken`'s; the checks of the claims are ours, so that time is an argument.
//! `openidconnect`, which has all of the flow, brings more than twenty crates that nothing else here needs,
//! among them `rsa` 0.9, which RUSTSEC-2023-0071 is about; `jsonwebtoken` over the aws-lc that is here brings
//! itself alone.

mod claims;
mod discovery;
mod error;
mod fetch;
mod issuer;
mod keys;
#[cfg(test)]
mod mint;
mod provider;
mod token;

pub use claims::ClaimPath;
pub use issuer::{Issuer, PlaceFault, RedirectUrl};
pub use provider::{ClientSecret, Provider, ProviderRules};
