//! What was made comes from where it is kept: a file of this node's, or what replicas share.
//!
//! Of a file everything goes with the node, or the node does not go on. What replicas share may have been
//! made by one that has another configuration, or is of a later version: then it opens nothing here, and
//! its name stays its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::{KeptKey, Rows};

use super::standing::{Book, MadeKey, MadeTeam, words};
use crate::config::ConfigFault;

/// What other replicas made, and has no place here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// With their teams.
    pub keys: BTreeMap<String, String>,
    pub teams: BTreeSet<String>,
}

impl LeftOut {
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len() + self.teams.len()
    }

    /// For the log.
    #[must_use]
    pub fn names(&self) -> String {
        let teams = self.teams.iter().map(|name| format!("team `{name}`"));
        let keys = self.keys.keys().map(|name| format!("key `{name}`"));
        teams.chain(keys).collect::<Vec<_>>().join(", ")
    }
}

impl Book {
    /// Puts what stands in a place in place of what was here.
    ///
    /// # Errors
    /// Something there is in no words that are known. Then this is of no use any more.
    pub fn take(&mut self, rows: Rows) -> Result<(), Vec<ConfigFault>> {
        let faults = self.take_known(rows);
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults),
        }
    }

    /// The same, without what is in words that are not known.
    pub fn take_most(&mut self, rows: Rows) {
        drop(self.take_known(rows));
    }

    /// The same, without what does not go with the configuration either.
    pub fn take_what_goes(&mut self, rows: Rows) {
        drop(self.take_known(rows));
        let written = self.of_file.quotas.written().map(|(name, _)| name);
        let twice = written.filter(|name| self.teams.contains_key(*name));
        let twice: BTreeSet<String> = twice.map(str::to_owned).collect();
        for name in &twice {
            self.teams.remove(name);
        }
        let goes = |key: &MadeKey| {
            let team = &key.kept.team;
            !self.is_key_of_file(&key.kept.name)
                && !twice.contains(team)
                && self.has_team(team)
                && self.unknown_route(&key.own).is_none()
        };
        let rest = self.keys.values().filter(|key| !goes(key));
        let rest = rest.map(|key| (key.kept.name.clone(), key.kept.team.clone()));
        let rest: BTreeMap<String, String> = rest.collect();
        self.keys.retain(|name, _| !rest.contains_key(name));
        self.left_out.keys.extend(rest);
        self.left_out.teams.extend(twice);
    }

    /// Gives what is wrong with what is left out.
    fn take_known(&mut self, rows: Rows) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut said = |noun: &str, name: &str, found: Vec<ConfigFault>| {
            faults.extend(found.into_iter().map(|fault| ConfigFault {
                path: format!("{noun} `{name}`, made while the node ran: {}", fault.path),
                message: fault.message,
            }));
        };
        let mut left_out = LeftOut::default();
        let (mut keys, mut teams) = (BTreeMap::new(), BTreeMap::new());
        for kept in rows.teams {
            let name = kept.name.clone();
            let known = self.teams.get(&name).filter(|it| it.kept == kept);
            let team = match known {
                Some(known) => Ok(Arc::clone(known)),
                None => words(&kept.limits).and_then(|it| MadeTeam::of(kept, it).map(Arc::new)),
            };
            match team {
                Ok(team) => drop(teams.insert(name, team)),
                Err(found) => {
                    said("team", &name, found);
                    left_out.teams.insert(name);
                }
            }
        }
        for kept in rows.keys {
            let (name, team) = (kept.name.clone(), kept.team.clone());
            if left_out.teams.contains(&team) {
                // Its team's limits are not known.
                left_out.keys.insert(name, team);
                continue;
            }
            let known = self.keys.get(&name).filter(|it| it.kept.is(&kept));
            let key = match known {
                Some(known) => Ok(Arc::clone(known)),
                None => words(&kept.grants).and_then(|it| MadeKey::of(kept, it).map(Arc::new)),
            };
            match key {
                Ok(key) => drop(keys.insert(name, key)),
                Err(found) => {
                    said("key", &name, found);
                    left_out.keys.insert(name, team);
                }
            }
        }
        let days = std::mem::take(&mut self.days);
        for (name, key) in &keys {
            // One that was deleted and made again is another key.
            let before = self.keys.get(name);
            let is_same = before.is_none_or(|it| it.kept.made_s == key.kept.made_s);
            let known = days.get(name).filter(|_| is_same).cloned();
            let day = known.unwrap_or_default();
            day.raise(key.kept.used_day.unwrap_or(0));
            self.days.insert(name.clone(), day);
        }
        (self.keys, self.teams, self.left_out) = (keys, teams, left_out);
        self.has_made |= rows.has_made;
        self.is_unheard = false;
        self.secret = Some(rows.secret);
        faults
    }

    /// On which days keys were last used elsewhere.
    pub fn take_days(&mut self, rows: &Rows) {
        for key in &rows.keys {
            if let Some(day) = key.used_day {
                if let Some(used) = self.days.get(&key.name) {
                    used.raise(day);
                }
                self.note_day(&key.name, day);
            }
        }
    }

    /// That it is written down.
    pub fn note_day(&mut self, name: &str, day: u32) {
        let Some(key) = self.keys.get_mut(name) else {
            return;
        };
        if key.kept.used_day < Some(day) {
            let kept = KeptKey {
                used_day: Some(day),
                ..key.kept.clone()
            };
            *key = Arc::new(MadeKey {
                kept,
                words: key.words.clone(),
                own: key.own.clone(),
            });
        }
    }
}
