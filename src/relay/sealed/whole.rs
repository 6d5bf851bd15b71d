//! Requests and responses in one piece: RFC 9458, for strangers that do not stream.

use std::fmt;

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::cipher::ResponseSecret;
use super::framing::seal_onto;
use super::head::RequestHead;
use super::{Form, ProofSecret, SealFault, Unopened, request};
use crate::contexts::{Open, SenderContext, Tag};
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
    WholeRequestSealer::start(config, aead, rng)?.seal(plain)
}

/// The edge's end of a request in one piece, for who has to know its secret before.
pub struct WholeRequestSealer {
    head: Vec<u8>,
    context: Box<dyn SenderContext>,
    aead: Aead,
    enc: Vec<u8>,
}

impl WholeRequestSealer {
    /// Agrees on a fresh key.
    ///
    /// # Errors
    /// [`SealFault::Key`], as [`RequestSealer`](super::RequestSealer) does.
    pub fn start<R: CryptoRng>(
        config: &KeyConfig,
        aead: Aead,
        rng: &mut R,
    ) -> Result<Self, SealFault> {
        let mut head = Vec::new();
        let (context, enc) = request::start(Form::Whole, config, aead, rng, &mut head)?;
        Ok(Self {
            head,
            context,
            aead,
            enc,
        })
    }

    pub fn proof_secret(&self) -> ProofSecret {
        request::proof_secret(&*self.context)
    }

    /// A sealed request, and what opens the response to it.
    ///
    /// # Errors
    /// [`SealFault::TooLong`]
    pub fn seal(mut self, plain: &[u8]) -> Result<(Vec<u8>, WholeResponseOpener), SealFault> {
        if plain.len() as u64 > REQUEST_BYTES_MAX {
            return Err(SealFault::TooLong);
        }
        let mut out = self.head;
        seal_onto(&mut self.context, b"", plain, &mut out)?;
        let label = Form::Whole.response_label();
        let secret = ResponseSecret::of(&*self.context, label, self.aead, self.enc);
        Ok((out, WholeResponseOpener { secret }))
    }
}

impl fmt::Debug for WholeRequestSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WholeRequestSealer")
    }
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
    let sealer = WholeResponseSealer {
        proof_secret: request::proof_secret(&*context),
        secret: ResponseSecret::of(&*context, label, head.suite.aead, head.enc),
    };
    Ok((plain, sealer))
}

/// The relay's end of a response in one piece.
pub struct WholeResponseSealer {
    proof_secret: ProofSecret,
    secret: ResponseSecret,
}

impl WholeResponseSealer {
    /// Of the request.
    pub fn proof_secret(&self) -> &ProofSecret {
        &self.proof_secret
    }

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

impl fmt::Debug for WholeResponseSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeResponseSealer")
            .field("secret", &self.secret)
            .finish_non_exhaustive()
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
