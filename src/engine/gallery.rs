//! Images as the model's decoder takes them: vectors in the place of tokens.
//!
//! To the scheduler a prompt is a list of tokens, by which it shares, saves and finds what was computed.
//! So each vector of an image gets a token of its own, below zero, that never stands for anything else
//! as long as the engine runs: the same image has the same tokens, and two images have none in common.
//! The tokens are handed out in order, so nothing hangs on a digest of 31 bits.
//!
//! The vectors live while a request holds them, and then for as long as there is room among those
//! kept for the next turn of the chat.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use domain::BackendError;

use crate::decoder::Token;
use crate::pictures::{ImageDigest, Picture};

/// Bytes of all images' vectors together. An image that would come to more is refused as overloaded:
/// 30 images of LLaVA's 576 vectors of 4,096 numbers would.
pub(crate) const GALLERY_BYTES_MAX: u64 = 256 << 20;
/// Bytes of those that no request holds any more.
pub(crate) const KEPT_BYTES_MAX: u64 = 64 << 20;
/// What a caller is told to wait when there is no room.
const FULL_WAIT: Duration = Duration::from_secs(2);

/// Turns pictures into vectors. One picture at a time is looked at.
pub(crate) trait Eye: Send + Sync {
    /// What the decoder is to read in the place of `picture`; at most `tokens_max` tokens.
    ///
    /// # Errors
    /// See [`Blind`].
    fn look(&self, picture: &Picture, tokens_max: u32) -> Result<Vec<Stretch>, Blind>;
}

/// A part of what stands for an image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stretch {
    /// Tokens of the vocabulary, around or between the vectors.
    Tokens(Vec<Token>),
    /// `f32[count, width]`, row-major.
    Vectors(Vec<f32>),
}

/// Why an image was not turned into vectors.
#[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blind {
    /// It comes to so many tokens.
    TooLong(u32),
    /// The projector did not take it.
    Refused,
    /// The projector failed.
    Failed,
}

/// An image, ready to be decoded.
pub(crate) struct Seen {
    /// What stands for it in a prompt: its vectors' tokens, and tokens of the vocabulary between them.
    pub tokens: Vec<Token>,
    first: u32,
    /// By number, the vectors of each stretch of them.
    stretches: Vec<Range<u32>>,
    /// `f32[vectors, width]`, row-major.
    vectors: Vec<f32>,
    bytes_all: Arc<AtomicU64>,
}

impl Seen {
    fn bytes(&self) -> u64 {
        size_of_val(self.vectors.as_slice()) as u64
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.bytes_all.fetch_sub(self.bytes(), Ordering::SeqCst);
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seen({} tokens)", self.tokens.len())
    }
}

/// All images that are seen.
#[derive(Debug)]
pub(crate) struct Gallery {
    /// Numbers of a vector.
    width: usize,
    /// Whether a vector looks at those behind it too.
    looks_ahead: bool,
    bytes_max: u64,
    kept_bytes_max: u64,
    bytes_all: Arc<AtomicU64>,
    walls: Mutex<Walls>,
}

#[derive(Debug, Default)]
struct Walls {
    /// The number of the next vector.
    next: u32,
    /// By the number of their first vector.
    by_vector: BTreeMap<u32, Weak<Seen>>,
    by_digest: HashMap<ImageDigest, Weak<Seen>>,
    /// The longest unused first.
    kept: VecDeque<Arc<Seen>>,
}

impl Gallery {
    /// `looks_ahead`: the vectors of a stretch are to be computed at one go, since each looks at all.
    pub(crate) fn new(width: usize, looks_ahead: bool) -> Self {
        Self {
            looks_ahead,
            ..Self::with_bounds(width, GALLERY_BYTES_MAX, KEPT_BYTES_MAX)
        }
    }

    fn with_bounds(width: usize, bytes_max: u64, kept_bytes_max: u64) -> Self {
        Self {
            width,
            looks_ahead: false,
            bytes_max,
            kept_bytes_max,
            bytes_all: Arc::default(),
            walls: Mutex::default(),
        }
    }

    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The image of that digest, if it was seen and is still here.
    pub(crate) fn find(&self, digest: &ImageDigest) -> Option<Arc<Seen>> {
        let mut walls = self.walls();
        let seen = walls.by_digest.get(digest)?.upgrade()?;
        walls.keep(Arc::clone(&seen), self.kept_bytes_max);
        Some(seen)
    }

    /// Takes an image in.
    ///
    /// # Errors
    /// There is no room for it, or no token is left.
    pub(crate) fn add(
        &self,
        digest: ImageDigest,
        stretches: Vec<Stretch>,
    ) -> Result<Arc<Seen>, BackendError> {
        let mut walls = self.walls();
        let first = walls.next;
        let (mut tokens, mut vectors) = (Vec::new(), Vec::new());
        let mut numbers = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Tokens(more) => tokens.extend(more),
                Stretch::Vectors(more) => {
                    let begin = walls.next;
                    for _ in more.chunks_exact(self.width) {
                        let token = token_of(walls.next).ok_or(NO_TOKEN_LEFT)?;
                        tokens.push(token);
                        walls.next += 1;
                    }
                    vectors.extend(more);
                    numbers.push(begin..walls.next);
                }
            }
        }
        let bytes = size_of_val(vectors.as_slice()) as u64;
        while self.bytes_all.load(Ordering::SeqCst) + bytes > self.bytes_max {
            if walls.kept.pop_front().is_none() {
                return Err(BackendError::Overloaded {
                    retry_after: FULL_WAIT,
                });
            }
        }
        self.bytes_all.fetch_add(bytes, Ordering::SeqCst);
        let seen = Arc::new(Seen {
            tokens,
            first,
            stretches: numbers,
            vectors,
            bytes_all: Arc::clone(&self.bytes_all),
        });
        walls.forget_gone();
        walls.by_vector.insert(first, Arc::downgrade(&seen));
        walls.by_digest.insert(digest, Arc::downgrade(&seen));
        walls.keep(Arc::clone(&seen), self.kept_bytes_max);
        Ok(seen)
    }

    /// Copies the vector that `token` stands for. False where it stands for none, or for one of an image
    /// that nobody holds any more.
    pub(crate) fn copy_vector(&self, token: Token, to: &mut [f32]) -> bool {
        let Some((number, seen)) = self.of(token) else {
            return false;
        };
        let from = (number - seen.first) as usize * self.width;
        let Some(vector) = seen.vectors.get(from..from + self.width) else {
            return false;
        };
        let fits = to.len() == vector.len();
        if fits {
            to.copy_from_slice(vector);
        }
        fits
    }

    /// How many vectors before and after that of `token` must be computed along with it, at one go.
    /// `None` where it can be computed alone after those before it.
    pub(crate) fn undivided(&self, token: Token) -> Option<(u32, u32)> {
        let (number, seen) = self.of(token).filter(|_| self.looks_ahead)?;
        let stretch = seen.stretches.iter().find(|it| it.contains(&number))?;
        Some((number - stretch.start, stretch.end - 1 - number))
    }

    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
    pub(crate) fn looks_ahead(&self) -> bool {
        self.looks_ahead
    }

    /// The number that `token` stands for, and the image it is of, which somebody still holds.
    fn of(&self, token: Token) -> Option<(u32, Arc<Seen>)> {
        let number = number_of(token)?;
        let walls = self.walls();
        let (_, seen) = walls.by_vector.range(..=number).next_back()?;
        Some((number, seen.upgrade()?))
    }

    fn walls(&self) -> MutexGuard<'_, Walls> {
        // Every change under the lock is whole, so a panic elsewhere leaves nothing half done.
        self.walls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NO_TOKEN_LEFT: BackendError =
    BackendError::Engine("it has seen as many images as it can tell apart; load it again");

impl Walls {
    /// Keeps `seen` as the last used, and no more than so many bytes.
    fn keep(&mut self, seen: Arc<Seen>, bytes_max: u64) {
        self.kept.retain(|other| !Arc::ptr_eq(other, &seen));
        self.kept.push_back(seen);
        let mut bytes: u64 = self.kept.iter().map(|seen| seen.bytes()).sum();
        while bytes > bytes_max
            && let Some(gone) = self.kept.pop_front()
        {
            bytes -= gone.bytes();
        }
    }

    fn forget_gone(&mut self) {
        self.by_vector.retain(|_, seen| seen.strong_count() > 0);
        self.by_digest.retain(|_, seen| seen.strong_count() > 0);
    }
}

/// True for a token that stands for a vector of an image, and has no text.
pub(crate) fn is_of_image(token: Token) -> bool {
    token < 0
}

fn token_of(number: u32) -> Option<Token> {
    // -1 is left out: it is what other programs call no token.
    Token::try_from(number).ok()?.checked_neg()?.checked_sub(2)
}

fn number_of(token: Token) -> Option<u32> {
    u32::try_from(token.checked_add(2)?.checked_neg()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(count: usize, of: f32) -> Vec<Stretch> {
        vec![
            Stretch::Tokens(vec![7]),
            Stretch::Vectors(vec![of; 2 * count]),
            Stretch::Tokens(vec![8]),
            Stretch::Vectors(vec![of + 1.0; 2]),
        ]
    }

    #[test]
    fn every_vector_has_a_token_of_its_own() {
        let gallery = Gallery::new(2, true);
        let one = gallery.add([1; 32], vectors(2, 1.0)).unwrap();
        let other = gallery.add([2; 32], vectors(1, 3.0)).unwrap();
        assert_eq!(one.tokens, [7, -2, -3, 8, -4]);
        assert_eq!(other.tokens, [7, -5, 8, -6]);
        let vector = |token| {
            let mut vector = [0.0; 2];
            gallery.copy_vector(token, &mut vector).then_some(vector)
        };
        let expected = [(-2, 1.0), (-3, 1.0), (-4, 2.0), (-5, 3.0), (-6, 4.0)];
        for (token, of) in expected {
            assert_eq!(vector(token), Some([of; 2]), "{token}");
        }
        let undivided = [-2, -3, -4, -5, 7].map(|token| gallery.undivided(token));
        let expected = [Some((0, 1)), Some((1, 0)), Some((0, 0)), Some((0, 0)), None];
        assert_eq!(undivided, expected);
        for none in [7, 0, -1, -7, Token::MIN, Token::MAX] {
            assert_eq!(vector(none), None, "{none}");
        }
    }

    #[test]
    fn what_was_seen_is_found_by_its_digest() {
        let gallery = Gallery::new(2, false);
        let seen = gallery.add([1; 32], vectors(2, 1.0)).unwrap();
        assert_eq!(gallery.find(&[1; 32]).unwrap().tokens, seen.tokens);
        assert!(gallery.find(&[2; 32]).is_none());
    }

    #[test]
    fn the_longest_unused_goes_and_is_told_apart_when_it_comes_back() {
        // Room for two of 4 x 2 numbers.
        let gallery = Gallery::with_bounds(2, 1 << 20, 64);
        let tokens = |digest: u8| {
            let seen = gallery.add([digest; 32], vectors(3, 1.0)).unwrap();
            seen.tokens.clone()
        };
        let first = tokens(1);
        tokens(2);
        assert!(gallery.find(&[1; 32]).is_some());
        tokens(3);
        assert!(gallery.find(&[2; 32]).is_none());
        assert!(gallery.find(&[1; 32]).is_some());
        tokens(4);
        tokens(5);
        assert!(gallery.find(&[1; 32]).is_none());
        let again = tokens(1);
        assert!(
            again
                .iter()
                .all(|token| *token >= 0 || !first.contains(token))
        );
    }

    #[test]
    fn more_than_there_is_room_for_is_overloaded_until_somebody_leaves() {
        let gallery = Gallery::with_bounds(2, 64, 0);
        let held = gallery.add([1; 32], vectors(3, 1.0)).unwrap();
        let also = gallery.add([2; 32], vectors(3, 1.0)).unwrap();
        let refused = gallery.add([3; 32], vectors(3, 1.0)).unwrap_err();
        assert!(matches!(refused, BackendError::Overloaded { .. }));
        assert_eq!(gallery.find(&[1; 32]).unwrap().tokens, held.tokens);
        drop((held, also));
        gallery.add([3; 32], vectors(3, 1.0)).unwrap();
    }

    #[test]
    fn tokens_end_before_they_come_round() {
        assert_eq!(token_of(0), Some(-2));
        let last = Token::MAX.cast_unsigned() - 1;
        assert_eq!(token_of(last), Some(Token::MIN));
        for number in [0, 1, 1_000, last] {
            assert_eq!(token_of(number).and_then(number_of), Some(number));
        }
        assert_eq!(token_of(last + 1), None);
    }
}
