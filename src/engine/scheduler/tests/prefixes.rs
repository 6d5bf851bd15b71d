//! What slots held when they were given up, saved and restored.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const PREFIXES: PrefixRules = PrefixRules {
    bytes_max: 1024 * 1024,
    ..NO_PREFIXES
};
/// One slot: every other prompt overwrites it.
const NARROW: Shape = Shape {
    sequences: 1,
    ..SHAPE
};

fn keeping(shape: Shape) -> (Bench, Arc<AtomicUsize>) {
    let mut saves = Arc::default();
    let bench = Bench::keeping(shape, PREFIXES, |decoder| {
        saves = Arc::clone(&decoder.saves)
    });
    (bench, saves)
}

/// Computed and cached tokens of a prompt that is asked and answered.
fn costs(bench: &mut Bench, team: &str, prompt: &str) -> (usize, u32) {
    let before = computed(bench);
    let mut stream = bench.ask_with(prompt, |request| {
        request.team = Some(team.into());
        request.output_max = 1;
    });
    bench.run();
    let read = read(&mut stream);
    assert_eq!(read.error, None);
    assert_eq!(
        read.text,
        prompt[..1],
        "what its script says, whatever was restored"
    );
    (computed(bench) - before, read.usage.cached_tokens.0)
}

#[test]
fn an_overwritten_prompt_is_restored_and_only_its_tail_computed() {
    let (mut bench, saves) = keeping(NARROW);
    let system = "s".repeat(150);
    assert_eq!(costs(&mut bench, "red", &format!("{system}one>")), (154, 0));
    assert_eq!(
        costs(&mut bench, "red", &format!("{}>", "x".repeat(90))),
        (91, 0)
    );
    assert_eq!(costs(&mut bench, "red", &format!("{system}two>")), (4, 150));
    assert_eq!(saves.load(Ordering::Relaxed), 2, "each was saved once");
    // The same again and again: there is nothing new to save.
    for _ in 0..3 {
        assert_eq!(
            costs(&mut bench, "red", &format!("{}>", "x".repeat(90))),
            (1, 90)
        );
        assert_eq!(costs(&mut bench, "red", &format!("{system}two>")), (4, 150));
    }
    assert_eq!(saves.load(Ordering::Relaxed), 2);
}

#[test]
fn what_one_team_computed_is_not_restored_for_another() {
    let (mut bench, _) = keeping(NARROW);
    let prompt = format!("{}>", "s".repeat(150));
    for (team, cached) in [
        ("red", 0),
        ("blue", 0),
        ("red", 150),
        ("blue", 150),
        ("green", 0),
    ] {
        assert_eq!(costs(&mut bench, team, &prompt).1, cached, "{team}");
    }
}

#[test]
fn under_the_global_scope_all_teams_share_slots_and_states() {
    let prefixes = PrefixRules {
        scope: PrefixScope::Global,
        ..PREFIXES
    };
    let mut bench = Bench::keeping(NARROW, prefixes, |_| ());
    let prompt = format!("{}>", "s".repeat(150));
    assert_eq!(costs(&mut bench, "red", &prompt).1, 0);
    assert_eq!(costs(&mut bench, "blue", &prompt).1, 150, "out of the slot");
    costs(&mut bench, "green", &format!("{}>", "x".repeat(90)));
    assert_eq!(costs(&mut bench, "blue", &prompt).1, 150, "restored");
}

#[test]
fn short_prompts_are_not_saved() {
    let (mut bench, saves) = keeping(NARROW);
    for letter in ["a", "b", "a"] {
        assert_eq!(
            costs(&mut bench, "red", &format!("{}>", letter.repeat(60))).1,
            0
        );
    }
    assert_eq!(saves.load(Ordering::Relaxed), 0);
}

#[test]
fn what_another_slot_still_holds_is_not_saved() {
    let (mut bench, saves) = keeping(Shape {
        sequences: 2,
        ..SHAPE
    });
    let system = "s".repeat(150);
    let mut both = ["1>", "2>"]
        .map(|tail| bench.ask_with(&format!("{system}{tail}"), |request| request.output_max = 1));
    bench.run();
    assert!(both.iter_mut().all(|stream| read(stream).error.is_none()));
    // Takes the place of one of them; the other has the beginning still.
    let mut third = bench.ask_with(&"x".repeat(90), |request| request.output_max = 1);
    bench.run();
    assert_eq!(read(&mut third).error, None);
    assert_eq!(saves.load(Ordering::Relaxed), 0);
}

/// The goal of the whole: one system prompt, fifty questions, a cache too small to keep it by
/// itself.
#[test]
fn a_shared_beginning_is_computed_once_though_others_take_all_room() {
    let (mut bench, _) = keeping(Shape {
        kv_tokens: 256,
        ..SHAPE
    });
    let system = "s".repeat(150);
    let before = computed(&bench);
    for n in 0..50 {
        costs(&mut bench, "red", &format!("{system}{n}>"));
        // Needs all there is.
        let other = String::from(char::from(b'a' + n % 16)).repeat(240);
        costs(&mut bench, "blue", &format!("{other}>"));
    }
    let others = 16 * 241 + (50 - 16);
    let tails = 50 * 3;
    let all = computed(&bench) - before;
    assert!(all <= 150 + tails + others, "{all}");
}

/// Seen: cells that a slot shares were counted as free once it forgot them. The state that was to take
/// their place did not fit, and was thrown away as unsound with its file.
#[test]
fn a_state_is_restored_only_where_there_is_room_for_all_of_it() {
    let shape = Shape {
        sequences: 2,
        kv_tokens: 290,
        ..SHAPE
    };
    let (mut bench, _) = keeping(shape);
    let (system, text) = ("s".repeat(100), "t".repeat(80));
    let long = |nth: u32| format!("{system}{text}{nth}>");
    costs(&mut bench, "red", &long(1));
    for letter in ["x", "y"] {
        costs(&mut bench, "red", &format!("{}>", letter.repeat(90)));
    }
    // Paused, with the common beginning.
    bench.events_max = 4;
    let mut paused = bench.ask_with(&format!("{system}{}>", "r".repeat(60)), |request| {
        request.team = Some("red".into());
        request.output_max = 8;
    });
    bench.run();
    bench.events_max = 512;
    assert_eq!(costs(&mut bench, "red", &format!("{system}q>")), (2, 100));
    // The saved state would be 182 tokens beside 164.
    assert_eq!(costs(&mut bench, "red", &long(2)), (82, 100));
    while bench.running() > 0 {
        read_some(&mut paused);
        bench.run();
    }
    // It is still there for when there is room.
    for letter in ["x", "y"] {
        costs(&mut bench, "red", &format!("{}>", letter.repeat(90)));
    }
    assert_eq!(costs(&mut bench, "red", &long(1)).1, 181);
}

#[test]
fn a_chat_that_was_set_back_goes_on_where_it_was() {
    let shape = Shape {
        kv_tokens: 300,
        sequences: 2,
        ..SHAPE
    };
    let (mut bench, _) = keeping(shape);
    let (older, younger) = ("y".repeat(80), "z".repeat(80));
    let (mut old, mut young) = (
        bench.ask(&format!("{older}>")),
        bench.ask(&format!("{younger}>")),
    );
    bench.run();
    // Nothing twice, but for one token in the step in which it was set back.
    assert_eq!(computed(&bench), 2 * (81 + 80) + 1);
    let (old, young) = (read(&mut old), read(&mut young));
    assert_eq!((old.text, young.text), (older, younger));
    // It had computed them itself.
    assert_eq!(young.usage.cached_tokens.0, 0);
}

#[test]
fn a_memory_that_cannot_be_cut_goes_on_from_whole_states_only() {
    let mut bench = Bench::keeping(NARROW, PREFIXES, |decoder| decoder.is_recurrent = true);
    let first = format!("{}>", "s".repeat(100));
    assert_eq!(costs(&mut bench, "red", &first), (101, 0));
    assert_eq!(
        costs(&mut bench, "red", &format!("{}>", "x".repeat(90))).1,
        0
    );
    assert_eq!(
        costs(&mut bench, "red", &format!("{first}s, and more>")),
        (12, 101)
    );
    assert_eq!(
        costs(&mut bench, "red", &format!("{}t>", "s".repeat(100))).1,
        0
    );
}

#[test]
fn a_stop_keeps_what_slots_hold_for_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let prefixes = PrefixRules {
        dir: Some(folder.path().join("m")),
        ..PREFIXES
    };
    let system = "s".repeat(150);
    for cached in [0, 150, 150] {
        let mut bench = Bench::keeping(SHAPE, prefixes.clone(), |_| ());
        assert_eq!(
            costs(&mut bench, "red", &format!("{system}{cached}>")).1,
            cached
        );
        // In mid-prompt, when the stop comes.
        let _running = bench.ask_with(&"x".repeat(200), |request| {
            request.team = Some("red".into());
        });
        bench.step();
        bench.shared.stop();
        assert_eq!(bench.step(), Pace::Stopped);
    }
    let mut bench = Bench::keeping(SHAPE, prefixes, |_| ());
    assert_eq!(costs(&mut bench, "blue", &format!("{system}0>")).1, 0);
    let prompt = format!("{}>", "x".repeat(200));
    let mut half = bench.ask_with(&prompt, |request| {
        request.team = Some("red".into());
        request.output_max = 1;
    });
    bench.run();
    // One more batch of it was computed before each stop.
    assert_eq!(read(&mut half).usage.cached_tokens.0, 3 * 64);
}

/// Seen: a state was read from disk within one step, however long it took, and nobody else got on.
#[test]
fn others_talk_while_a_state_is_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let prefixes = PrefixRules {
        dir: Some(folder.path().join("m")),
        ..PREFIXES
    };
    let prompt = format!("{}>", "s".repeat(150));
    let mut bench = Bench::keeping(SHAPE, prefixes.clone(), |_| ());
    costs(&mut bench, "red", &prompt);
    bench.shared.stop();
    bench.step();

    let mut bench = Bench::keeping(SHAPE, prefixes, |_| ());
    let mut talking = bench.ask(&format!("{}>", "t".repeat(100)));
    bench.run_until_talking();
    let mut reading = bench.ask_with(&prompt, |request| {
        request.team = Some("red".into());
        request.output_max = 1;
    });
    // 151 tokens of four bytes, 16 bytes a step.
    for _ in 0..30 {
        bench.step();
        assert_eq!((bench.last().count(0), bench.last().count(1)), (1, 0));
    }
    while !has_ended(&mut reading) {
        bench.step();
    }
    assert_eq!(bench.last().count(1), 1, "all but the last was restored");
    bench.run();
    assert_said(&mut talking, &"t".repeat(100));
}
