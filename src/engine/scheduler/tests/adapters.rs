//! Chats under different adapters. The scripted decoder writes in capitals under any, and panics
//! where a sequence goes on under another set than it began with.

use std::collections::BTreeSet;

use super::*;
use crate::adapters::AdapterSet;

const PREFIXES: PrefixRules = PrefixRules {
    bytes_max: 1024 * 1024,
    ..NO_PREFIXES
};

/// A bench whose decoder has three adapters.
fn bench(shape: Shape, prefixes: PrefixRules, drafting: Drafting) -> Bench {
    Bench::made(shape, shape.sequences, prefixes, drafting, |decoder| {
        decoder.adapters = vec![[1; 32], [2; 32], [3; 32]];
    })
}

fn under(bench: &Bench, adapters: &[(usize, f32)], prompt: &str) -> ReplyStream {
    bench.ask_with(prompt, |request| {
        request.adapters = AdapterSet::of(adapters.iter().copied());
    })
}

/// Which sequences each batch so far was of.
fn batches(bench: &Bench) -> Vec<BTreeSet<u32>> {
    let log = bench.log.lock().unwrap();
    let sequences = log
        .iter()
        .map(|seen| seen.batch.iter().map(|entry| entry.sequence).collect());
    sequences.collect()
}

#[test]
fn no_batch_mixes_sets_of_adapters() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let mut streams = [
        under(&bench, &[], "first words>"),
        under(&bench, &[(0, 1.0)], "second words>"),
        under(&bench, &[(0, 1.0)], "third words>"),
        under(&bench, &[(0, 0.5), (2, 1.0)], "fourth words>"),
    ];
    bench.run();
    let said = ["first words", "SECOND WORDS", "THIRD WORDS", "FOURTH WORDS"];
    for (stream, said) in streams.iter_mut().zip(said) {
        assert_said(stream, said);
    }
    let batches = batches(&bench);
    assert!(
        batches.contains(&BTreeSet::from([1, 2])),
        "the same set is one batch"
    );
    for batch in batches {
        let sets = [0, 1, 1, 2];
        let sets: BTreeSet<i32> = batch
            .iter()
            .map(|sequence| sets[*sequence as usize])
            .collect();
        assert_eq!(sets.len(), 1, "{batch:?}");
    }
}

#[test]
fn sets_take_turns_of_a_few_steps_and_none_waits_longer() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let long = "a long text to be said>";
    let mut streams: Vec<ReplyStream> = [&[][..], &[(0, 1.0)], &[(1, 1.0)], &[(2, 1.0)]]
        .iter()
        .map(|set| under(&bench, set, long))
        .collect();
    bench.run();
    streams.iter_mut().for_each(|stream| {
        assert_eq!(read(stream).reason, Some(FinishReason::Stop));
    });
    let turns: Vec<u32> = batches(&bench)
        .iter()
        .map(|batch| *batch.first().unwrap())
        .collect();
    // All four say as much, so they are there to the end.
    for (step, sequence) in turns.iter().enumerate().take(turns.len() - 16) {
        assert_eq!(*sequence, (step as u32 / 4) % 4, "step {step} of {turns:?}");
    }
}

/// Each short chat is under another set and done within its turn.
#[test]
fn new_sets_without_end_do_not_starve_an_old_one() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let mut old = under(&bench, &[(0, 1.0)], "a text of some length>");
    bench.step();
    let mut asked = Vec::new();
    for n in 1..2_000_u16 {
        if bench.shared.waiting() < 4 {
            asked.push(under(&bench, &[(1, f32::from(n))], "ab>"));
        }
        bench.step();
        if has_ended(&mut old) {
            // 23 steps of its own in six turns, and three others' turns between any two.
            assert!(n <= 23 + 6 * 3 * 4, "{n} steps");
            return;
        }
    }
    panic!("it starved");
}

#[test]
fn a_long_turn_is_over_by_time() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let _both = [
        under(&bench, &[], "some words>"),
        under(&bench, &[(0, 1.0)], "some words>"),
    ];
    for _ in 0..6 {
        bench.step();
        bench.now += Duration::from_millis(100);
    }
    let turns: Vec<u32> = batches(&bench)
        .iter()
        .map(|batch| *batch.first().unwrap())
        .collect();
    assert_eq!(turns, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn a_chat_alone_has_every_step() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let mut stream = under(&bench, &[(1, 1.0)], "abcdefgh>");
    assert_eq!(bench.run(), 9);
    assert_said(&mut stream, "ABCDEFGH");
}

/// It would keep those who are being answered under another set waiting.
#[test]
fn a_long_prompt_is_cut_while_another_set_is_being_answered() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let _talking = under(&bench, &[], "some words to say>");
    bench.step();
    let _reading = under(&bench, &[(0, 1.0)], &"x".repeat(200));
    while bench.last().count(1) == 0 {
        bench.step();
    }
    assert_eq!(bench.last().count(1), 16);
}

#[test]
fn what_was_computed_under_one_set_serves_no_other() {
    let sets: [&[(usize, f32)]; 4] = [&[], &[(0, 1.0)], &[(0, 0.5)], &[(1, 1.0)]];
    let prompt = format!("{}>", "s".repeat(150));
    let cost = |bench: &mut Bench, set: &[(usize, f32)]| {
        let mut stream = bench.ask_with(&prompt, |request| {
            request.adapters = AdapterSet::of(set.iter().copied());
            request.output_max = 1;
        });
        bench.run();
        let read = read(&mut stream);
        assert_eq!(read.text, if set.is_empty() { "s" } else { "S" });
        read.usage.cached_tokens.0
    };
    // In a slot each, and then in one, by way of saved states.
    let narrow = Shape {
        sequences: 1,
        ..SHAPE
    };
    for (shape, prefixes) in [(SHAPE, NO_PREFIXES), (narrow, PREFIXES)] {
        let mut bench = bench(shape, prefixes, Drafting::Off);
        for cached in [0, 150, 150] {
            for set in sets {
                assert_eq!(cost(&mut bench, set), cached, "{set:?}");
            }
        }
    }
}

#[test]
fn a_prompt_follows_none_that_is_under_another_set() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    let prompt = format!("{}>", "s".repeat(60));
    let mut streams = [
        under(&bench, &[(0, 1.0)], &prompt),
        under(&bench, &[], &prompt),
        under(&bench, &[(0, 1.0)], &prompt),
    ];
    bench.run();
    let cached = streams
        .each_mut()
        .map(|stream| read(stream).usage.cached_tokens.0);
    assert_eq!(cached, [0, 0, 60]);
}

#[test]
fn drafts_stay_within_their_set() {
    let mut bench = bench(SHAPE, NO_PREFIXES, drafts::FREE);
    let words = "ab ab ab ab ab ab ab ab";
    let mut streams = [
        under(&bench, &[], &format!("{words}>")),
        under(&bench, &[(0, 1.0)], &format!("{}>", words.to_uppercase())),
    ];
    bench.run();
    assert_said(&mut streams[0], words);
    assert_said(&mut streams[1], &words.to_uppercase());
    assert!(bench.shared.pulse.drafts().accepted > 0);
}

#[test]
fn a_full_cache_sets_back_across_sets_and_all_end() {
    let tight = Shape {
        kv_tokens: 256,
        ..SHAPE
    };
    let mut bench = bench(tight, NO_PREFIXES, Drafting::Off);
    let mut streams: Vec<ReplyStream> = (0..12)
        .map(|n| under(&bench, &[(n % 3, 1.0)], &format!("{}>", "w".repeat(60 + n))))
        .collect();
    bench.run();
    for (n, stream) in streams.iter_mut().enumerate() {
        assert_said(stream, &"W".repeat(60 + n));
    }
}

/// The oldest has no turn while its reader pauses; the others go on.
#[test]
fn a_paused_reader_keeps_no_turn() {
    let mut bench = bench(SHAPE, NO_PREFIXES, Drafting::Off);
    bench.events_max = 2;
    let mut paused = under(&bench, &[(0, 1.0)], "abcdefgh>");
    bench.events_max = 512;
    let mut other = under(&bench, &[], "some words>");
    bench.run();
    assert_said(&mut other, "some words");
    let mut text = String::new();
    while bench.running() > 0 {
        text.push_str(&read_some(&mut paused));
        bench.step();
    }
    text.push_str(&read_some(&mut paused));
    assert_eq!(text, "ABCDEFGH");
}

fn read_some(stream: &mut ReplyStream) -> String {
    let mut text = String::new();
    while let Some(Some(Ok(event))) = stream.next().now_or_never() {
        if let ChatEvent::Text { text: more, .. } = event {
            text.push_str(&more);
        }
    }
    text
}

#[test]
fn replies_beside_a_long_prompt_of_their_set_go_on_while_another_set_has_turns() {
    let shape = Shape {
        sequences: 3,
        kv_tokens: 2_048,
        context_tokens: 1_024,
        ..SHAPE
    };
    let mut bench = Bench::with(shape, |decoder| {
        decoder.adapters = vec![[1; 32]];
        decoder.attention_block = Some(17);
    });
    let _reply = under(&bench, &[], &format!("{}>", "r".repeat(60)));
    let _other = under(&bench, &[(0, 1.0)], &format!("{}>", "s".repeat(60)));
    while (0..2).any(|slot| bench.scheduler.slots[slot].pending() != 1) {
        bench.step();
    }
    let _long = under(&bench, &[], &format!("{}>", "x".repeat(600)));
    let held = bench.scheduler.slots[0].held;
    for _ in 0..40 {
        // A turn is over with each step.
        bench.now += Duration::from_millis(150);
        bench.step();
    }
    let said = bench.scheduler.slots[0].held - held;
    assert!((8..=14).contains(&said), "{said} of 40 steps");
    assert!(
        bench.scheduler.slots[2].held > 100,
        "and the prompt is read"
    );
}
