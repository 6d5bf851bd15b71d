//! A chunked request, sealed at the edge and opened at the relay.

use std::fmt;

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::cipher::ResponseSecret;
use super::framing::{ChunkOpener, ChunkSealer};
use super::head::{EncDigest, RequestHead};
use super::response::{ResponseOpener, ResponseSealer};
use super::{Form, SealFault, Unopened};
use crate::contexts::{self, Export, Open, ReceiverContext, Seal, SenderContext, Tag};
use crate::key_config::KeyConfig;
use crate::limits::REQUEST_BYTES_MAX;
use crate::secret_key::SecretKey;
use crate::suite::{Aead, Suite};

/// What proofs are made over. It is of one request alone.
pub(crate) const PROOF_LABEL: &[u8] = b"relay/1 edge proof";

/// A secret that both ends of one request share, to prove things with.
pub type ProofSecret = Zeroizing<[u8; 32]>;

pub(super) fn proof_secret(context: &(impl Export + ?Sized)) -> ProofSecret {
    let mut secret = ProofSecret::default();
    context.export(PROOF_LABEL, &mut *secret);
    secret
}

impl Seal for Box<dyn SenderContext> {
    fn seal(&mut self, aad: &[u8], data: &mut [u8]) -> Result<Tag, SealFault> {
        (**self).seal(aad, data)
    }
}

impl Open for Box<dyn ReceiverContext> {
    fn open(&mut self, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), Unopened> {
        (**self).open(aad, data, tag)
    }
}

/// The edge's end.
pub struct RequestSealer {
    chunks: ChunkSealer<Box<dyn SenderContext>>,
    aead: Aead,
    enc: Vec<u8>,
}

impl RequestSealer {
    /// Agrees on a fresh key and writes the head.
    ///
    /// # Errors
    /// [`SealFault::Key`] where `config` does not offer `aead`, or nothing can be sealed to its key.
    pub fn start<R: CryptoRng>(
        config: &KeyConfig,
        aead: Aead,
        rng: &mut R,
        out: &mut Vec<u8>,
    ) -> Result<Self, SealFault> {
        let (context, enc) = start(Form::Chunked, config, aead, rng, out)?;
        Ok(Self {
            chunks: ChunkSealer::new(context, REQUEST_BYTES_MAX),
            aead,
            enc,
        })
    }

    pub fn proof_secret(&self) -> ProofSecret {
        proof_secret(&**self.chunks.cipher())
    }

    pub fn digest(&self) -> EncDigest {
        EncDigest::of(&self.enc)
    }

    /// Seals `plain` at once, in as few chunks as it fits into. Nothing of it makes no chunk.
    ///
    /// # Errors
    /// [`SealFault::TooLong`]
    pub fn push(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealFault> {
        self.chunks.push(plain, out)
    }

    /// The rest, and the end. What comes back opens the response.
    ///
    /// # Errors
    /// [`SealFault::TooLong`]
    pub fn finish(mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<ResponseOpener, SealFault> {
        self.chunks.finish(plain, out)?;
        let label = Form::Chunked.response_label();
        let secret = ResponseSecret::of(&**self.chunks.cipher(), label, self.aead, self.enc);
        Ok(ResponseOpener::new(secret))
    }
}

impl fmt::Debug for RequestSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSealer")
            .field("digest", &self.digest())
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// Writes a request's head, in either form.
pub(super) fn start<R: CryptoRng>(
    form: Form,
    config: &KeyConfig,
    aead: Aead,
    rng: &mut R,
    out: &mut Vec<u8>,
) -> Result<(Box<dyn SenderContext>, Vec<u8>), SealFault> {
    if !config.aeads().contains(&aead) {
        return Err(SealFault::Key);
    }
    let suite = Suite {
        kem: config.kem(),
        aead,
    };
    let info = RequestHead::info(form, config.id(), suite);
    let sending = contexts::send(suite, config.public_key(), &info, rng)?;
    out.extend_from_slice(&RequestHead::ids(config.id(), suite));
    out.extend_from_slice(&sending.enc);
    Ok((sending.context, sending.enc))
}

/// The relay's end.
pub struct RequestOpener {
    chunks: ChunkOpener<Box<dyn ReceiverContext>>,
    proof_secret: ProofSecret,
    response: ResponseSecret,
}

impl RequestOpener {
    /// With the secret of the key that `head` names.
    ///
    /// # Errors
    /// Where no key comes of it.
    pub fn start(head: RequestHead, secret_key: &SecretKey) -> Result<Self, Unopened> {
        let context = receive(Form::Chunked, &head, secret_key)?;
        let label = Form::Chunked.response_label();
        Ok(Self {
            proof_secret: proof_secret(&*context),
            response: ResponseSecret::of(&*context, label, head.suite.aead, head.enc),
            chunks: ChunkOpener::new(context, REQUEST_BYTES_MAX),
        })
    }

    pub fn proof_secret(&self) -> &ProofSecret {
        &self.proof_secret
    }

    /// The next chunk of plaintext, never an empty one; `None` when `input` is used up. It is no
    /// request yet: only with [`finish`](Self::finish) is it known to be all of it.
    ///
    /// # Errors
    /// Once and for all.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, Unopened> {
        self.chunks.next(input)
    }

    /// The input has ended: the last plaintext, and what seals the response.
    ///
    /// # Errors
    /// Where the request is not whole.
    pub fn finish(self) -> Result<(Zeroizing<Vec<u8>>, ResponseSealer), Unopened> {
        let (_, last) = self.chunks.finish()?;
        Ok((last, ResponseSealer::new(self.response)))
    }
}

#[cfg(test)]
impl RequestOpener {
    /// Both ends export the same, so who opens a request can open the response to it.
    pub(crate) fn into_response_opener(self) -> ResponseOpener {
        ResponseOpener::new(self.response)
    }
}

pub(super) fn receive(
    form: Form,
    head: &RequestHead,
    secret_key: &SecretKey,
) -> Result<Box<dyn ReceiverContext>, Unopened> {
    if secret_key.kem() != head.suite.kem {
        return Err(Unopened);
    }
    let info = RequestHead::info(form, head.key_id, head.suite);
    contexts::receive(head.suite.aead, secret_key, &head.enc, &info)
}

impl fmt::Debug for RequestOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestOpener")
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}
