//! Requests and responses in one piece: RFC 9458, for strangers that do not stream.

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::cipher::ResponseSecret;
use super::framing::seal_onto;
use super::head::RequestHead;
use super::{Form, SealFault, Unopened, request};
use crate::contexts::{Open, Tag};
use crate::key_config::KeyConfig;
use crate::limits::{REQUEST_BYTES_MAX, TAG_BYTES};
use crate::secret_key::SecretKey;
use crate::suite::Aead;

/// A sealed request, and what opens the response to it.
///
/// # Errors
/// As [`RequestSealer`](super::RequestSealer) does.
pub fn seal_whole_request<R: CryptoRng>(
    config: &KeyConfig,
    aead: Aead,
    plain: &[u8],
    rng: &mut R,
) -> Result<(Vec<u8>, WholeResponseOpener), SealFault> {
    if plain.len() as u64 > REQUEST_BYTES_MAX {
        return Err(SealFault::TooLong);
    }
    let mut out = Vec::new();
    let (mut context, enc) = request::start(Form::Whole, config, aead, rng, &mut out)?;
    seal_onto(&mut context, b"", plain, &mut out)?;
    let label = Form::Whole.response_label();
    let secret = ResponseSecret::of(&*context, label, aead, enc);
    Ok((out, WholeResponseOpener { secret }))
}

/// A request's plaintext, and what seals the response. `sealed` is what followed the head.
///
/// # Errors
/// Where it does not open.
pub fn open_whole_request(
    head: RequestHead,
    secret_key: &SecretKey,
    sealed: Vec<u8>,
) -> Result<(Zeroizing<Vec<u8>>, WholeResponseSealer), Unopened> {
    if sealed.len() as u64 > REQUEST_BYTES_MAX + TAG_BYTES as u64 {
        return Err(Unopened);
    }
    let mut context = request::receive(Form::Whole, &head, secret_key)?;
    let plain = open(&mut context, sealed)?;
    let label = Form::Whole.response_label();
    let secret = ResponseSecret::of(&*context, label, head.suite.aead, head.enc);
    Ok((plain, WholeResponseSealer { secret }))
}

/// The relay's end of a response in one piece.
#[derive(Debug)]
pub struct WholeResponseSealer {
    secret: ResponseSecret,
}

impl WholeResponseSealer {
    /// # Errors
    /// [`SealFault::TooLong`], beyond what the cipher can.
    pub fn seal<R: CryptoRng>(self, plain: &[u8], rng: &mut R) -> Result<Vec<u8>, SealFault> {
        let mut out = vec![0; self.secret.nonce_bytes()];
        rng.fill_bytes(&mut out);
        let mut cipher = self.secret.cipher(&out);
        seal_onto(&mut cipher, b"", plain, &mut out)?;
        Ok(out)
    }
}

/// The edge's end of a response in one piece.
#[derive(Debug)]
pub struct WholeResponseOpener {
    secret: ResponseSecret,
}

impl WholeResponseOpener {
    /// # Errors
    /// Where it does not open.
    pub fn open(self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (nonce, sealed) = sealed
            .split_at_checked(self.secret.nonce_bytes())
            .ok_or(Unopened)?;
        open(&mut self.secret.cipher(nonce), sealed.to_vec())
    }
}

fn open(cipher: &mut impl Open, sealed: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    let mut held = Zeroizing::new(sealed);
    let bytes = held.len().checked_sub(TAG_BYTES).ok_or(Unopened)?;
    let (data, tag) = held.split_at_mut(bytes);
    let tag = Tag::try_from(&*tag).map_err(|_| Unopened)?;
    cipher.open(b"", data, &tag)?;
    held.truncate(bytes);
    Ok(held)
}
