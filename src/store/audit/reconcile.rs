//! The two ends' logs held against each other, by what only one exchange has: `enc`.

use std::collections::HashMap;
use std::time::Duration;

use domain::{SealedResult, SealedSide};

use super::verify::AuditEntry;

/// Entries of one side. More at once are refused: some 200 bytes each, so 800 MB for both sides.
pub const ENTRIES_MAX: usize = 2_000_000;

/// Different paths and models among them.
pub const TEXTS_MAX: usize = 100_000;

/// Differences that are told one by one. Further ones are counted.
pub const DIFFERENCES_MAX: usize = 100;

/// How far the two clocks may differ, and one exchange last: what is nearer than that to where the other
/// side's log begins or ends may not have been in it.
pub const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// More than can be held against each other at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {ENTRIES_MAX} entries of one side, or {TEXTS_MAX} names; give fewer files")]
pub struct TooMuch;

/// Takes the entries of both sides' files, in any order.
#[derive(Debug, Default)]
pub struct Comparison {
    texts: Texts,
    edge: Side,
    relay: Side,
    found: Reconciled,
}

/// How the two agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// At both ends, whether or not they say the same.
    pub matched: u64,
    pub only_edge: u64,
    pub only_relay: u64,
    /// At one end, before the other's log begins or after it ends: neither counts against them.
    pub outside: u64,
    /// Matched, and not the same.
    pub differ: u64,
    /// Again under an `enc` that the same side has already. At a relay a replay leaves one.
    pub again_edge: u64,
    pub again_relay: u64,
    /// Entries of the other side within a side's files, as a node has that is both. Passed over.
    pub other_side: u64,
    pub differences: Vec<Difference>,
}

/// One exchange on which the two ends do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub enc: String,
    /// `only_edge`, `only_relay`, `again_edge`, `again_relay`, or the member that differs.
    pub what: &'static str,
    /// What each says, where a member differs.
    pub edge: Option<String>,
    pub relay: Option<String>,
    /// In milliseconds since 1970, as the side says that has it; the edge, where both do.
    pub at_ms: u64,
}

impl Reconciled {
    /// True when every exchange is at both ends once, and they say the same of it.
    #[must_use]
    pub fn agrees(&self) -> bool {
        let more = self.only_edge + self.only_relay + self.again_edge + self.again_relay;
        more + self.differ == 0
    }

    fn tell(&mut self, difference: impl FnOnce() -> Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference());
        }
    }
}

#[derive(Debug, Default)]
struct Side {
    entries: HashMap<Box<str>, Kept>,
    /// When its first and its last entry began.
    span: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    at_ms: u64,
    tokens_in: Option<u64>,
    tokens_out: Option<u64>,
    path: Option<u32>,
    model: Option<u32>,
    status: Option<u16>,
    is_replayed: bool,
}

/// Each text once.
#[derive(Debug, Default)]
struct Texts {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Texts {
    fn number(&mut self, text: Option<&str>) -> Result<Option<u32>, TooMuch> {
        let Some(text) = text else {
            return Ok(None);
        };
        if let Some(number) = self.numbers.get(text) {
            return Ok(Some(*number));
        }
        let number = self.texts.len();
        if number >= TEXTS_MAX {
            return Err(TooMuch);
        }
        self.texts.push(text.to_owned());
        let number = u32::try_from(number).map_err(|_| TooMuch)?;
        self.numbers.insert(text.to_owned(), number);
        Ok(Some(number))
    }

    fn text(&self, number: u32) -> String {
        self.texts.get(number as usize).cloned().unwrap_or_default()
    }
}

impl Comparison {
    /// One more entry of the files of `side`.
    ///
    /// # Errors
    /// There are too many.
    pub fn take(&mut self, side: SealedSide, entry: &AuditEntry<'_>) -> Result<(), TooMuch> {
        let (line, rest) = (entry.0, &entry.0.rest);
        let (Some(enc), true) = (&rest.enc, rest.side.as_deref() == Some(side.as_label())) else {
            self.found.other_side += 1;
            return Ok(());
        };
        let (of_side, again, what) = match side {
            SealedSide::Edge => (&mut self.edge, &mut self.found.again_edge, "again_edge"),
            SealedSide::Relay => (&mut self.relay, &mut self.found.again_relay, "again_relay"),
        };
        let at_ms = line.at_ms;
        let (first, last) = of_side.span.unwrap_or((at_ms, at_ms));
        of_side.span = Some((first.min(at_ms), last.max(at_ms)));
        let kept = Kept {
            at_ms,
            tokens_in: rest.tokens_in,
            tokens_out: rest.tokens_out,
            path: self.texts.number(rest.path.as_deref())?,
            model: self.texts.number(rest.model.as_deref())?,
            status: rest.status,
            is_replayed: rest.result.as_deref() == Some(SealedResult::Replayed.as_label()),
        };
        if let Some(before) = of_side.entries.get_mut(enc.as_str()) {
            // A replay that is refused may be written before what it repeats has ended.
            if before.is_replayed && !kept.is_replayed {
                *before = kept;
            }
            *again += 1;
            self.found.tell(|| Difference {
                enc: enc.clone(),
                what,
                edge: None,
                relay: None,
                at_ms,
            });
            return Ok(());
        }
        if of_side.entries.len() >= ENTRIES_MAX {
            return Err(TooMuch);
        }
        of_side.entries.insert(enc.as_str().into(), kept);
        Ok(())
    }

    #[must_use]
    pub fn finish(mut self) -> Reconciled {
        let mut found = std::mem::take(&mut self.found);
        let mut edge: Vec<_> = std::mem::take(&mut self.edge.entries).into_iter().collect();
        edge.sort_by_key(|(_, kept)| kept.at_ms);
        for (enc, at_edge) in edge {
            match self.relay.entries.remove(&enc) {
                Some(at_relay) => {
                    found.matched += 1;
                    self.compare(&enc, at_edge, at_relay, &mut found);
                }
                None if is_outside(at_edge.at_ms, self.relay.span) => found.outside += 1,
                None => {
                    found.only_edge += 1;
                    found.tell(|| only(&enc, "only_edge", at_edge));
                }
            }
        }
        let mut relay: Vec<_> = self.relay.entries.into_iter().collect();
        relay.sort_by_key(|(_, kept)| kept.at_ms);
        for (enc, at_relay) in relay {
            if is_outside(at_relay.at_ms, self.edge.span) {
                found.outside += 1;
                continue;
            }
            found.only_relay += 1;
            found.tell(|| only(&enc, "only_relay", at_relay));
        }
        found
    }

    /// Members that only one end knows are no difference.
    fn compare(&self, enc: &str, edge: Kept, relay: Kept, found: &mut Reconciled) {
        let text = |number: Option<u32>| number.map(|it| self.texts.text(it));
        let number = |it: Option<u64>| it.map(|it| it.to_string());
        let status = |it: Option<u16>| it.map(|it| it.to_string());
        let members = [
            ("status", status(edge.status), status(relay.status)),
            ("model", text(edge.model), text(relay.model)),
            ("tokens_in", number(edge.tokens_in), number(relay.tokens_in)),
            (
                "tokens_out",
                number(edge.tokens_out),
                number(relay.tokens_out),
            ),
            ("path", text(edge.path), text(relay.path)),
        ];
        let mut is_same = true;
        for (what, at_edge, at_relay) in members {
            if at_edge.is_none() || at_relay.is_none() || at_edge == at_relay {
                continue;
            }
            is_same = false;
            found.tell(|| Difference {
                enc: enc.to_owned(),
                what,
                edge: at_edge,
                relay: at_relay,
                at_ms: edge.at_ms,
            });
        }
        found.differ += u64::from(!is_same);
    }
}

fn only(enc: &str, what: &'static str, kept: Kept) -> Difference {
    Difference {
        enc: enc.to_owned(),
        what,
        edge: None,
        relay: None,
        at_ms: kept.at_ms,
    }
}

/// Whether the other side's log may not be of that time. One without entries is of no time.
fn is_outside(at_ms: u64, span: Option<(u64, u64)>) -> bool {
    let skew = SKEW_MAX.as_millis() as u64;
    span.is_none_or(|(first, last)| {
        at_ms.saturating_add(skew) < first || at_ms > last.saturating_add(skew)
    })
}
