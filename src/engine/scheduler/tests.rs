//! The scheduler, stepped by hand with a scripted decoder.

use std::collections::VecDeque;
use std::sync::Mutex;

use domain::{ChatEvent, FinishReason, Grammar, Sampling, Usage};
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;

use super::*;
use crate::adapters::AdapterSet;
use crate::fake::{FakeDecoder, FakeVocabulary, Mishap, Seen};
use crate::prefixes::Worth;
use crate::reply::{ReplyStream, reply};
use crate::sampler::Sampler;
use crate::voice::VoiceRules;

mod adapters;
mod drafts;
mod fair;
mod images;
mod overflow;
mod room;

const SHAPE: Shape = Shape {
    sequences: 4,
    kv_tokens: 1_024,
    batch_tokens: 64,
    context_tokens: 256,
};
const STALL: Duration = Duration::from_secs(10);
const NO_PREFIXES: PrefixRules = PrefixRules {
    scope: PrefixScope::Team,
    bytes_max: 0,
    dir: None,
    worth: Worth::Always,
};

mod prefixes;

/// A scheduler on the bench, with its clock.
struct Bench {
    scheduler: Scheduler<FakeDecoder>,
    shared: Arc<Shared>,
    mishaps: Arc<Mutex<VecDeque<Mishap>>>,
    log: Arc<Mutex<Vec<Seen>>>,
    now: Instant,
    events_max: usize,
}

/// What a reader has so far.
#[derive(Debug, Default, PartialEq)]
struct Read {
    text: String,
    reason: Option<FinishReason>,
    usage: Usage,
    error: Option<String>,
}

impl Bench {
    fn new(shape: Shape) -> Self {
        Self::with(shape, |_| ())
    }

    fn with(shape: Shape, change: impl FnOnce(&mut FakeDecoder)) -> Self {
        Self::made(shape, shape.sequences, NO_PREFIXES, Drafting::Off, change)
    }

    /// With `slots` regular slots among its sequences.
    fn of(shape: Shape, slots: u32, change: impl FnOnce(&mut FakeDecoder)) -> Self {
        Self::made(shape, slots, NO_PREFIXES, Drafting::Off, change)
    }

    fn keeping(shape: Shape, prefixes: PrefixRules, change: impl FnOnce(&mut FakeDecoder)) -> Self {
        Self::made(shape, shape.sequences, prefixes, Drafting::Off, change)
    }

    fn drafting(shape: Shape, drafting: Drafting, change: impl FnOnce(&mut FakeDecoder)) -> Self {
        Self::made(shape, shape.sequences, NO_PREFIXES, drafting, change)
    }

    fn made(
        shape: Shape,
        slots: u32,
        prefixes: PrefixRules,
        drafting: Drafting,
        change: impl FnOnce(&mut FakeDecoder),
    ) -> Self {
        let shared = Arc::new(Shared::new(64, slots));
        let mut decoder = FakeDecoder::new(shape, Arc::clone(&shared.interrupt));
        change(&mut decoder);
        let (mishaps, log) = (Arc::clone(&decoder.mishaps), Arc::clone(&decoder.log));
        let rules = Rules {
            busy_prompt: BusyPrompt::Tokens(16),
            stall_max: STALL,
            prefixes,
            drafting,
        };
        let vocabulary = Arc::new(FakeVocabulary::default());
        Self {
            scheduler: Scheduler::new(decoder, vocabulary, Arc::clone(&shared), rules),
            shared,
            mishaps,
            log,
            now: Instant::now(),
            events_max: 512,
        }
    }

    fn ask(&self, prompt: &str) -> ReplyStream {
        self.ask_with(prompt, |_| ())
    }

    fn ask_with(&self, prompt: &str, change: impl FnOnce(&mut Request)) -> ReplyStream {
        let interrupt = Arc::clone(&self.shared.interrupt);
        let (sender, stream) = reply(self.events_max, Arc::clone(&self.shared.bell), interrupt);
        let mut request = Request {
            team: None,
            priority: domain::Priority::default(),
            model: "fake".into(),
            adapters: AdapterSet::NONE,
            prompt: prompt.bytes().map(i32::from).collect(),
            images: Vec::new(),
            prediction: Vec::new(),
            output_max: self.scheduler.shape.context_tokens - prompt.len() as u32,
            sampler: Sampler::new(&Sampling::default(), 0.0, 0),
            grammar: None,
            rules: VoiceRules::default(),
            reply: sender,
        };
        change(&mut request);
        self.shared.submit(vec![request]).unwrap();
        stream
    }

    fn step(&mut self) -> Pace {
        self.scheduler.step(self.now)
    }

    /// Steps until there is nothing to do, and says how many steps did something.
    fn run(&mut self) -> usize {
        for steps in 0..10_000 {
            if self.step() != Pace::Busy {
                return steps;
            }
        }
        panic!("no end in sight");
    }

    /// Until the one chat there is has its first token.
    fn run_until_talking(&mut self) {
        while self.scheduler.slots[0].pending() != 1 {
            self.step();
        }
    }

    fn running(&self) -> usize {
        self.scheduler
            .slots
            .iter()
            .filter(|slot| slot.job.is_some())
            .count()
    }

    fn last(&self) -> Seen {
        self.log
            .lock()
            .unwrap()
            .last()
            .cloned()
            .expect("something was computed")
    }

    fn mishap(&self, mishap: Mishap) {
        self.mishaps.lock().unwrap().push_back(mishap);
    }
}

/// Reads all there is now, and checks it against the grammar.
fn read(stream: &mut ReplyStream) -> Read {
    let mut read = Read::default();
    let mut grammar = Grammar::default();
    while let Some(Some(event)) = stream.next().now_or_never() {
        match event {
            Ok(event) => {
                grammar.take(&event).expect("the stream obeys the grammar");
                match event {
                    ChatEvent::Text { text, .. } => read.text.push_str(&text),
                    ChatEvent::ChoiceEnded { reason, .. } => read.reason = Some(reason),
                    ChatEvent::Usage(usage) => read.usage = usage,
                    _ => {}
                }
            }
            Err(error) => read.error = Some(error.to_string()),
        }
    }
    read
}

fn has_ended(stream: &mut ReplyStream) -> bool {
    while let Some(Some(Ok(event))) = stream.next().now_or_never() {
        if matches!(event, ChatEvent::ChoiceEnded { .. }) {
            return true;
        }
    }
    false
}

fn assert_said(stream: &mut ReplyStream, text: &str) {
    let read = read(stream);
    assert_eq!(
        (read.text.as_str(), read.reason),
        (text, Some(FinishReason::Stop)),
        "{read:?}"
    );
}

#[test]
fn each_chat_gets_its_own_reply_out_of_one_batch() {
    let mut bench = Bench::new(SHAPE);
    let mut one = bench.ask("one>");
    let mut two = bench.ask("second>");
    bench.step();
    let seen = bench.last();
    assert_eq!((seen.count(0), seen.count(1)), (4, 7));
    bench.step();
    assert_eq!(bench.last().batch.len(), 2, "then one token each");
    bench.run();
    assert_said(&mut one, "one");
    assert_said(&mut two, "second");
    assert_eq!(bench.running(), 0);
}

#[test]
fn more_chats_than_slots_all_finish() {
    let mut bench = Bench::new(SHAPE);
    let mut streams: Vec<_> = (0..32).map(|n| bench.ask(&format!("chat {n}>"))).collect();
    bench.run();
    for (n, stream) in streams.iter_mut().enumerate() {
        assert_said(stream, &format!("chat {n}"));
    }
    assert_eq!(bench.shared.waiting(), 0);
}

#[test]
fn a_long_prompt_is_cut_smaller_while_another_talks() {
    let mut bench = Bench::new(SHAPE);
    let _talking = bench.ask("some words to say>");
    bench.step();
    let _reading = bench.ask(&"x".repeat(200));
    bench.step();
    assert_eq!((bench.last().count(0), bench.last().count(1)), (1, 16));
    drop(_talking);
    bench.step();
    assert_eq!(bench.last().count(1), 64, "alone, it gets the whole batch");
}

/// What each of two slots had in the next steps.
fn next_steps<const N: usize>(bench: &mut Bench) -> [(usize, usize); N] {
    std::array::from_fn(|_| {
        bench.step();
        (bench.last().count(0), bench.last().count(1))
    })
}

#[test]
fn large_steps_are_of_replies_or_of_prompts_in_turn() {
    for (block, steps) in [
        (17, [(0, 17), (1, 0), (0, 17), (1, 1), (1, 1), (1, 1)]),
        // Nearly as long as a block, a slice is as long.
        (20, [(0, 20), (1, 15), (1, 1), (1, 1), (1, 1), (1, 1)]),
        (24, [(1, 16), (1, 16), (1, 3), (1, 1), (1, 1), (1, 1)]),
    ] {
        let mut bench = Bench::with(SHAPE, |decoder| decoder.attention_block = Some(block));
        let _talking = bench.ask("a long reply, and longer>");
        bench.run_until_talking();
        let _reading = bench.ask(&format!("{}>", "x".repeat(34)));
        assert_eq!(next_steps(&mut bench), steps, "{block}");
    }
}

#[test]
fn a_prompt_in_a_step_of_its_own_takes_no_replys_room() {
    let mut bench = Bench::new(SHAPE);
    let _older = bench.ask(&format!("{}>", "o".repeat(200)));
    bench.step();
    let _younger = bench.ask("a short one>");
    while bench.scheduler.slots[1].pending() != 1 {
        bench.step();
    }
    let age = bench.scheduler.age(0);
    for (is_reading_apart, gives_way) in [(true, false), (false, true)] {
        bench.scheduler.shares.clear();
        bench.scheduler.is_reading_apart = is_reading_apart;
        assert_eq!(bench.scheduler.set_back_younger(age), gives_way);
    }
}

#[test]
fn an_older_prompt_gets_on_where_the_replies_have_no_room_left() {
    let shape = Shape {
        sequences: 2,
        kv_tokens: 2_117,
        context_tokens: 2_048,
        ..SHAPE
    };
    let mut bench = Bench::with(shape, |decoder| decoder.attention_block = Some(17));
    let mut older = bench.ask_with(&format!("{}>", "o".repeat(1_900)), |request| {
        request.output_max = 1;
    });
    let body = "y".repeat(150);
    let mut younger = bench.ask(&format!("{body}>"));
    bench.run();
    assert_eq!(read(&mut older).reason, Some(FinishReason::Length));
    assert_said(&mut younger, &body);
}

#[test]
fn replies_have_their_steps_where_no_prompt_can_be_read() {
    // Two of them fit beside each other, three do not.
    let shape = Shape {
        kv_tokens: 300,
        ..SHAPE
    };
    let mut bench = Bench::with(shape, |decoder| decoder.attention_block = Some(2));
    let bodies = ["a", "b", "c"].map(|letter| letter.repeat(80));
    let mut streams: Vec<_> = bodies
        .iter()
        .map(|body| bench.ask(&format!("{body}>")))
        .collect();
    let steps = bench.run();
    for (stream, body) in streams.iter_mut().zip(&bodies) {
        assert_said(stream, body);
    }
    assert!(steps < 300, "{steps} steps");
}

#[test]
fn the_output_bound_ends_a_reply_by_length() {
    let mut bench = Bench::new(SHAPE);
    let mut stream = bench.ask_with("abcdef>", |request| request.output_max = 3);
    bench.run();
    let read = read(&mut stream);
    assert_eq!(
        (read.text.as_str(), read.reason),
        ("abc", Some(FinishReason::Length))
    );
    assert_eq!(
        (read.usage.prompt_tokens.0, read.usage.completion_tokens.0),
        (7, 3)
    );
}

#[test]
fn a_stop_string_ends_a_reply_and_is_not_said() {
    let mut bench = Bench::new(SHAPE);
    let mut stream = bench.ask_with("ab STOP cd>", |request| {
        request.rules.stops = vec!["STOP".into()];
    });
    bench.run();
    assert_said(&mut stream, "ab ");
}

#[test]
fn characters_of_several_tokens_come_whole() {
    let mut bench = Bench::new(SHAPE);
    let mut stream = bench.ask("héé €🙂>");
    bench.run();
    assert_said(&mut stream, "héé €🙂");
}

#[test]
fn a_follow_up_computes_only_what_is_new() {
    let mut bench = Bench::new(SHAPE);
    drop(bench.ask("other words>"));
    let mut first = bench.ask("hello there>");
    bench.run();
    assert_said(&mut first, "hello there");
    let mut second = bench.ask("hello there>hello there, again");
    bench.step();
    assert_eq!(bench.last().batch.len(), 7);
    bench.run();
    assert_eq!(read(&mut second).usage.cached_tokens.0, 23);
}

/// Seen: the count of cached tokens told one team how much of another's prompt it had guessed.
#[test]
fn what_one_team_left_in_the_cache_serves_no_other() {
    let mut bench = Bench::new(SHAPE);
    for (team, cached) in [
        (Some("red"), 0),
        (Some("blue"), 0),
        (None, 0),
        (Some("red"), 3),
        (None, 3),
    ] {
        let mut stream = bench.ask_with("abc>", |request| request.team = team.map(Into::into));
        bench.run();
        let read = read(&mut stream);
        assert_eq!(
            (read.text.as_str(), read.usage.cached_tokens.0),
            ("abc", cached),
            "{team:?}"
        );
    }
}

#[test]
fn the_same_prompt_again_still_computes_its_last_token() {
    let mut bench = Bench::new(SHAPE);
    for cached in [0, 3] {
        let mut stream = bench.ask("abc>");
        bench.run();
        let read = read(&mut stream);
        assert_eq!(
            (read.text.as_str(), read.usage.cached_tokens.0),
            ("abc", cached)
        );
    }
}

/// How many tokens the decoder computed in all.
fn computed(bench: &Bench) -> usize {
    let log = bench.log.lock().unwrap();
    log.iter().map(|seen| seen.batch.len()).sum()
}

#[test]
fn a_prefix_that_another_slot_holds_is_shared_and_not_computed() {
    let mut bench = Bench::new(SHAPE);
    let system = "s".repeat(60);
    let mut first = bench.ask(&format!("{system}one>"));
    bench.run();
    let before = computed(&bench);
    // Both at once: one takes the slot that holds it, the other a copy.
    let mut second = bench.ask(&format!("{system}second>"));
    let mut third = bench.ask(&format!("{system}third>"));
    bench.step();
    assert_eq!(computed(&bench) - before, 7 + 6);
    bench.run();
    for (stream, said, cached) in [
        (&mut first, "one", 0),
        (&mut second, "second", 60),
        (&mut third, "third", 60),
    ] {
        let read = read(stream);
        assert_eq!(read.text, format!("{system}{said}"));
        assert_eq!(read.usage.cached_tokens.0, cached, "{said}");
    }
}

#[test]
fn prompts_that_begin_alike_wait_for_the_first_of_them() {
    let mut bench = Bench::new(SHAPE);
    let system = "s".repeat(150);
    let mut streams: Vec<_> = (0..4)
        .map(|n| bench.ask_with(&format!("{system}{n}>"), |request| request.output_max = 1))
        .collect();
    bench.run();
    // One computes the prefix, and nobody computes it again; each has its own two tokens.
    assert_eq!(computed(&bench), 150 + 4 * 2);
    let cached: Vec<u32> = streams
        .iter_mut()
        .map(|stream| read(stream).usage.cached_tokens.0)
        .collect();
    assert_eq!(cached, [0, 150, 150, 150]);
}

/// Seen: a prompt that goes on as another's reply does was read as fast as that reply was written.
#[test]
fn a_prompt_does_not_wait_for_a_reply_under_way() {
    let mut bench = Bench::new(SHAPE);
    let said = "s".repeat(100);
    let mut talking = bench.ask(&format!("{said}>"));
    bench.run_until_talking();
    let mut follows = bench.ask_with(&format!("{said}>{said}"), |request| request.output_max = 1);
    let mut steps = 0;
    while !has_ended(&mut follows) {
        bench.step();
        steps += 1;
        assert!(steps < 12, "it waits for every word");
    }
    assert!(computed(&bench) < 240, "the prompt's beginning is shared");
    bench.run();
    assert_said(&mut talking, &said);
}

#[test]
fn what_one_team_computes_is_not_shared_with_another_under_way() {
    let mut bench = Bench::new(SHAPE);
    let prompt = format!("{}>", "s".repeat(50));
    for team in ["red", "blue"] {
        drop(bench.ask_with(&prompt, |request| {
            request.team = Some(team.into());
        }));
    }
    let mut streams = ["red", "blue"].map(|team| {
        bench.ask_with(&prompt, |request| {
            request.team = Some(team.into());
            request.output_max = 1;
        })
    });
    bench.run();
    assert_eq!(computed(&bench), 2 * 51);
    assert!(
        streams
            .iter_mut()
            .all(|stream| read(stream).usage.cached_tokens.0 == 0)
    );
}

#[test]
fn the_leader_of_those_who_wait_may_leave() {
    let mut bench = Bench::new(SHAPE);
    let system = "s".repeat(150);
    let leader = bench.ask(&format!("{system}1>"));
    let mut follower = bench.ask_with(&format!("{system}2>"), |request| request.output_max = 1);
    bench.step();
    assert_eq!(bench.last().count(1), 0, "it waits");
    drop(leader);
    bench.run();
    assert_eq!(read(&mut follower).text, "s");
}

/// Seen: a prompt of more than one batch began anew in every step, for as long as another slot held
/// its beginning.
#[test]
fn a_memory_that_cannot_be_shared_is_computed_by_everybody() {
    let changes: [fn(&mut FakeDecoder); 3] = [
        |decoder| decoder.is_recurrent = true,
        |decoder| decoder.copy_window = 50,
        |decoder| decoder.failing_shares = 100,
    ];
    for change in changes {
        let mut bench = Bench::with(SHAPE, change);
        let system = "s".repeat(200);
        let mut streams: Vec<_> = (0..3)
            .map(|n| bench.ask_with(&format!("{system}{n}>"), |request| request.output_max = 9))
            .collect();
        // Each its prompt and eight tokens, and what a share that failed threw away.
        let steps = bench.run();
        assert!(steps < 60, "{steps}");
        for stream in &mut streams {
            assert_eq!(read(stream).text, "s".repeat(9));
        }
    }
}

/// Seen: where sequences have cells of their own, all that a long chat held was copied for the sake of
/// a few tokens.
#[test]
fn a_beginning_is_computed_where_copying_takes_longer() {
    let prefixes = PrefixRules {
        worth: Worth::Measured,
        ..NO_PREFIXES
    };
    for (share_bytes, cached) in [(0, 60), (usize::MAX, 0)] {
        let mut bench = Bench::keeping(SHAPE, prefixes.clone(), |decoder| {
            decoder.share_bytes = share_bytes;
        });
        let system = "s".repeat(60);
        let _talking = bench.ask(&format!("{system}one>"));
        bench.run_until_talking();
        let mut second = bench.ask_with(&format!("{system}2>"), |request| request.output_max = 1);
        while !has_ended(&mut second) {
            bench.step();
        }
        let slots = &bench.scheduler.slots;
        assert_eq!(slots[1].held, 62);
        let batched: usize = bench
            .log
            .lock()
            .unwrap()
            .iter()
            .map(|seen| seen.count(1))
            .sum();
        assert_eq!(62 - batched, cached);
    }
}

#[test]
fn a_copy_within_the_window_is_shared() {
    let mut bench = Bench::with(SHAPE, |decoder| decoder.copy_window = 120);
    let system = "s".repeat(100);
    let mut streams: Vec<_> = (0..3)
        .map(|n| bench.ask_with(&format!("{system}{n}>"), |request| request.output_max = 1))
        .collect();
    bench.run();
    assert_eq!(computed(&bench), 100 + 3 * 2);
    for stream in &mut streams {
        assert_eq!(read(stream).text, "s");
    }
}

#[test]
fn the_shortest_prompt_goes_first_and_none_waits_for_ever() {
    let mut bench = Bench::new(SHAPE);
    let _talking = bench.ask(&format!("{}>", "t".repeat(100)));
    bench.run_until_talking();
    let mut long = bench.ask_with(&"x".repeat(100), |request| request.output_max = 1);
    bench.step();
    assert_eq!(bench.last().count(1), 16, "nobody else is there");
    // One short prompt after the other: each is computed before the rest of the long one.
    let mut steps = 0;
    while !has_ended(&mut long) {
        let letter = char::from(b'a' + steps % 20);
        let _short = bench.ask(&String::from(letter).repeat(16));
        bench.step();
        steps += 1;
        assert!(steps < 90, "the long one starves");
    }
    assert!(steps > 6, "it gave way: {steps}");
}

#[test]
fn prompts_of_one_length_are_read_one_after_the_other() {
    let mut bench = Bench::new(SHAPE);
    let _talking = bench.ask(&format!("{}>", "t".repeat(100)));
    bench.run_until_talking();
    let ask = |bench: &mut Bench, letter: &str| {
        bench.ask_with(&letter.repeat(96), |request| request.output_max = 1)
    };
    let mut first = ask(&mut bench, "a");
    let mut second = ask(&mut bench, "b");
    let mut steps = 0;
    while !has_ended(&mut first) {
        bench.step();
        steps += 1;
    }
    assert!(!has_ended(&mut second));
    assert!(steps <= 96 / 16 + 1, "{steps} steps for six slices");
}

#[test]
fn a_memory_that_cannot_be_cut_is_computed_anew() {
    let mut bench = Bench::with(SHAPE, |decoder| decoder.is_recurrent = true);
    for _ in 0..2 {
        let mut stream = bench.ask("abc>");
        bench.run();
        let read = read(&mut stream);
        assert_eq!((read.text.as_str(), read.usage.cached_tokens.0), ("abc", 0));
    }
}

#[test]
fn a_dropped_stream_frees_its_slot_within_one_step() {
    let mut bench = Bench::new(SHAPE);
    let stream = bench.ask("words that go on>");
    bench.step();
    assert_eq!(bench.running(), 1);
    drop(stream);
    assert_eq!(bench.step(), Pace::Idle(None));
    assert_eq!(bench.running(), 0);
}

#[test]
fn a_stream_dropped_while_waiting_is_never_computed() {
    let mut bench = Bench::new(SHAPE);
    drop(bench.ask("abc>"));
    assert_eq!(bench.run(), 0);
    assert!(bench.log.lock().unwrap().is_empty());
}

/// The reader of a long prompt leaves in mid-decode: the batch ends early, and the others lose
/// nothing but time.
fn leave_in_mid_prompt(is_recurrent: bool) {
    let mut bench = Bench::with(SHAPE, |decoder| decoder.is_recurrent = is_recurrent);
    let mut first = bench.ask("first>");
    bench.step();
    let mut second = bench.ask("the second>");
    // Both smaller than a weighty share, so only the third's leaving interrupts.
    bench.scheduler.rules.busy_prompt = BusyPrompt::Tokens(60);
    let long = bench.ask(&"x".repeat(200));
    bench.mishap(Mishap::At(5, Box::new(move || drop(long))));
    bench.step();
    assert_eq!(bench.last().decoded, Decoded::Aborted);
    bench.step();
    assert_eq!(bench.running(), 2, "the leaver is gone a step later");
    bench.run();
    assert_said(&mut first, "first");
    assert_said(&mut second, "the second");
}

#[test]
fn leaving_in_mid_prompt_cuts_the_batch_short_and_harms_nobody() {
    leave_in_mid_prompt(false);
}

#[test]
fn leaving_in_mid_prompt_harms_nobody_whose_memory_cannot_be_cut() {
    leave_in_mid_prompt(true);
}

#[test]
fn leaving_with_a_single_token_in_the_batch_does_not_disturb_it() {
    let mut bench = Bench::new(SHAPE);
    let (mut stays, leaves) = (bench.ask("stays>"), bench.ask("leaves>"));
    bench.step();
    bench.mishap(Mishap::At(1, Box::new(move || drop(leaves))));
    bench.step();
    assert_eq!(bench.last().decoded, Decoded::Done);
    bench.run();
    assert_said(&mut stays, "stays");
}

#[test]
fn a_slow_reader_pauses_only_its_own_slot() {
    let mut bench = Bench::new(SHAPE);
    bench.events_max = 4;
    let mut slow = bench.ask("slow reader here>");
    bench.events_max = 512;
    let mut quick = bench.ask("quick reader there>");
    bench.run();
    assert_said(&mut quick, "quick reader there");
    assert_eq!(bench.running(), 1, "the slow one waits");
    let computed = bench.log.lock().unwrap().len();
    bench.step();
    assert_eq!(
        bench.log.lock().unwrap().len(),
        computed,
        "and nothing is computed for it"
    );
    let mut text = String::new();
    while bench.running() > 0 {
        text.push_str(&read_some(&mut slow));
        bench.run();
    }
    text.push_str(&read_some(&mut slow));
    assert_eq!(text, "slow reader here");
}

/// Seen: where the cache was full, those who were younger than a chat whose reader had stopped reading
/// waited until that reader had stalled for too long.
#[test]
fn a_paused_reader_gives_up_its_room_before_others_wait_for_it() {
    let shape = Shape {
        sequences: 2,
        kv_tokens: 240,
        context_tokens: 240,
        ..SHAPE
    };
    let mut bench = Bench::with(shape, |decoder| {
        decoder.script = Box::new(|tokens| (b'a' + (tokens.len() % 26) as u8).into());
    });
    bench.events_max = 60;
    let mut slow = bench.ask(&"y".repeat(20));
    bench.events_max = 512;
    let mut quick = bench.ask(&"z".repeat(20));
    bench.run();
    let read = read(&mut quick);
    assert_eq!(
        (read.text.len(), read.reason),
        (220, Some(FinishReason::Length))
    );
    // And goes on where it was.
    let mut text = String::new();
    while bench.running() > 0 {
        text.push_str(&read_some(&mut slow));
        bench.run();
    }
    text.push_str(&read_some(&mut slow));
    assert_eq!(text, read.text);
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
fn a_reader_that_takes_nothing_for_too_long_loses_its_slot() {
    let mut bench = Bench::new(SHAPE);
    bench.events_max = 2;
    let mut stream = bench.ask("nobody reads this>");
    bench.run();
    let stalled = bench.now;
    assert_eq!(bench.step(), Pace::Idle(Some(stalled + STALL)));
    bench.now = stalled + STALL - Duration::from_millis(1);
    bench.step();
    assert_eq!(bench.running(), 1);
    bench.now = stalled + STALL;
    bench.step();
    assert_eq!(bench.running(), 0);
    let read = read(&mut stream);
    assert_eq!(read.text, "n", "what was sent before still comes");
    assert!(
        read.error
            .is_some_and(|error| error.contains("stall limit"))
    );
}

#[test]
fn reading_something_starts_the_stall_clock_anew() {
    let mut bench = Bench::new(SHAPE);
    bench.events_max = 2;
    let mut stream = bench.ask("read now and then>");
    for _ in 0..5 {
        bench.run();
        bench.now += STALL / 2;
        assert!(stream.next().now_or_never().is_some());
    }
    bench.step();
    assert_eq!(bench.running(), 1);
}

#[test]
fn the_cache_never_overflows_and_everybody_finishes() {
    // Four chats of up to 98 tokens in a cache of 128: the decoder's own check is the proof.
    let shape = Shape {
        kv_tokens: 128,
        context_tokens: 128,
        ..SHAPE
    };
    let mut bench = Bench::new(shape);
    let prompts: Vec<String> = (0..9)
        .map(|n| format!("{n}{}", "abcdefg".repeat(6)))
        .collect();
    let mut streams: Vec<_> = prompts
        .iter()
        .map(|prompt| bench.ask(&format!("{prompt}>")))
        .collect();
    bench.run();
    for (stream, prompt) in streams.iter_mut().zip(&prompts) {
        assert_said(stream, prompt);
    }
}

#[test]
fn the_youngest_is_set_back_when_the_room_is_used_up() {
    let shape = Shape {
        kv_tokens: 300,
        context_tokens: 256,
        sequences: 2,
        ..SHAPE
    };
    let mut bench = Bench::new(shape);
    let (older, younger) = ("y".repeat(80), "z".repeat(80));
    let (mut old, mut young) = (
        bench.ask(&format!("{older}>")),
        bench.ask(&format!("{younger}>")),
    );
    bench.run();
    let is_set_back = bench
        .log
        .lock()
        .unwrap()
        .iter()
        .filter(|seen| {
            seen.batch
                .iter()
                .any(|entry| entry.sequence == 1 && entry.position == 0)
        })
        .count();
    assert_eq!(is_set_back, 2, "the young one was computed twice");
    assert_said(&mut old, &older);
    assert_said(&mut young, &younger);
}

#[test]
fn a_cache_smaller_than_counted_ends_one_chat_and_not_the_engine() {
    let mut bench = Bench::new(SHAPE);
    let mut stream = bench.ask("abc>");
    bench.mishap(Mishap::NoRoom);
    bench.run();
    assert!(read(&mut stream).error.is_some());
    let mut next = bench.ask("def>");
    bench.run();
    assert_said(&mut next, "def");
}

#[test]
fn a_failed_computation_ends_its_chats_and_the_next_one_works() {
    let mut bench = Bench::new(SHAPE);
    let mut paused = {
        bench.events_max = 4;
        bench.ask("paused>")
    };
    bench.run();
    bench.events_max = 512;
    let mut failed = bench.ask("failed>");
    bench.mishap(Mishap::Fail);
    bench.run();
    assert!(read(&mut failed).error.is_some());
    // The one that was not in the batch lost its cache and is computed again.
    let mut text = read_some(&mut paused);
    bench.run();
    text.push_str(&read_some(&mut paused));
    assert_eq!(text, "paused");
    assert_eq!(
        bench.shared.health().state,
        HealthState::Starting,
        "untouched"
    );
}

#[test]
fn failing_again_and_again_is_being_down() {
    down();
}

/// Seen: down once, the engine was down until the next start.
#[test]
fn one_chat_that_works_ends_being_down() {
    let mut bench = down();
    let mut stream = bench.ask("abc>");
    bench.run();
    assert_said(&mut stream, "abc");
    assert_eq!(bench.shared.health().state, HealthState::Ready);
}

#[test]
fn being_down_ends_by_itself_and_one_more_failure_brings_it_back() {
    let mut bench = down();
    assert_eq!(bench.step(), Pace::Idle(Some(bench.now + COOL_OFF)));
    bench.now += COOL_OFF;
    assert_eq!(bench.step(), Pace::Idle(None));
    assert_eq!(bench.shared.health().state, HealthState::Ready);
    let _stream = bench.ask("abc>");
    bench.mishap(Mishap::Fail);
    bench.run();
    assert_eq!(bench.shared.health().state, HealthState::Down);
}

fn down() -> Bench {
    let mut bench = Bench::new(SHAPE);
    for _ in 0..FAILURES_MAX {
        let _stream = bench.ask("abc>");
        bench.mishap(Mishap::Fail);
        bench.run();
    }
    assert_eq!(bench.shared.health().state, HealthState::Down);
    bench
}

#[test]
fn stopping_ends_everybody_even_in_mid_prompt() {
    let mut bench = Bench::new(Shape {
        sequences: 1,
        ..SHAPE
    });
    let (mut running, mut waiting) = (bench.ask(&"x".repeat(200)), bench.ask("abc>"));
    let shared = Arc::clone(&bench.shared);
    bench.mishap(Mishap::At(3, Box::new(move || shared.stop())));
    bench.step();
    assert_eq!(bench.last().decoded, Decoded::Aborted);
    assert_eq!(bench.step(), Pace::Stopped);
    assert!(read(&mut running).error.is_some());
    assert!(read(&mut waiting).error.is_some());
    assert_eq!(bench.shared.health().state, HealthState::Down);
}

#[test]
fn the_queue_waits_for_room_and_not_only_for_a_slot() {
    let shape = Shape {
        kv_tokens: 256,
        ..SHAPE
    };
    let mut bench = Bench::new(shape);
    let _big = bench.ask(&format!("{}>", "a".repeat(100)));
    let _second = bench.ask(&format!("{}>", "b".repeat(100)));
    bench.step();
    assert_eq!((bench.running(), bench.shared.waiting()), (1, 1));
}

proptest! {
    /// Whatever happens to whom, every reader that stays gets exactly its own reply.
    #[test]
    fn chaos_changes_nobody_elses_reply(
        chats in prop::collection::vec((1_usize..70, 0_usize..40, any::<bool>(), 1_usize..40), 1..12),
        shared in 0_usize..120,
        kv_tokens in 400_u32..900,
        prefix_bytes_max in 0_usize..6_000,
        has_drafts in any::<bool>(),
        memory in 0..4,
        attention_block in prop::option::of(2_u32..30),
    ) {
        let (is_recurrent, has_copies) = (memory == 2, memory == 3);
        // Cells of each sequence's own are a whole context of them.
        let kv_tokens = if has_copies { 1_200 } else { kv_tokens };
        let shape = Shape { kv_tokens, context_tokens: 400, batch_tokens: 32, sequences: 3 };
        let drafting = if has_drafts { drafts::FREE } else { Drafting::Off };
        let prefixes = PrefixRules { bytes_max: prefix_bytes_max, ..NO_PREFIXES };
        let mut bench = Bench::made(shape, shape.sequences, prefixes, drafting, |decoder| {
            decoder.is_recurrent = is_recurrent;
            decoder.copy_window = if has_copies { 100 } else { 0 };
            decoder.attention_block = attention_block;
        });
        let mut staying = Vec::new();
        for (n, (length, pause, leaves, events_max)) in chats.into_iter().enumerate() {
            let letter = char::from(b'a' + u8::try_from(n).unwrap());
            // Some begin alike, so that prefixes are shared and waited for.
            let body = "p".repeat(shared) + &String::from(letter).repeat(length);
            bench.events_max = if leaves { 512 } else { events_max };
            let stream = bench.ask(&format!("{body}>"));
            if leaves {
                bench.mishap(Mishap::At(0, Box::new(move || drop(stream))));
            } else {
                staying.push((stream, body, String::new()));
            }
            for _ in 0..pause {
                bench.step();
            }
        }
        for _ in 0..10_000 {
            bench.step();
            for (stream, _, text) in &mut staying {
                text.push_str(&read_some(stream));
            }
            if bench.running() + bench.shared.waiting() == 0 {
                break;
            }
        }
        for (_, body, text) in staying {
            prop_assert_eq!(text, body);
        }
    }
}
