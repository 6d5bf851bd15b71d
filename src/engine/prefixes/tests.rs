//! The store by itself; what is on disk is in `on_disk`.

use super::*;

mod on_disk;

const FINGERPRINT: Fingerprint = [7; 32];
const RULES: PrefixRules = PrefixRules {
    scope: PrefixScope::Team,
    bytes_max: 4 * 1024 * 1024,
    dir: None,
    worth: Worth::Always,
};

fn store(change: impl FnOnce(&mut PrefixRules)) -> Prefixes {
    let mut rules = RULES;
    change(&mut rules);
    Prefixes::open(rules, FINGERPRINT, true)
}

fn red(store: &Prefixes) -> Owner {
    store.owner(Some(&"red".into()))
}

/// `count` tokens that nobody else's begin with, then others of its own.
fn tokens(family: Token, count: usize, tail: Token) -> Vec<Token> {
    let mut tokens = vec![family; count];
    tokens.extend((0..100).map(|token| 1_000 * tail + token));
    tokens
}

/// A state that tells which tokens it is of.
fn state(tokens: &[Token]) -> Vec<u8> {
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes());
    bytes.cycle().take(tokens.len() * 16).collect()
}

fn put(store: &mut Prefixes, owner: Owner, tokens: &[Token]) {
    let state = state(tokens);
    assert!(store.admits(count(tokens), state.len(), None));
    store.put(owner, tokens, state);
}

fn find(store: &mut Prefixes, owner: Owner, prompt: &[Token], held: u32) -> Option<Found> {
    let found = store.find(Wanted {
        owner,
        prompt,
        held,
        count_max: 100_000,
        token_s: None,
        read_bytes_max: usize::MAX,
    });
    let found = whole(found)?;
    store.restored(&found, true);
    Some(found)
}

fn whole(sought: Option<Sought>) -> Option<Found> {
    match sought? {
        Sought::Found(found) => Some(found),
        Sought::BeingRead => panic!("it is not read at one go"),
    }
}

#[test]
fn a_state_is_found_by_what_it_begins_with() {
    let mut store = store(|_| ());
    let owner = red(&store);
    let saved = tokens(1, 500, 2);
    put(&mut store, owner, &saved);
    let found = find(&mut store, owner, &tokens(1, 500, 3), 0).unwrap();
    assert_eq!((found.common, found.count), (500, 600));
    assert_eq!(*found.state, state(&saved));
    let longer = [saved.clone(), vec![9; 50]].concat();
    assert_eq!(find(&mut store, owner, &longer, 0).unwrap().common, 600);
    assert!(find(&mut store, owner, &tokens(4, 500, 2), 0).is_none());
}

#[test]
fn less_than_is_worth_it_is_not_found() {
    let mut store = store(|_| ());
    let owner = red(&store);
    put(&mut store, owner, &tokens(1, 500, 2));
    let prompt = tokens(1, 500, 3);
    let least = PREFIX_TOKENS_MIN;
    assert!(find(&mut store, owner, &prompt, 500 - least).is_some());
    assert!(find(&mut store, owner, &prompt, 501 - least).is_none());
    assert!(find(&mut store, owner, &prompt[..least as usize - 1], 0).is_none());
}

#[test]
fn what_one_team_saved_serves_no_other_unless_told_to() {
    let prompt = tokens(1, 500, 2);
    let mut own = store(|_| ());
    let owners = [Some("red".into()), Some("blue".into()), None];
    let owners = owners.map(|team: Option<TeamId>| own.owner(team.as_ref()));
    put(&mut own, owners[0], &prompt);
    let is_found = owners.map(|owner| find(&mut own, owner, &prompt, 0).is_some());
    assert_eq!(is_found, [true, false, false]);
    assert_eq!(own.uncovered(owners[0], &prompt), 0);
    assert_eq!(own.uncovered(owners[1], &prompt), 600);

    let all = store(|rules| rules.scope = PrefixScope::Global);
    assert!(all.owner(None) == all.owner(Some(&"blue".into())));
}

#[test]
fn a_memory_that_cannot_be_cut_is_served_whole_states_only() {
    let mut store = Prefixes::open(RULES, FINGERPRINT, false);
    let owner = red(&store);
    let saved = tokens(1, 500, 2);
    put(&mut store, owner, &saved);
    assert!(find(&mut store, owner, &tokens(1, 500, 3), 0).is_none());
    assert_eq!(store.uncovered(owner, &tokens(1, 500, 3)), 600);
    let longer = [saved, vec![9]].concat();
    assert_eq!(find(&mut store, owner, &longer, 0).unwrap().common, 600);
}

#[test]
fn the_store_never_holds_more_than_its_bytes() {
    let bytes_max = 100_000;
    let mut store = store(|rules| rules.bytes_max = bytes_max);
    let owner = red(&store);
    for family in 1..50 {
        put(
            &mut store,
            owner,
            &tokens(family, 100 + family as usize, family),
        );
        assert!(store.memory_bytes() <= bytes_max);
    }
    assert!(store.entries.len() > 10, "{}", store.entries.len());
    assert!(!store.admits(600, bytes_max + 1, None), "too large for all");
    assert!(!store.admits(600, 0, None), "no state at all");
}

#[test]
fn a_store_without_room_is_off() {
    let mut store = store(|rules| rules.bytes_max = 0);
    assert!(!store.is_on() && !store.admits(600, 1, None));
}

#[test]
fn there_are_never_more_entries_than_may_be() {
    let mut store = store(|_| ());
    let owner = red(&store);
    for family in 0..ENTRIES_MAX + 20 {
        let tokens = vec![Token::try_from(family).unwrap(); 64];
        put(&mut store, owner, &tokens);
    }
    assert_eq!(store.entries.len(), ENTRIES_MAX);
    assert!(
        find(&mut store, owner, &[0; 100], 0).is_none(),
        "the oldest went"
    );
}

/// Room for three: which one of three goes for the fourth.
fn goes(first: [Vec<Token>; 3], asked: Option<&[Token]>) -> usize {
    let size = |tokens: &Vec<Token>| state(tokens).len() + size_of_val(&tokens[..]);
    let room = first.iter().map(size).sum::<usize>();
    let mut store = store(|rules| rules.bytes_max = room);
    let owner = red(&store);
    for tokens in &first {
        put(&mut store, owner, tokens);
    }
    // Two prompts' time passes for those who are not asked for.
    for _ in 0..2 {
        let prompt = asked.unwrap_or(&[0; 5]);
        find(&mut store, owner, prompt, 0);
    }
    put(&mut store, owner, &tokens(99, 10, 99));
    let kept: Vec<bool> = first
        .iter()
        .map(|tokens| store.entries.iter().any(|entry| *entry.tokens == **tokens))
        .collect();
    assert_eq!(kept.iter().filter(|kept| !**kept).count(), 1, "{kept:?}");
    kept.iter().position(|kept| !*kept).unwrap()
}

#[test]
fn the_least_saved_work_goes_first() {
    let of = |family: Token, count: usize| tokens(family, count, family);
    // The shortest of those that are as old.
    assert_eq!(goes([of(1, 400), of(2, 300), of(3, 500)], None), 1);
    // Not the shortest, when it alone was asked for since.
    let asked = of(2, 300);
    assert_eq!(goes([of(1, 400), of(2, 300), of(3, 500)], Some(&asked)), 0);
    // One of two that are mostly alike: what it alone would save is little.
    let alike = [tokens(1, 900, 2), of(5, 300), tokens(1, 900, 3)];
    assert_eq!(goes(alike, None), 0);
}

#[test]
fn a_longer_state_takes_the_place_of_its_beginning() {
    let mut store = store(|_| ());
    let owner = red(&store);
    let saved = tokens(1, 200, 2);
    put(&mut store, owner, &saved);
    put(&mut store, owner, &[saved.clone(), vec![9; 90]].concat());
    assert_eq!(store.entries.len(), 1);
    assert_eq!(find(&mut store, owner, &saved, 0).unwrap().count, 390);
    put(&mut store, owner, &[saved, vec![9; 90]].concat());
    assert_eq!(store.entries.len(), 1, "the same again");
}

#[test]
fn a_state_that_cannot_be_restored_is_not_tried_again() {
    let mut store = store(|_| ());
    let owner = red(&store);
    let saved = tokens(1, 200, 2);
    put(&mut store, owner, &saved);
    let wanted = Wanted {
        owner,
        prompt: &saved,
        held: 0,
        count_max: 1_000,
        token_s: None,
        read_bytes_max: usize::MAX,
    };
    let found = whole(store.find(wanted)).unwrap();
    store.restored(&found, false);
    assert!(store.find(wanted).is_none());
}

#[test]
fn copying_must_pay() {
    let mut store = store(|rules| rules.worth = Worth::Measured);
    // A gigabyte in a second, so a megabyte in a millisecond: 32 times that is 32 tokens of one.
    assert!(store.admits(33, 1_000_000, Some(1e-3)));
    assert!(!store.admits(31, 1_000_000, Some(1e-3)));
    assert!(
        store.admits(31, 1_000_000, None),
        "nothing was measured yet"
    );
    for _ in 0..100 {
        store.learn(1_000_000, Duration::from_millis(10));
        store.learn(100, Duration::from_secs(1));
    }
    assert!(!store.admits(300, 1_000_000, Some(1e-3)));
    assert!(store.admits(330, 1_000_000, Some(1e-3)));
}
