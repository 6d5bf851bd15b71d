//! HPKE (RFC 9180) in base mode, for whichever suite: contexts behind one pair of traits.

use hpke::aead::{AeadCtxR, AeadCtxS, AeadTag, AesGcm128, AesGcm256};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use rand::CryptoRng;

use crate::sealed::{SealFault, Unopened};
use crate::secret_key::SecretKey;
use crate::suite::{Aead, Kem, Suite};
use crate::xwing::XWing;

/// A tag of AES-GCM.
pub(crate) type Tag = [u8; crate::limits::TAG_BYTES];

/// Opens what was sealed under one key, in order.
pub(crate) trait Open {
    /// In place. After an error the order is lost, and nothing more can be opened.
    fn open(&mut self, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), Unopened>;
}

/// Seals under one key, in order.
pub(crate) trait Seal {
    /// In place.
    fn seal(&mut self, aad: &[u8], data: &mut [u8]) -> Result<Tag, SealFault>;
}

/// RFC 9180, section 5.3. Both sides get the same bytes.
pub(crate) trait Export {
    fn export(&self, label: &[u8], out: &mut [u8]);
}

pub(crate) trait SenderContext: Seal + Export + Send + Sync {}
impl<T: Seal + Export + Send + Sync> SenderContext for T {}

pub(crate) trait ReceiverContext: Open + Export + Send + Sync {}
impl<T: Open + Export + Send + Sync> ReceiverContext for T {}

impl<A: hpke::aead::Aead, K: hpke::Kem> Seal for AeadCtxS<A, HkdfSha256, K> {
    fn seal(&mut self, aad: &[u8], data: &mut [u8]) -> Result<Tag, SealFault> {
        let tag = self
            .seal_inout_detached(InOutBuf::from(data), aad)
            .map_err(|_| SealFault::TooLong)?;
        let mut bytes = Tag::default();
        tag.write_exact(&mut bytes);
        Ok(bytes)
    }
}

impl<A: hpke::aead::Aead, K: hpke::Kem> Open for AeadCtxR<A, HkdfSha256, K> {
    fn open(&mut self, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), Unopened> {
        let tag = AeadTag::<A>::from_bytes(tag).map_err(|_| Unopened)?;
        self.open_inout_detached(InOutBuf::from(data), aad, &tag)
            .map_err(|_| Unopened)
    }
}

/// Far below the 2^16 bytes that HPKE can export.
const EXPORTABLE: &str = "what is exported is a few dozen bytes";

impl<A: hpke::aead::Aead, K: hpke::Kem> Export for AeadCtxS<A, HkdfSha256, K> {
    fn export(&self, label: &[u8], out: &mut [u8]) {
        AeadCtxS::export(self, label, out).expect(EXPORTABLE);
    }
}

impl<A: hpke::aead::Aead, K: hpke::Kem> Export for AeadCtxR<A, HkdfSha256, K> {
    fn export(&self, label: &[u8], out: &mut [u8]) {
        AeadCtxR::export(self, label, out).expect(EXPORTABLE);
    }
}

/// What a sender has after the agreement.
pub(crate) struct Sending {
    pub(crate) context: Box<dyn SenderContext>,
    /// For the receiver to come to the same key.
    pub(crate) enc: Vec<u8>,
}

/// Agrees on a fresh key with whoever has the secret of `public_key`.
///
/// # Errors
/// [`SealFault::Key`] where `public_key` is none of `suite`'s, or a point that yields no secret.
pub(crate) fn send<R: CryptoRng>(
    suite: Suite,
    public_key: &[u8],
    info: &[u8],
    rng: &mut R,
) -> Result<Sending, SealFault> {
    match (suite.kem, suite.aead) {
        (Kem::X25519, Aead::Aes256Gcm) => {
            send_as::<AesGcm256, X25519HkdfSha256, _>(public_key, info, rng)
        }
        (Kem::X25519, Aead::Aes128Gcm) => {
            send_as::<AesGcm128, X25519HkdfSha256, _>(public_key, info, rng)
        }
        (Kem::XWing, Aead::Aes256Gcm) => send_as::<AesGcm256, XWing, _>(public_key, info, rng),
        (Kem::XWing, Aead::Aes128Gcm) => send_as::<AesGcm128, XWing, _>(public_key, info, rng),
    }
}

fn send_as<A, K, R>(public_key: &[u8], info: &[u8], rng: &mut R) -> Result<Sending, SealFault>
where
    A: hpke::aead::Aead + 'static,
    K: hpke::Kem + 'static,
    AeadCtxS<A, HkdfSha256, K>: Send + Sync,
    R: CryptoRng,
{
    let public_key = K::PublicKey::from_bytes(public_key).map_err(|_| SealFault::Key)?;
    let (enc, context) =
        hpke::setup_sender_with_rng::<A, HkdfSha256, K>(&OpModeS::Base, &public_key, info, rng)
            .map_err(|_| SealFault::Key)?;
    Ok(Sending {
        context: Box::new(context),
        enc: enc.to_bytes().to_vec(),
    })
}

/// Comes to the sender's key. One that came to another opens nothing.
pub(crate) fn receive(
    aead: Aead,
    secret_key: &SecretKey,
    enc: &[u8],
    info: &[u8],
) -> Result<Box<dyn ReceiverContext>, Unopened> {
    match (secret_key, aead) {
        (SecretKey::X25519(key), Aead::Aes256Gcm) => {
            receive_as::<AesGcm256, X25519HkdfSha256>(key, enc, info)
        }
        (SecretKey::X25519(key), Aead::Aes128Gcm) => {
            receive_as::<AesGcm128, X25519HkdfSha256>(key, enc, info)
        }
        (SecretKey::XWing(key), Aead::Aes256Gcm) => receive_as::<AesGcm256, XWing>(key, enc, info),
        (SecretKey::XWing(key), Aead::Aes128Gcm) => receive_as::<AesGcm128, XWing>(key, enc, info),
    }
}

fn receive_as<A, K>(
    secret_key: &K::PrivateKey,
    enc: &[u8],
    info: &[u8],
) -> Result<Box<dyn ReceiverContext>, Unopened>
where
    A: hpke::aead::Aead + 'static,
    K: hpke::Kem + 'static,
    AeadCtxR<A, HkdfSha256, K>: Send + Sync,
{
    let enc = K::EncappedKey::from_bytes(enc).map_err(|_| Unopened)?;
    let context = hpke::setup_receiver::<A, HkdfSha256, K>(&OpModeR::Base, secret_key, &enc, info)
        .map_err(|_| Unopened)?;
    Ok(Box::new(context))
}
