//! From a parcel to the bytes that are sent.

use std::fmt;

use domain::Parcel;
use rand::CryptoRng;
use rand::RngExt as _;
use zeroize::Zeroizing;

use super::keys::Usable;
use super::sparing::Proving;
use super::{CARRIED_FIELDS, ClientRules};
use crate::bhttp::{Fields, InvalidMessage, RequestLine, write_request};
use crate::limits::REQUEST_BYTES_MAX;
use crate::proof::{EDGE_FIELD, EdgeSecret, Unproven};
use crate::sealed::{EncDigest, RequestSealer, ResponseOpener, SealFault};
use crate::session::{SESSION_FIELD, SESSION_YES, Session, SessionId};
use crate::shape::SHAPE_FIELD;
use crate::slim::{FRAMES_FIELD, SLIM_FRAMES};
use crate::time::UnixTime;

/// Of a request within the ciphertext. It is no host's, so whatever is misled goes nowhere.
pub(super) const AUTHORITY: &str = "relay.invalid";

/// Beside a body, what a request takes at most before it is padded: its lines, with their lengths.
const HEAD_BYTES: usize = 1_024;

/// Who seals, to whom, and when.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) edge_id: &'a str,
    pub(super) key_id: &'a str,
    pub(super) secret: &'a EdgeSecret,
    pub(super) proving: &'a Proving,
    pub(super) relay_id: &'a str,
    pub(super) idempotency_key: &'a str,
    pub(super) date: UnixTime,
}

/// A request as it is sent.
pub(super) struct Sealed {
    pub(super) bytes: Vec<u8>,
    pub(super) opener: ResponseOpener,
    pub(super) digest: EncDigest,
    pub(super) key_id: u8,
    pub(super) agreed: Agreed,
}

/// What of sessions a request has to do with.
#[derive(Debug)]
pub(super) enum Agreed {
    Nothing,
    /// It was asked for.
    Asked(Session),
    /// It was proven by it.
    Used(SessionId),
}

/// Why a request cannot be sent sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsealed {
    /// It is longer than the relay takes, or than may be sealed.
    #[error("request is longer than its relay takes")]
    TooLong,
    #[error("request has a head that HTTP has not")]
    Head(#[source] InvalidMessage),
    #[error("relay's key cannot be sealed to")]
    Key,
    #[error(transparent)]
    Unproven(#[from] Unproven),
}

impl From<SealFault> for Unsealed {
    fn from(fault: SealFault) -> Self {
        match fault {
            SealFault::Key => Self::Key,
            SealFault::TooLong | SealFault::Chunk => Self::TooLong,
        }
    }
}

impl From<InvalidMessage> for Unsealed {
    fn from(invalid: InvalidMessage) -> Self {
        match invalid {
            InvalidMessage::TooLarge => Self::TooLong,
            InvalidMessage::Framing
            | InvalidMessage::Line
            | InvalidMessage::Status
            | InvalidMessage::Field
            | InvalidMessage::CutShort
            | InvalidMessage::Padding => Self::Head(invalid),
        }
    }
}

/// Writes, pads and seals. Each call makes a key of its own.
pub(super) fn seal<R: CryptoRng>(
    parcel: &Parcel,
    usable: &Usable,
    rules: &ClientRules,
    terms: &Terms<'_>,
    rng: &mut R,
) -> Result<Sealed, Unsealed> {
    let mut bytes = Vec::new();
    let sealer = RequestSealer::start(&usable.config, usable.aead, rng, &mut bytes)?;
    let proof_secret = sealer.proof_secret();
    let digest = sealer.digest();
    let Terms {
        edge_id,
        key_id,
        relay_id,
        ..
    } = terms;
    let (proof, agreed) = match terms.proving {
        Proving::By(session) => (
            EdgeSecret::prove_by(session, edge_id, key_id, relay_id, &proof_secret)?,
            Agreed::Used(session.id()),
        ),
        Proving::Signed { asks } => {
            let proof = terms
                .secret
                .prove(edge_id, key_id, relay_id, &proof_secret)?;
            let session = asks.then(|| Session::agreed(edge_id, relay_id, &proof_secret, digest));
            (
                proof,
                session.flatten().map_or(Agreed::Nothing, Agreed::Asked),
            )
        }
    };
    let line = RequestLine::new("POST", "https", AUTHORITY, &parcel.path)?;
    let mut header = header(parcel, rules, terms, proof)?;
    if let Agreed::Asked(_) = agreed {
        header.push(SESSION_FIELD, SESSION_YES)?;
    }

    let bytes_max = usable.request_bytes_max.min(REQUEST_BYTES_MAX);
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let room = parcel.body.len() + parcel.body.len() / 8 + HEAD_BYTES;
    let mut plain = Zeroizing::new(Vec::with_capacity(room));
    let writer = write_request(&line, &header, &mut plain);
    writer.push(&parcel.body, &mut plain);
    writer.finish(&Fields::default(), &mut plain);
    if plain.len() > bytes_max {
        return Err(Unsealed::TooLong);
    }
    let padded = rules.request_pad.padded(plain.len(), bytes_max);
    plain.resize(padded, 0);

    bytes.reserve(plain.len() + plain.len() / 512 + 64);
    let opener = sealer.finish(&plain, &mut bytes)?;
    Ok(Sealed {
        bytes,
        opener,
        digest,
        key_id: usable.config.id(),
        agreed,
    })
}

fn header(
    parcel: &Parcel,
    rules: &ClientRules,
    terms: &Terms<'_>,
    proof: String,
) -> Result<Fields, InvalidMessage> {
    let mut header = Fields::default();
    for (name, value) in &parcel.headers {
        if CARRIED_FIELDS.contains(&name.as_str()) {
            header.push(name, value.as_slice())?;
        }
    }
    header.push("date", terms.date.to_http_date())?;
    header.push("idempotency-key", terms.idempotency_key)?;
    header.push(EDGE_FIELD, proof)?;
    header.push(SHAPE_FIELD, rules.shape.to_string())?;
    if rules.takes_slim && parcel.is_streamed {
        header.push(FRAMES_FIELD, SLIM_FRAMES)?;
    }
    Ok(header)
}

/// A UUID of version 7 (RFC 9562, section 5.7): its time in milliseconds, and 74 random bits.
pub(super) fn idempotency_key<R: CryptoRng>(now: UnixTime, rng: &mut R) -> String {
    let random: u128 = rng.random();
    let ms = u128::from(now.0.saturating_mul(1_000)) << 80;
    let number = ms | (random & !(u128::MAX << 80));
    let number = (number & !(0xf << 76)) | (0x7 << 76);
    let number = (number & !(0x3 << 62)) | (0x2 << 62);
    let digits = format!("{number:032x}");
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({:?}, {} bytes)", self.digest, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::rng;

    #[test]
    fn a_key_of_idempotence_is_a_uuid_of_its_time() {
        let key = idempotency_key(UnixTime(1_800_000_000), &mut rng(1));
        let groups: Vec<usize> = key.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert!(key.starts_with("01a3185c-5000-7"), "{key}");
        assert!(b"89ab".contains(&key.as_bytes()[19]), "{key}");
        assert_ne!(key, idempotency_key(UnixTime(1_800_000_000), &mut rng(2)));
    }
}
