//! The cache's room where prompts begin alike.

use super::*;

/// Four chats of 150 tokens in common, in a cache that would hold one and a half of them apart.
#[test]
fn a_beginning_in_common_takes_room_once() {
    let shape = Shape {
        kv_tokens: 256,
        ..SHAPE
    };
    let mut bench = Bench::new(shape);
    let system = "s".repeat(150);
    let ask = |bench: &Bench, letter: &str| {
        bench.ask_with(&format!("{system}{letter}>"), |request| {
            request.output_max = 10;
        })
    };
    let first = ask(&bench, "a");
    bench.run_until_talking();
    let mut others: Vec<_> = ["b", "c", "d"].map(|letter| ask(&bench, letter)).into();
    // One a step: each shares the prefix before the next is counted.
    (0..3).for_each(|_| _ = bench.step());
    assert_eq!((bench.running(), bench.shared.waiting()), (4, 0));
    bench.run();
    drop(first);
    for stream in &mut others {
        assert_eq!(read(stream).text, "s".repeat(10));
    }
    // The prefix once, and each one's own: nobody was set back to be computed again.
    assert_eq!(computed(&bench), 150 + 4 * (2 + 9));
}

fn admitted_beside_a_long_prompt(scope: PrefixScope, is_recurrent: bool) -> usize {
    let shape = Shape {
        kv_tokens: 256,
        ..SHAPE
    };
    let prefixes = PrefixRules {
        scope,
        ..NO_PREFIXES
    };
    let mut bench = Bench::keeping(shape, prefixes, |decoder| {
        decoder.is_recurrent = is_recurrent;
    });
    let system = "s".repeat(150);
    let _first = bench.ask_with(&format!("{system}a>"), |request| {
        request.team = Some("red".into());
        request.output_max = 10;
    });
    bench.run_until_talking();
    // Batch, which has no spare slot made free for it.
    let _second = bench.ask_with(&format!("{system}b>"), |request| {
        request.team = Some("blue".into());
        request.priority = domain::Priority::Batch;
        request.output_max = 10;
    });
    bench.step();
    bench.running()
}

/// Seen: under the global scope a beginning that another team's slot held was counted once more, and
/// one that no memory can share was not.
#[test]
fn only_what_will_be_shared_is_taken_off_what_a_request_needs() {
    assert_eq!(admitted_beside_a_long_prompt(PrefixScope::Global, false), 2);
    assert_eq!(admitted_beside_a_long_prompt(PrefixScope::Team, false), 1);
    assert_eq!(admitted_beside_a_long_prompt(PrefixScope::Global, true), 1);
}
