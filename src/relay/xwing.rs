//! MLKEM768-X25519, also called X-Wing (draft-connolly-cfrg-xwing-kem), as HPKE takes it
//! (draft-ietf-hpke-pq, 0x647a).
//!
//! Its halves are computed by aws-lc, which is the TLS library already and agrees on a key five times
//! as fast as what `hpke` brings: a relay does little else for a short request. What is expanded from
//! a secret is kept and not expanded again for each request. `hpke`'s own is what tests compare with.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{agreement, digest, kem};
use hpke::hybrid_array::Array;
use hpke::hybrid_array::typenum::{Prod, Sum, U3, U32, U64, U1024};
use hpke::kem::SharedSecret;
use hpke::{Deserializable, HpkeError, Serializable};
use ml_kem::{KeyExport as _, MlKem768};
use rand::CryptoRng;
use shake::{ExtendableOutput as _, Shake256, Update as _, XofReader as _};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize as _, Zeroizing};

/// Of ML-KEM-768's public key (FIPS 203, table 3); X25519's follows.
const ML_KEM_KEY_BYTES: usize = 1_184;
/// Of ML-KEM-768's ciphertext; X25519's ephemeral key follows.
const ML_KEM_CIPHERTEXT_BYTES: usize = 1_088;

type PublicKeyBytes = Sum<U1024, Prod<U64, U3>>;
type EncappedKeyBytes = Sum<Sum<U1024, U64>, U32>;

#[derive(Debug)]
pub struct XWing;

#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Array<u8, PublicKeyBytes>);

#[derive(Clone)]
pub struct EncappedKey(Array<u8, EncappedKeyBytes>);

/// 32 bytes, and what they are expanded to. aws-lc wipes its own.
#[derive(Clone)]
pub struct PrivateKey {
    seed: Zeroizing<[u8; 32]>,
    expanded: Arc<Expanded>,
}

struct Expanded {
    ml_kem: kem::DecapsulationKey,
    x25519: agreement::PrivateKey,
    public_key: PublicKey,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

impl fmt::Debug for EncappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncappedKey")
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl Serializable for PublicKey {
    type OutputSize = PublicKeyBytes;

    fn write_exact(&self, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0);
    }
}

impl Deserializable for PublicKey {
    /// Any bytes of the right length; agreeing with what is no key fails.
    fn from_bytes(encoded: &[u8]) -> Result<Self, HpkeError> {
        let bytes = Array::try_from(encoded).map_err(|_| HpkeError::ValidationError)?;
        Ok(Self(bytes))
    }
}

impl Serializable for EncappedKey {
    type OutputSize = EncappedKeyBytes;

    fn write_exact(&self, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0);
    }
}

impl Deserializable for EncappedKey {
    fn from_bytes(encoded: &[u8]) -> Result<Self, HpkeError> {
        let bytes = Array::try_from(encoded).map_err(|_| HpkeError::ValidationError)?;
        Ok(Self(bytes))
    }
}

impl Serializable for PrivateKey {
    type OutputSize = U32;

    fn write_exact(&self, buf: &mut [u8]) {
        buf.copy_from_slice(&self.seed[..]);
    }
}

impl Deserializable for PrivateKey {
    fn from_bytes(encoded: &[u8]) -> Result<Self, HpkeError> {
        let seed: [u8; 32] = encoded.try_into().map_err(|_| HpkeError::ValidationError)?;
        let seed = Zeroizing::new(seed);
        let expanded = Expanded::from_seed(&seed).ok_or(HpkeError::ValidationError)?;
        Ok(Self {
            seed,
            expanded: Arc::new(expanded),
        })
    }
}

impl ConstantTimeEq for PrivateKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.seed.ct_eq(&*other.seed)
    }
}

impl Expanded {
    /// Section 5.2 of the draft. `None` where aws-lc cannot make a key, which is for want of memory.
    fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 96]);
        let mut shake = Shake256::default();
        shake.update(seed);
        shake.finalize_xof().read(&mut bytes[..]);
        let (ml_kem_seed, x25519_seed) = bytes.split_at(64);

        let mut ml_kem_seed = ml_kem::Seed::try_from(ml_kem_seed).expect("it is 64 bytes");
        let own = ml_kem::DecapsulationKey::<MlKem768>::from_seed(ml_kem_seed);
        ml_kem_seed.zeroize();
        let x25519 =
            agreement::PrivateKey::from_private_key(&agreement::X25519, x25519_seed).ok()?;
        let mut public_key = Array::default();
        public_key[..ML_KEM_KEY_BYTES].copy_from_slice(&own.encapsulation_key().to_bytes());
        let half = x25519.compute_public_key().ok()?;
        public_key[ML_KEM_KEY_BYTES..].copy_from_slice(half.as_ref());
        Some(Self {
            ml_kem: handed_over(&own)?,
            x25519,
            public_key: PublicKey(public_key),
        })
    }
}

/// The same key for aws-lc, which takes no seeds.
fn handed_over(key: &ml_kem::DecapsulationKey<MlKem768>) -> Option<kem::DecapsulationKey> {
    #[expect(
        deprecated,
        reason = "no other form is taken; it is made here and never read"
    )]
    let mut bytes = ml_kem::ExpandedKeyEncoding::to_expanded_bytes(key);
    let handed = kem::DecapsulationKey::new(&kem::ML_KEM_768, &bytes).ok();
    bytes.zeroize();
    handed
}

/// Section 5.3 of the draft.
fn combined(
    ml_kem: &[u8],
    x25519: &[u8],
    ephemeral: &[u8],
    public_key: &[u8],
) -> SharedSecret<XWing> {
    const LABEL: &[u8] = br"\.//^\";
    let mut hash = digest::Context::new(&digest::SHA3_256);
    for part in [ml_kem, x25519, ephemeral, public_key, LABEL] {
        hash.update(part);
    }
    let mut secret = SharedSecret::default();
    secret.0.copy_from_slice(hash.finish().as_ref());
    secret
}

/// X25519. None where `theirs` is a point that yields no secret (RFC 7748, section 6.1).
fn agreed(ours: &agreement::PrivateKey, theirs: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let theirs = agreement::UnparsedPublicKey::new(&agreement::X25519, theirs);
    agreement::agree(ours, theirs, (), |secret| {
        <[u8; 32]>::try_from(secret)
            .map(Zeroizing::new)
            .map_err(|_| ())
    })
    .ok()
}

impl hpke::Kem for XWing {
    type PublicKey = PublicKey;
    type PrivateKey = PrivateKey;
    type EncappedKey = EncappedKey;
    type NSecret = U32;

    const KEM_ID: u16 = 0x647a;

    fn sk_to_pk(sk: &PrivateKey) -> PublicKey {
        sk.expanded.public_key.clone()
    }

    fn derive_keypair(ikm: &[u8]) -> (PrivateKey, PublicKey) {
        let (theirs, _) = hpke::kem::XWing::derive_keypair(ikm);
        let mut seed = theirs.to_bytes();
        let key = PrivateKey::from_bytes(&seed).expect("any 32 bytes are a key");
        seed.zeroize();
        let public_key = Self::sk_to_pk(&key);
        (key, public_key)
    }

    fn decap(
        sk_recip: &PrivateKey,
        pk_sender_id: Option<&PublicKey>,
        encapped_key: &EncappedKey,
    ) -> Result<SharedSecret<Self>, HpkeError> {
        if pk_sender_id.is_some() {
            return Err(HpkeError::DecapError);
        }
        let (ciphertext, ephemeral) = encapped_key.0.split_at(ML_KEM_CIPHERTEXT_BYTES);
        let key = &sk_recip.expanded;
        let from_ml_kem = key.ml_kem.decapsulate(kem::Ciphertext::from(ciphertext));
        let from_ml_kem = from_ml_kem.map_err(|_| HpkeError::DecapError)?;
        let from_x25519 = agreed(&key.x25519, ephemeral).ok_or(HpkeError::DecapError)?;
        let public_key = &key.public_key.0[ML_KEM_KEY_BYTES..];
        Ok(combined(
            from_ml_kem.as_ref(),
            &from_x25519[..],
            ephemeral,
            public_key,
        ))
    }

    /// X25519's half is drawn from `csprng`, ML-KEM's by aws-lc from its own generator.
    fn encap_with_rng(
        pk_recip: &PublicKey,
        sender_id_keypair: Option<(&PrivateKey, &PublicKey)>,
        csprng: &mut impl CryptoRng,
    ) -> Result<(SharedSecret<Self>, EncappedKey), HpkeError> {
        if sender_id_keypair.is_some() {
            return Err(HpkeError::EncapError);
        }
        let (ml_kem, x25519) = pk_recip.0.split_at(ML_KEM_KEY_BYTES);
        let ml_kem = kem::EncapsulationKey::new(&kem::ML_KEM_768, ml_kem);
        let ml_kem = ml_kem.map_err(|_| HpkeError::EncapError)?;
        let (ciphertext, from_ml_kem) = ml_kem.encapsulate().map_err(|_| HpkeError::EncapError)?;

        let mut seed = Zeroizing::new([0; 32]);
        csprng.fill_bytes(&mut seed[..]);
        let ours = agreement::PrivateKey::from_private_key(&agreement::X25519, &seed[..]);
        let ours = ours.map_err(|_| HpkeError::EncapError)?;
        let ephemeral = ours
            .compute_public_key()
            .map_err(|_| HpkeError::EncapError)?;
        let from_x25519 = agreed(&ours, x25519).ok_or(HpkeError::EncapError)?;

        let mut enc = Array::default();
        enc[..ML_KEM_CIPHERTEXT_BYTES].copy_from_slice(ciphertext.as_ref());
        enc[ML_KEM_CIPHERTEXT_BYTES..].copy_from_slice(ephemeral.as_ref());
        let secret = combined(
            from_ml_kem.as_ref(),
            &from_x25519[..],
            ephemeral.as_ref(),
            x25519,
        );
        Ok((secret, EncappedKey(enc)))
    }
}
