//! What a replica knows of purges: a value that is told what was heard.

use std::collections::VecDeque;

use domain::CacheKey;

use super::said::{Said, Traits};
use crate::moka_replies::MokaReplies;

/// Lines of the journal that are kept, in Redis and here. Who was away for more has to forget all.
pub const JOURNAL_MAX: usize = 1_024;

/// As of when something is known: of which generation, and after how many purges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub generation: String,
    pub seq: u64,
}

/// What was answered to who asked for news.
#[derive(Debug)]
pub struct News {
    pub now: Stamp,
    /// Nothing that was kept until then counts, and all of it is to be removed.
    pub begins: bool,
    /// Lines, the last of which is that of `now`.
    pub lines: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Standing {
    /// `None` before anything was heard.
    stamp: Option<Stamp>,
    /// What was said of more than one reply, by its number. Of one alone Redis's went with the saying.
    said: VecDeque<(u64, Said)>,
    /// What was kept under a lower number may be meant by what is not known here.
    floor: u64,
}

impl Standing {
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp.clone()
    }

    /// Whether nothing that was said since means it.
    pub fn is_valid(&self, kept_under: &Stamp, key: &CacheKey, traits: &Traits) -> bool {
        let Some(stamp) = &self.stamp else {
            return false;
        };
        let is_known = kept_under.generation == stamp.generation
            && (self.floor..=stamp.seq).contains(&kept_under.seq);
        let since = self.said.iter().filter(|(seq, _)| *seq > kept_under.seq);
        is_known && !since.into_iter().any(|(_, said)| said.takes(key, traits))
    }

    /// What was said here and went from memory is heard of: what is kept from here on comes after it. Where
    /// something else was said before it, both are yet to be heard of.
    pub fn said_here(&mut self, now: Stamp) {
        let is_next = self.stamp.as_ref().is_some_and(|stamp| {
            stamp.generation == now.generation && stamp.seq.checked_add(1) == Some(now.seq)
        });
        if is_next {
            self.stamp = Some(now);
        }
    }

    /// Removes from memory what was said to be removed. Looks at every reply there for each line.
    pub fn hear(&mut self, news: News, near: &MokaReplies) {
        let News { now, lines, .. } = news;
        let known = self
            .stamp
            .take()
            .filter(|it| it.generation == now.generation);
        let from = known.as_ref().map_or(0, |stamp| stamp.seq);
        let lines = lines.iter().filter_map(|line| Said::read(line));
        let lines: Vec<(u64, Said)> = lines.filter(|(seq, _)| *seq > from).collect();
        // The number of the last line that is missing.
        let mut wanted = now.seq;
        for (seq, _) in lines.iter().rev() {
            if *seq == wanted {
                wanted -= 1;
            }
        }
        if known.is_none() || wanted > from {
            near.remove_those(|_, _| true);
            self.said.clear();
            self.floor = wanted;
        } else {
            for (_, said) in &lines {
                match said {
                    Said::Key(key) => {
                        near.remove(key);
                    }
                    said => {
                        near.remove_those(|key, kept| said.takes(key, &Traits::of(kept)));
                    }
                }
            }
        }
        let lasting = lines.into_iter();
        let lasting = lasting.filter(|(_, said)| !matches!(said, Said::Key(_)));
        self.said.extend(lasting);
        while self.said.len() > JOURNAL_MAX
            && let Some((seq, _)) = self.said.pop_front()
        {
            self.floor = self.floor.max(seq);
        }
        self.stamp = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use domain::{CacheStore, Kept};

    use super::*;
    use crate::conformance::kept_of;

    fn stamp(seq: u64) -> Stamp {
        Stamp {
            generation: "g".into(),
            seq,
        }
    }

    fn line(seq: u64, said: &Said) -> String {
        format!("{seq} {}", serde_json::to_string(said).unwrap())
    }

    fn news(seq: u64, lines: Vec<String>) -> News {
        News {
            now: stamp(seq),
            begins: false,
            lines,
        }
    }

    fn of_team(team: &str) -> Kept {
        Kept {
            team: team.into(),
            ..kept_of("reply")
        }
    }

    const KEY: CacheKey = CacheKey([7; 32]);

    #[test]
    fn what_was_kept_before_a_purge_that_means_it_is_not_valid() {
        let near = MokaReplies::new(1 << 20);
        let mut standing = Standing::default();
        let (red, blue) = (Traits::of(&of_team("red")), Traits::of(&of_team("blue")));
        assert!(
            !standing.is_valid(&stamp(0), &KEY, &red),
            "nothing was heard"
        );
        standing.hear(news(0, Vec::new()), &near);
        near.keep(KEY, Arc::new(of_team("red")), Duration::from_secs(60));
        assert!(standing.is_valid(&stamp(0), &KEY, &red));
        assert!(!standing.is_valid(&stamp(1), &KEY, &red), "of a future");
        standing.hear(news(1, vec![line(1, &Said::Team("red".into()))]), &near);
        assert!(near.find(&KEY).is_none());
        assert!(!standing.is_valid(&stamp(0), &KEY, &red));
        assert!(standing.is_valid(&stamp(0), &KEY, &blue));
        assert!(standing.is_valid(&stamp(1), &KEY, &red));
        let other = Stamp {
            generation: "h".into(),
            seq: 1,
        };
        assert!(!standing.is_valid(&other, &KEY, &red));
    }

    #[test]
    fn who_missed_a_line_forgets_all_that_was_kept_before_it() {
        let near = MokaReplies::new(1 << 20);
        let mut standing = Standing::default();
        standing.hear(news(1, vec![line(1, &Said::Team("x".into()))]), &near);
        near.keep(KEY, Arc::new(of_team("red")), Duration::from_secs(60));
        // The second is gone from the journal.
        let third = line(3, &Said::Team("blue".into()));
        standing.hear(news(3, vec![third]), &near);
        assert!(near.find(&KEY).is_none());
        let (red, blue) = (Traits::of(&of_team("red")), Traits::of(&of_team("blue")));
        assert!(!standing.is_valid(&stamp(1), &KEY, &red));
        assert!(standing.is_valid(&stamp(2), &KEY, &red));
        assert!(!standing.is_valid(&stamp(2), &KEY, &blue));
    }

    #[test]
    fn another_generation_empties_the_memory() {
        let near = MokaReplies::new(1 << 20);
        let mut standing = Standing::default();
        standing.hear(news(0, Vec::new()), &near);
        near.keep(KEY, Arc::new(of_team("red")), Duration::from_secs(60));
        let now = Stamp {
            generation: "h".into(),
            seq: 0,
        };
        standing.hear(
            News {
                now,
                begins: true,
                lines: Vec::new(),
            },
            &near,
        );
        assert!(near.find(&KEY).is_none());
    }

    #[test]
    fn what_is_remembered_of_purges_is_bounded_and_replies_of_before_are_not_believed() {
        let near = MokaReplies::new(1 << 20);
        let mut standing = Standing::default();
        let last = 2 * JOURNAL_MAX as u64;
        for seq in 1..=last {
            let said = line(seq, &Said::Team("nobody".into()));
            standing.hear(news(seq, vec![said]), &near);
        }
        assert_eq!(standing.said.len(), JOURNAL_MAX);
        let red = Traits::of(&of_team("red"));
        let floor = last - JOURNAL_MAX as u64;
        assert!(!standing.is_valid(&stamp(floor - 1), &KEY, &red));
        assert!(standing.is_valid(&stamp(floor), &KEY, &red));
        // Of one reply alone nothing has to be remembered.
        for seq in last + 1..=2 * last {
            standing.hear(news(seq, vec![line(seq, &Said::Key(KEY))]), &near);
        }
        assert!(standing.is_valid(&stamp(floor), &KEY, &red));
    }

    #[test]
    fn a_word_that_nobody_knows_here_means_all() {
        let said = Said::read(r#"7 {"weekday": "monday"}"#);
        assert_eq!(said, Some((7, Said::All)));
        assert_eq!(Said::read("seven"), None);
        for said in [
            Said::All,
            Said::Key(KEY),
            Said::Tag("spring".into(), Some("red".into())),
        ] {
            assert_eq!(Said::read(&line(3, &said)), Some((3, said)));
        }
    }
}
