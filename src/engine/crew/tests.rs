use proptest::prelude::*;

use super::*;

/// A machine: what a step takes with so many threads.
type Machine = fn(threads: u32, tokens: u32) -> f64;

const TWO: Threads = Threads {
    count: 2,
    adapts: true,
};

/// As measured, 0.5B on two cores: 43 t/s with two threads, 32 with one.
fn alone(threads: u32, tokens: u32) -> f64 {
    f64::from(tokens.max(2)) / 2.0 * if threads == 2 { 0.023 } else { 0.031 }
}

/// Beside one busy neighbour: 17 and 28.
fn beside_a_neighbour(threads: u32, tokens: u32) -> f64 {
    f64::from(tokens.max(2)) / 2.0 * if threads == 2 { 0.059 } else { 0.036 }
}

/// A crew and the decoder that does as it says.
struct Run {
    crew: Crew,
    now: Instant,
    threads: u32,
    /// Of all steps.
    took_s: f64,
    /// Of those on trial.
    tried_s: f64,
    trials: u32,
    was_on_trial: bool,
}

impl Run {
    fn of(threads: Threads) -> Self {
        Self {
            crew: Crew::new(threads),
            now: Instant::now(),
            threads: threads.count,
            took_s: 0.0,
            tried_s: 0.0,
            trials: 0,
            was_on_trial: false,
        }
    }

    fn step(&mut self, work: Work, tokens: u32, machine: impl Fn(u32, u32) -> f64) {
        if let Some(threads) = self.crew.change(work, self.now) {
            assert!(threads >= 1, "no threads");
            self.threads = threads;
        }
        let took_s = machine(self.threads, tokens);
        let is_on_trial = self.crew.is_on_trial(work);
        if is_on_trial {
            self.tried_s += took_s;
            self.trials += u32::from(!self.was_on_trial);
        }
        self.was_on_trial = is_on_trial;
        self.took_s += took_s;
        let took = Duration::from_secs_f64(took_s);
        self.now += took;
        self.crew.learn(work, tokens, took);
    }

    /// Steps of one reply for so long.
    fn reply_for(&mut self, seconds: f64, machine: Machine) {
        let until = self.took_s + seconds;
        while self.took_s < until {
            self.step(Work::Replies, 1, machine);
        }
    }
}

#[test]
fn a_neighbour_costs_a_thread_within_two_seconds_and_gives_it_back_within_ninety() {
    let mut run = Run::of(TWO);
    run.reply_for(10.0, alone);
    assert_eq!((run.threads, run.trials), (2, 0));
    run.reply_for(2.0, beside_a_neighbour);
    assert_eq!((run.threads, run.trials), (1, 1));
    run.reply_for(600.0, beside_a_neighbour);
    let tried_s = run.tried_s;
    run.reply_for(90.0, alone);
    assert_eq!(run.threads, 2);
    // And stays.
    let trials = run.trials;
    run.reply_for(60.0, alone);
    assert_eq!((run.threads, run.trials), (2, trials));
    // Ten minutes beside it, of which all trials took at most one part in 75.
    assert!(tried_s < 8.0, "{tried_s}");
}

#[test]
fn a_machine_that_was_never_quiet_is_known_by_its_quickest_step() {
    let mut run = Run::of(TWO);
    let mut count = 0_u32;
    for _ in 0..60 {
        count += 1;
        // The neighbour sleeps now and then.
        let is_alone = count.is_multiple_of(10);
        let machine = if is_alone { alone } else { beside_a_neighbour };
        run.step(Work::Replies, 1, machine);
    }
    assert_eq!(run.threads, 1);
}

#[test]
fn what_fewer_threads_do_not_help_is_tried_ever_more_rarely() {
    // All steps become slow for another reason, such as a long text.
    let mut run = Run::of(TWO);
    run.reply_for(5.0, alone);
    let deep: Machine = |threads, tokens| alone(threads, tokens) * 1.8;
    run.reply_for(600.0, deep);
    assert_eq!(run.threads, 2);
    assert!((1..=6).contains(&run.trials), "{}", run.trials);
    assert!(run.tried_s < run.took_s / 150.0, "{}", run.tried_s);
}

#[test]
fn a_trial_with_long_steps_ends_as_soon_as_it_is_lost() {
    let mut run = Run::of(TWO);
    // Slices of a prompt, ever slower the longer the text before them.
    let mut depth = 0.0;
    while run.trials == 0 {
        depth += 0.02;
        run.step(Work::Prompts, 48, |threads, _| {
            0.4 * (1.0 + depth) / f64::from(threads)
        });
        assert!(depth < 4.0, "no trial");
    }
    while run.was_on_trial {
        run.step(Work::Prompts, 48, |threads, _| {
            0.4 * (1.0 + depth) / f64::from(threads)
        });
    }
    assert_eq!(run.threads, 2);
    // Two steps of it, not eight.
    let step_s = 0.4 * (1.0 + depth);
    assert!(run.tried_s < 2.5 * step_s, "{}", run.tried_s);
}

#[test]
fn prompts_and_replies_are_counted_apart() {
    let mut run = Run::of(TWO);
    let busy_for_replies = |run: &mut Run, seconds: f64, replies: Machine| {
        let until = run.took_s + seconds;
        let mut seen = [0, 0];
        while run.took_s < until {
            run.step(Work::Replies, 4, replies);
            seen[0] = run.threads;
            run.step(Work::Prompts, 64, alone);
            seen[1] = run.threads;
        }
        seen
    };
    assert_eq!(busy_for_replies(&mut run, 20.0, alone), [2, 2]);
    assert_eq!(busy_for_replies(&mut run, 60.0, beside_a_neighbour), [1, 2]);
}

#[test]
fn steps_of_another_size_are_no_slow_steps() {
    let mut run = Run::of(TWO);
    for _ in 0..200 {
        run.step(Work::Replies, 1, alone);
    }
    for tokens in (1..=40).cycle().take(800) {
        run.step(Work::Replies, tokens, alone);
    }
    assert_eq!((run.threads, run.trials), (2, 0));
}

#[test]
fn one_thread_is_left_alone() {
    let fixed = Threads {
        count: 8,
        adapts: false,
    };
    let one = Threads {
        count: 1,
        adapts: true,
    };
    for threads in [fixed, one] {
        let mut crew = Crew::new(threads);
        let now = Instant::now();
        for step in 0..2_000_u32 {
            let work = if step.is_multiple_of(5) {
                Work::Prompts
            } else {
                Work::Replies
            };
            assert_eq!(crew.change(work, now), None);
            assert!(!crew.is_on_trial(work));
            let slow = if step < 500 { 20 } else { 400 };
            crew.learn(work, 1, Duration::from_millis(slow));
        }
    }
}

#[test]
fn several_neighbours_take_several_threads() {
    // Eight cores; a computation waits unless each thread has one of its own.
    let eight = |neighbours: u32| {
        move |threads: u32, _tokens: u32| {
            let own = 0.16 / f64::from(threads);
            if threads + neighbours <= 8 {
                own
            } else {
                own * 2.5
            }
        }
    };
    let mut run = Run::of(Threads {
        count: 8,
        adapts: true,
    });
    (0..500).for_each(|_| run.step(Work::Replies, 1, eight(0)));
    assert_eq!(run.threads, 8);
    let mut least = 8;
    for _ in 0..8_000 {
        run.step(Work::Replies, 1, eight(3));
        if !run.was_on_trial {
            least = least.min(run.threads);
        }
    }
    assert!((4..=5).contains(&least), "{least}");
    (0..20_000).for_each(|_| run.step(Work::Replies, 1, eight(0)));
    assert_eq!(run.threads, 8);
}

#[test]
fn after_a_pause_a_trial_is_not_gone_on_with() {
    let mut run = Run::of(TWO);
    run.reply_for(5.0, alone);
    while !run.crew.is_on_trial(Work::Replies) {
        run.step(Work::Replies, 1, beside_a_neighbour);
    }
    run.step(Work::Replies, 1, beside_a_neighbour);
    run.now += PAUSE;
    assert_eq!(run.crew.change(Work::Replies, run.now), Some(2));
    assert!(!run.crew.is_on_trial(Work::Replies));
}

proptest! {
    /// Whatever steps take: all trials but the last take at most one part in 33 of all computing,
    /// and the number of threads is one of those that are allowed.
    #[test]
    fn trials_are_rare_whatever_happens(
        count in 1_u32..9,
        steps in prop::collection::vec((1_u32..70, 1_u32..400), 1..3_000),
    ) {
        let mut run = Run::of(Threads { count, adapts: true });
        let mut last_s = 0.0;
        let mut before = 0.0;
        for (tokens, ms) in steps {
            let was = run.trials;
            let tried_s = run.tried_s;
            run.step(Work::Replies, tokens, |_, _| f64::from(ms) / 1_000.0);
            if run.trials > was {
                before = tried_s;
            }
            last_s = run.tried_s - before;
            prop_assert!((1..=count).contains(&run.threads));
        }
        let bound = run.took_s / (1.0 + REST) + 1e-6;
        prop_assert!(run.tried_s - last_s <= bound, "{} of {}", run.tried_s, run.took_s);
    }
}
