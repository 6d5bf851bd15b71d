//! Several teams at one engine.

use domain::Priority;

use super::*;

const SLOTS: u32 = 2;
/// With two spare sequences.
const CROWD: Shape = Shape {
    sequences: SLOTS + 2,
    ..SHAPE
};

fn bench(shape: Shape) -> Bench {
    Bench::of(shape, SLOTS, |_| ())
}

fn ask(bench: &Bench, team: &str, prompt: &str) -> ReplyStream {
    ask_as(bench, Priority::Interactive, team, prompt)
}

fn ask_as(bench: &Bench, priority: Priority, team: &str, prompt: &str) -> ReplyStream {
    bench.ask_with(prompt, |request| {
        request.team = Some(team.into());
        request.priority = priority;
    })
}

/// A prompt, and a reply nearly as long, that no other `nth` begins like.
fn long(nth: usize) -> String {
    let letter = char::from(b'A' + u8::try_from(nth % 26).unwrap());
    format!("{}>", String::from(letter).repeat(80))
}

/// Steps until the stream has text.
fn steps_to_text(bench: &mut Bench, stream: &mut ReplyStream) -> usize {
    for steps in 1..1_000 {
        bench.step();
        if !read_some(stream).is_empty() {
            return steps;
        }
    }
    panic!("it never speaks");
}

/// How many tokens of each of two letters were computed: prompts and replies are made of them.
fn computed_of(bench: &Bench, is_counted: impl Fn(u8) -> bool) -> usize {
    let log = bench.log.lock().unwrap();
    let entries = log.iter().flat_map(|seen| &seen.batch);
    let bytes = entries.filter_map(|entry| u8::try_from(entry.token).ok());
    bytes.filter(|byte| is_counted(*byte)).count()
}

#[test]
fn the_first_of_a_team_speaks_in_the_step_after_it_came() {
    let mut bench = bench(CROWD);
    let _many: Vec<_> = (0..20).map(|nth| ask(&bench, "many", &long(nth))).collect();
    // At any time: while prompts are read, while replies go on, after others have waited.
    for steps in [1, 2, 7, 30, 55] {
        (0..steps).for_each(|_| _ = bench.step());
        assert!(bench.shared.waiting() > 0 && bench.running() >= SLOTS as usize);
        let mut one = ask(&bench, "one", "a short question>");
        assert_eq!(steps_to_text(&mut bench, &mut one), 1, "after {steps}");
        drop(one);
    }
}

#[test]
fn many_firsts_at_once_come_one_a_step() {
    let mut bench = bench(CROWD);
    let _talking = ask(&bench, "talking", &format!("{}>", "t".repeat(100)));
    bench.run_until_talking();
    let _firsts: Vec<_> = ["one", "two", "three"]
        .iter()
        .enumerate()
        .map(|(nth, team)| ask(&bench, team, &long(nth)[54..]))
        .collect();
    bench.step();
    assert_eq!(bench.running(), 4);
    // Twice a slice, and the one who talks.
    assert!(
        bench.last().batch.len() <= 33,
        "{}",
        bench.last().batch.len()
    );
    bench.step();
    assert!(
        bench.last().batch.len() <= 34,
        "{}",
        bench.last().batch.len()
    );
}

#[test]
fn the_second_of_a_team_waits_its_turn() {
    let mut bench = bench(CROWD);
    let _many: Vec<_> = (0..8).map(|nth| ask(&bench, "many", &long(nth))).collect();
    bench.step();
    let _first = ask(&bench, "one", &long(20));
    let mut second = ask(&bench, "one", "me too>");
    let _batch = ask_as(&bench, Priority::Batch, "two", "no hurry>");
    bench.step();
    assert_eq!(bench.running(), SLOTS as usize + 1);
    assert!(read_some(&mut second).is_empty());
    // And gets it, before those of the team that had more.
    bench.run();
    assert_said(&mut second, "me too");
}

#[test]
fn a_long_prompt_of_the_first_of_a_team_has_every_other_step() {
    let shape = Shape {
        sequences: 8,
        ..SHAPE
    };
    let mut bench = Bench::of(shape, 6, |_| ());
    let _talking = ask(&bench, "many", &format!("{}>", "t".repeat(100)));
    bench.run_until_talking();
    // Each is shorter than the one's, and takes six steps.
    let _many: Vec<_> = (0..5).map(|nth| ask(&bench, "many", &long(nth))).collect();
    bench.step();
    let mut one = ask(&bench, "one", &format!("{}>", "o".repeat(119)));
    // Eight slices, and at most as many between them.
    let steps = steps_to_text(&mut bench, &mut one);
    assert!((8..=17).contains(&steps), "{steps}");
}

#[test]
fn long_prompts_are_read_though_firsts_of_teams_keep_coming() {
    let mut bench = bench(CROWD);
    let _talking = ask(&bench, "many", &format!("{}>", "t".repeat(120)));
    bench.run_until_talking();
    let mut reader = bench.ask_with(&"x".repeat(200), |request| {
        request.team = Some("many".into());
        request.output_max = 1;
    });
    let mut steps = 0;
    while !has_ended(&mut reader) {
        let team = format!("team {}", steps % 7);
        let asked = bench.ask_with(&long(steps)[..30], |request| {
            request.team = Some(team.as_str().into());
            request.output_max = 1;
        });
        bench.step();
        drop(asked);
        steps += 1;
        assert!(steps < 150, "the long one starves");
    }
    // It takes thirteen alone.
    assert!(steps > 20, "it gave way: {steps}");
}

#[test]
fn in_a_full_cache_the_first_of_a_team_is_made_room_for_and_everybody_ends() {
    let shape = Shape {
        kv_tokens: 300,
        context_tokens: 240,
        ..CROWD
    };
    let mut bench = bench(shape);
    let mut many: Vec<_> = (0..4).map(|nth| ask(&bench, "many", &long(nth))).collect();
    while bench.running() < SLOTS as usize || bench.scheduler.slots[1].held < 90 {
        bench.step();
        assert!(bench.shared.waiting() > 0);
    }
    let mut one = ask(&bench, "one", "a short question>");
    assert_eq!(steps_to_text(&mut bench, &mut one), 1);
    assert!(bench.scheduler.slots.iter().any(|slot| slot.is_set_back));
    bench.run();
    for (nth, stream) in many.iter_mut().enumerate() {
        assert_said(stream, long(nth).trim_end_matches('>'));
    }
    assert_eq!(bench.running(), 0);
}

/// Seen: nobody but the oldest of all may set the first of a team back, and that one was paused.
#[test]
fn the_oldest_who_reads_counts_as_the_oldest() {
    let shape = Shape {
        kv_tokens: 240,
        context_tokens: 240,
        ..CROWD
    };
    let mut bench = Bench::of(shape, SLOTS, |decoder| {
        decoder.script = Box::new(|_| b'x'.into());
    });
    bench.events_max = 8;
    let _paused = ask(&bench, "many", "paused");
    bench.events_max = 512;
    let mut older = ask(&bench, "one", "older");
    let mut younger = ask(&bench, "two", "younger");
    bench.run();
    for stream in [&mut older, &mut younger] {
        assert_eq!(read(stream).reason, Some(FinishReason::Length));
    }
}

/// Seen: each counted what the other was going to take, and neither ever began again.
#[test]
fn two_firsts_that_were_set_back_come_to_their_end() {
    let shape = Shape {
        kv_tokens: 240,
        context_tokens: 240,
        ..CROWD
    };
    let mut bench = Bench::of(shape, SLOTS, |decoder| {
        decoder.script = Box::new(|_| b'x'.into());
    });
    let mut all = ["one", "two", "three"].map(|team| ask(&bench, team, team));
    bench.run();
    for stream in &mut all {
        assert_eq!(read(stream).reason, Some(FinishReason::Length));
    }
}

/// Two teams that each keep one chat under way leave no moment without one.
#[test]
fn a_chat_that_was_set_back_is_not_overtaken_for_ever() {
    let shape = Shape {
        kv_tokens: 300,
        context_tokens: 240,
        ..CROWD
    };
    let mut bench = bench(shape);
    let mut set_back = ask(&bench, "many", &format!("{}>", "s".repeat(100)));
    while bench.scheduler.slots[0].held < 170 {
        bench.step();
    }
    let short = |nth: usize| long(nth)[30..].to_owned();
    let mut streams = vec![("one", ask(&bench, "one", &short(0)))];
    (0..20).for_each(|_| _ = bench.step());
    bench.scheduler.set_back(0);
    streams.push(("two", ask(&bench, "two", &short(1))));
    let mut steps = 0;
    while !has_ended(&mut set_back) {
        bench.step();
        steps += 1;
        assert!(steps < 2_000, "it never begins again");
        for (team, stream) in &mut streams {
            if has_ended(stream) {
                *stream = ask(&bench, team, &short(steps));
            }
        }
    }
    assert!(steps > 100, "it gave way: {steps}");
}

/// Seen: of a chat that was set back for the first of a team nothing was saved.
#[test]
fn what_gives_way_to_the_first_of_a_team_is_saved() {
    let shape = Shape {
        kv_tokens: 300,
        context_tokens: 240,
        ..CROWD
    };
    let prefixes = PrefixRules {
        bytes_max: 1 << 20,
        ..NO_PREFIXES
    };
    let mut saves = Arc::default();
    let mut bench = Bench::made(shape, SLOTS, prefixes, Drafting::Off, |decoder| {
        saves = Arc::clone(&decoder.saves);
    });
    let _many: Vec<_> = (0..4).map(|nth| ask(&bench, "many", &long(nth))).collect();
    while bench.running() < SLOTS as usize || bench.scheduler.slots[1].held < 90 {
        bench.step();
    }
    let _one = ask(&bench, "one", "a short question>");
    bench.step();
    assert!(bench.scheduler.slots[1].is_set_back);
    assert_eq!(saves.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn the_first_of_a_team_does_not_give_way_to_that_of_another() {
    let shape = Shape {
        sequences: 4,
        kv_tokens: 400,
        context_tokens: 240,
        ..SHAPE
    };
    let mut bench = Bench::of(shape, 3, |_| ());
    let _oldest = ask(&bench, "many", &long(0)[30..]);
    let _second = ask_as(&bench, Priority::Batch, "some", &long(1)[30..]);
    bench.step();
    let _first = ask(&bench, "some", &long(2)[30..]);
    while bench.scheduler.slots[2].pending() != 1 {
        bench.step();
    }
    assert!(bench.scheduler.is_first(2));
    let _new = ask(&bench, "one", &long(3));
    bench.step();
    assert_eq!(bench.running(), 4);
    let is_set_back = [1, 2].map(|slot| bench.scheduler.slots[slot].is_set_back);
    assert_eq!(is_set_back, [true, false]);
}

#[test]
fn where_several_teams_ask_a_batch_of_prompts_is_short() {
    let mut bench = bench(CROWD);
    let alone = ask(&bench, "many", &"x".repeat(200));
    bench.step();
    assert_eq!(bench.last().batch.len(), 64, "the whole batch");
    drop(alone);
    bench.run();
    drop(ask(&bench, "one", "somebody else>"));
    bench.run();
    let _again = ask(&bench, "many", &"y".repeat(200));
    bench.step();
    assert_eq!(bench.last().batch.len(), 32);
}

#[test]
fn a_team_that_is_new_does_not_wait_for_the_batch_under_way() {
    let mut bench = bench(CROWD);
    let mut alone = ask(&bench, "many", &long(0));
    let shared = Arc::clone(&bench.shared);
    let (sender, mut newcomer) = reply(64, Arc::clone(&shared.bell), Arc::clone(&shared.interrupt));
    let request = Request {
        team: Some("one".into()),
        priority: Priority::Interactive,
        model: "m".into(),
        adapters: AdapterSet::NONE,
        prompt: b"hello>".iter().copied().map(i32::from).collect(),
        images: Vec::new(),
        prediction: Vec::new(),
        output_max: 9,
        sampler: Sampler::new(&Sampling::default(), 0.0, 0),
        grammar: None,
        rules: VoiceRules::default(),
        reply: sender,
    };
    let submit = move || shared.submit(vec![request]).unwrap();
    bench.mishap(Mishap::At(20, Box::new(submit)));
    bench.step();
    assert_eq!(bench.last().decoded, Decoded::Aborted);
    bench.step();
    assert!(!read_some(&mut newcomer).is_empty());
    bench.run();
    assert_said(&mut alone, long(0).trim_end_matches('>'));
}

#[test]
fn teams_share_the_engine_by_tokens() {
    let mut bench = bench(CROWD);
    // Requests of one team are seven times as long as the other's.
    let _long: Vec<_> = (0..12)
        .map(|_| ask(&bench, "long", &format!("{}>", "L".repeat(105))))
        .collect();
    let _short: Vec<_> = (0..50)
        .map(|_| ask(&bench, "short", &format!("{}>", "s".repeat(15))))
        .collect();
    for _ in 0..600 {
        bench.step();
    }
    assert!(bench.shared.waiting() > 0, "both still wait");
    let long = computed_of(&bench, |byte| byte == b'L');
    let short = computed_of(&bench, |byte| byte == b's');
    let part = long as f64 / (long + short) as f64;
    assert!((0.4..0.6).contains(&part), "{long} and {short}");
}

#[test]
fn those_who_leave_while_waiting_cost_their_team_nothing() {
    let mut bench = bench(CROWD);
    let _many: Vec<_> = (0..6).map(|nth| ask(&bench, "many", &long(nth))).collect();
    bench.step();
    for nth in 0..30 {
        drop(ask(&bench, "one", &long(nth)));
        bench.step();
    }
    let mut stays = ask(&bench, "one", "still here>");
    assert_eq!(steps_to_text(&mut bench, &mut stays), 1);
}

proptest! {
    /// Whoever they are and whoever leaves, all that stays is answered, and every seat comes back.
    #[test]
    fn all_that_is_asked_ends(
        asks in prop::collection::vec(
            (0_usize..4, any::<bool>(), 1_usize..90, 0_usize..30, any::<bool>()),
            1..40,
        ),
        kv_tokens in 240_u32..500,
    ) {
        let shape = Shape { kv_tokens, context_tokens: 240, batch_tokens: 32, ..CROWD };
        let mut bench = bench(shape);
        let mut staying = Vec::new();
        for (nth, (team, is_batch, length, pause, leaves)) in asks.into_iter().enumerate() {
            let letter = char::from(b'a' + u8::try_from(nth % 26).unwrap());
            let body = String::from(letter).repeat(length);
            let priority = if is_batch { Priority::Batch } else { Priority::Interactive };
            let team = ["red", "green", "blue", "white"][team];
            let stream = ask_as(&bench, priority, team, &format!("{body}>"));
            if leaves {
                bench.mishap(Mishap::At(0, Box::new(move || drop(stream))));
            } else {
                staying.push((stream, body));
            }
            for _ in 0..pause {
                bench.step();
            }
        }
        bench.run();
        for (stream, body) in &mut staying {
            prop_assert_eq!(&read(stream).text, body);
        }
        prop_assert_eq!(bench.shared.waiting(), 0);
        prop_assert!(bench.scheduler.seats.iter().all(Option::is_none));
    }
}
