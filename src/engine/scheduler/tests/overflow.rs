//! Replies that go on beyond their context.

use super::*;
use crate::scheduler::tests::drafts::FREE;

const SMALL: Shape = Shape {
    sequences: 4,
    kv_tokens: 256,
    batch_tokens: 32,
    context_tokens: 64,
};

/// A letter that hangs on every token before it and its place: any that is missing, or too many,
/// shows in all that follow.
fn hash(tokens: &[i32]) -> i32 {
    let hash = tokens.iter().fold(7_i32, |hash, token| {
        hash.wrapping_mul(31).wrapping_add(*token)
    });
    i32::from(b'a') + hash.rem_euclid(26)
}

/// The alphabet, round and round: much of it can be drafted.
fn alphabet(tokens: &[i32]) -> i32 {
    let last = tokens.last().copied().unwrap_or_default();
    let a = i32::from(b'a');
    a + (last - a + 1).rem_euclid(26)
}

/// What is said of `prompt` in `output_max` tokens, and how many were dropped on the way.
fn told(script: fn(&[i32]) -> i32, prompt: &str, output_max: u32, context: u32) -> (String, u32) {
    let mut tokens: Vec<i32> = prompt.bytes().map(i32::from).collect();
    let (mut text, mut dropped) = (String::new(), 0);
    for _ in 0..output_max {
        if tokens.len() > context as usize {
            let keep = prompt.len().min(context as usize / 2);
            let older = (tokens.len() - keep).div_ceil(2);
            tokens.drain(keep..keep + older);
            dropped += older as u32;
        }
        let next = script(&tokens);
        text.push(char::from(u8::try_from(next).unwrap()));
        tokens.push(next);
    }
    (text, dropped)
}

fn ask_long(bench: &Bench, prompt: &str, output_max: u32) -> ReplyStream {
    bench.ask_with(prompt, |request| request.output_max = output_max)
}

fn assert_told(stream: &mut ReplyStream, expected: &(String, u32)) {
    let read = read(stream);
    assert_eq!(read.error, None);
    assert_eq!(read.text, expected.0);
    assert_eq!(read.usage.dropped_tokens.0, expected.1);
    assert_eq!(read.reason, Some(FinishReason::Length));
}

#[test]
fn a_reply_goes_on_without_its_oldest_part_and_says_so() {
    for is_recurrent in [false, true] {
        let mut bench = Bench::with(SMALL, |decoder| {
            decoder.script = Box::new(hash);
            decoder.is_recurrent = is_recurrent;
        });
        let mut stream = ask_long(&bench, "prompt>", 200);
        bench.run();
        let expected = told(hash, "prompt>", 200, 64);
        // Each time half of the 58 tokens after the prompt.
        assert_eq!(expected.1, 5 * 29);
        assert_told(&mut stream, &expected);
    }
}

#[test]
fn a_reply_that_ends_with_its_context_drops_nothing() {
    let mut bench = Bench::with(SMALL, |decoder| decoder.script = Box::new(hash));
    let mut stream = ask_long(&bench, "prompt>", 64 - 7 + 1);
    bench.run();
    assert_told(&mut stream, &told(hash, "prompt>", 64 - 7 + 1, 64));
    assert_eq!(told(hash, "prompt>", 64 - 7 + 1, 64).1, 0);
}

/// A prompt of more than half the context loses its own middle.
#[test]
fn a_long_prompt_is_kept_up_to_half_of_the_context() {
    let prompt = "p".repeat(60);
    let mut bench = Bench::with(SMALL, |decoder| decoder.script = Box::new(hash));
    let mut stream = ask_long(&bench, &prompt, 100);
    bench.run();
    assert_told(&mut stream, &told(hash, &prompt, 100, 64));
}

#[test]
fn what_was_dropped_is_no_prefix_of_anybodys() {
    let saving = PrefixRules {
        bytes_max: 1 << 20,
        ..NO_PREFIXES
    };
    let shape = Shape {
        context_tokens: 200,
        kv_tokens: 800,
        ..SMALL
    };
    for rules in [NO_PREFIXES, saving] {
        let mut bench = Bench::keeping(shape, rules, |decoder| decoder.script = Box::new(hash));
        let mut stream = ask_long(&bench, "prompt>", 300);
        bench.run();
        let said = read(&mut stream).text;
        // The same chat so far, anew: what stands after the gap was computed behind another text.
        let again = format!("prompt>{}", &said[..150]);
        for _ in 0..6 {
            let mut stream = ask_long(&bench, &again, 20);
            bench.run();
            let read = read(&mut stream);
            assert_eq!(read.text, told(hash, &again, 20, 200).0);
        }
    }
}

#[test]
fn chats_beyond_their_context_share_a_full_cache() {
    let shape = Shape {
        kv_tokens: 80,
        ..SMALL
    };
    let mut bench = Bench::with(shape, |decoder| decoder.script = Box::new(hash));
    let prompts = ["one>", "another>", "a third>"];
    let mut streams = prompts.map(|prompt| ask_long(&bench, prompt, 150));
    bench.run();
    for (stream, prompt) in streams.iter_mut().zip(prompts) {
        assert_told(stream, &told(hash, prompt, 150, 64));
    }
}

#[test]
fn a_batch_that_is_cut_short_drops_nothing_twice() {
    let mut bench = Bench::with(SMALL, |decoder| decoder.script = Box::new(hash));
    let mut stream = ask_long(&bench, "prompt>", 150);
    bench.run_until_talking();
    while bench.scheduler.slots[0].tokens.len() <= 64 {
        bench.step();
    }
    let interrupt = Arc::clone(&bench.shared.interrupt);
    bench.mishap(Mishap::At(3, Box::new(move || interrupt.raise())));
    bench.run();
    assert_told(&mut stream, &told(hash, "prompt>", 150, 64));
}

#[test]
fn drafts_keep_within_the_context() {
    let run = |drafting| {
        let mut bench = Bench::drafting(SMALL, drafting, |decoder| {
            decoder.script = Box::new(alphabet);
        });
        let mut stream = ask_long(&bench, "abcdefghijklmnopqrstuvwxyzab", 300);
        let steps = bench.run();
        assert_told(
            &mut stream,
            &told(alphabet, "abcdefghijklmnopqrstuvwxyzab", 300, 64),
        );
        steps
    };
    let (plain, drafted) = (run(Drafting::Off), run(FREE));
    assert!(drafted < plain, "{drafted} of {plain}");
}

proptest! {
    /// Whatever the sizes: the text is that of the tokens that are left, and its usage says what is not.
    #[test]
    fn replies_are_as_long_as_asked_for(
        context_tokens in 4_u32..80,
        chats in prop::collection::vec((0.0_f64..1.0, 1_u32..200), 1..5),
        spare in 0_u32..100,
    ) {
        let shape = Shape { context_tokens, kv_tokens: context_tokens + spare, ..SMALL };
        let mut bench = Bench::with(shape, |decoder| decoder.script = Box::new(hash));
        let mut asked = Vec::new();
        for (share, output_max) in chats {
            let length = 1 + (f64::from(context_tokens - 2) * share) as usize;
            let prompt = "p".repeat(length);
            asked.push((ask_long(&bench, &prompt, output_max), prompt, output_max));
        }
        bench.run();
        for (mut stream, prompt, output_max) in asked {
            assert_told(&mut stream, &told(hash, &prompt, output_max, context_tokens));
        }
    }
}
