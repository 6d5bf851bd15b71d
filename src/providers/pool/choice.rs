//! Which endpoint gets a chat.
//!
//! A request prefers the endpoint that highest random weight (Thaler and Ravishankar, "A Name-Based
//! Mapping Scheme for Rendezvous", 1996) gives its beginning: when an endpoint comes or goes, only
//! its own share moves. Loads are bounded as in Mirrokni, Thorup and Zadimoghaddam, "Consistent
//! Hashing with Bounded Loads" (2016): who would come to more than a factor of the mean is passed
//! over, here for the least loaded.

use std::hash::{DefaultHasher, Hash, Hasher};

use domain::{Outbound, Part, Role};

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bid {
    /// Requests it has, running and waiting.
    pub load: u32,
    /// The higher, the sooner among equals; and whom a request prefers.
    pub weight: u64,
}

/// The index of the endpoint to ask; `None` where there is none. With `spill_factor` the highest
/// weight is preferred, without it only the load counts.
pub(crate) fn choose(bids: &[Bid], spill_factor: Option<f64>) -> Option<usize> {
    let indexed = || bids.iter().enumerate();
    if let Some(factor) = spill_factor {
        let (index, preferred) = indexed().max_by_key(|(_, bid)| bid.weight)?;
        if has_room(*preferred, bids, factor) {
            return Some(index);
        }
    }
    indexed()
        .min_by_key(|(_, bid)| (bid.load, u64::MAX - bid.weight))
        .map(|(index, _)| index)
}

/// Whether one request more leaves it within `factor` times the mean, which counts that request.
fn has_room(bid: Bid, all: &[Bid], factor: f64) -> bool {
    let total: u64 = all.iter().map(|bid| u64::from(bid.load)).sum();
    let mean = (total + 1) as f64 / all.len() as f64;
    f64::from(bid.load) + 1.0 <= (mean * factor).ceil()
}

/// What requests with the same beginning have in common: the team, whose prompts are not another's
/// to share, the model, and the instructions and the first words of the user up to `bytes_max`.
/// `None` where no request prefers any endpoint.
///
/// The hash is the same in every process of one build, so that several nodes agree.
pub(crate) fn beginning(call: &Outbound, bytes_max: usize) -> Option<u64> {
    if bytes_max == 0 {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    call.team().map(|team| team.as_str()).hash(&mut hasher);
    call.model().hash(&mut hasher);
    let mut room = bytes_max;
    for message in &call.request().messages {
        message.role.as_label().hash(&mut hasher);
        for part in &message.content {
            let Part::Text(text) = part else {
                continue;
            };
            let taken = &text.as_bytes()[..text.len().min(room)];
            hasher.write(taken);
            room -= taken.len();
        }
        if room == 0 || message.role == Role::User {
            break;
        }
    }
    Some(hasher.finish())
}

/// How much the endpoint called `label` is preferred by requests with this beginning.
pub(crate) fn weight(beginning: u64, label: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    beginning.hash(&mut hasher);
    label.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use domain::{Findings, Trust};
    use wire::openai::decode_request;

    use super::*;

    fn bids(loads: &[u32]) -> Vec<Bid> {
        // The first is preferred, then the second, and so on.
        let weights = (0..).map(|index| u64::MAX - index);
        let bid = |(&load, weight)| Bid { load, weight };
        loads.iter().zip(weights).map(bid).collect()
    }

    #[test]
    fn the_preferred_endpoint_is_asked_until_it_is_far_above_the_mean() {
        let cases: [(&[u32], f64, usize); 7] = [
            (&[0, 0], 1.25, 0),
            (&[1, 0], 1.25, 0),
            (&[2, 0], 1.25, 1),
            (&[2, 0], 4.0, 0),
            (&[10, 9, 8], 1.25, 0),
            (&[13, 9, 8], 1.25, 2),
            (&[5], 1.0, 0),
        ];
        for (loads, factor, wanted) in cases {
            assert_eq!(
                choose(&bids(loads), Some(factor)),
                Some(wanted),
                "{loads:?}"
            );
        }
        assert_eq!(choose(&[], Some(1.25)), None);
    }

    #[test]
    fn without_a_preference_the_least_loaded_is_asked() {
        assert_eq!(choose(&bids(&[3, 1, 2]), None), Some(1));
        assert_eq!(
            choose(&bids(&[3, 1, 1]), None),
            Some(1),
            "the higher weight"
        );
        assert_eq!(choose(&[], None), None);
    }

    #[test]
    fn many_beginnings_spread_and_an_endpoint_that_goes_moves_only_its_own() {
        let labels = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
        let preferred = |beginning: u64, among: &[&'static str]| {
            let best = among.iter().max_by_key(|label| weight(beginning, label));
            *best.unwrap()
        };
        let mut shares = BTreeMap::new();
        for beginning in 0..3_000 {
            let before = preferred(beginning, &labels);
            *shares.entry(before).or_insert(0) += 1;
            let after = preferred(beginning, &labels[..2]);
            assert!(before == labels[2] || before == after, "{beginning}");
        }
        assert!(
            shares.values().all(|share| (850..1150).contains(share)),
            "{shares:?}"
        );
    }

    fn call(team: &str, messages: &str) -> Outbound {
        let body = format!(r#"{{"model":"m","messages":[{messages}]}}"#);
        let request = decode_request(&Bytes::from(body)).unwrap();
        let findings = Findings::default();
        Outbound::seal("r".into(), "m".into(), request, &findings, Trust::Tenant)
            .for_team(team.into())
    }

    #[test]
    fn a_conversation_keeps_its_beginning_and_teams_do_not_share_one() {
        let system = r#"{"role":"system","content":"You answer in verse."}"#;
        let first = r#"{"role":"user","content":"Why is the sky blue?"}"#;
        let later =
            r#"{"role":"assistant","content":"It scatters."},{"role":"user","content":"And red?"}"#;
        let other = r#"{"role":"user","content":"What is rust?"}"#;
        let of = |team, parts: &[&str], bytes| beginning(&call(team, &parts.join(",")), bytes);
        let base = of("a", &[system, first], 1024);
        assert!(base.is_some());
        assert_eq!(base, of("a", &[system, first, later], 1024));
        assert_ne!(base, of("b", &[system, first], 1024));
        assert_ne!(base, of("a", &[system, other], 1024));
        // Within the bound only the instructions count, which both share.
        assert_eq!(of("a", &[system, first], 12), of("a", &[system, other], 12));
        assert_eq!(of("a", &[system, first], 0), None);
    }
}
